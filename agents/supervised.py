"""Next-token training of a language model on prompt/target pairs, resumable to the same weights."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from agents.averaging import WeightAverage
from agents.muon import Muon
from tw_env.decoding.conventions import conventions_of

Targets = Sequence[Sequence[int]]
"""Token ids of the right answers to one prompt, end token included; one of them is drawn per epoch."""

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of one right answer to it."""

MICRO_BATCHES = 4  # per update, for any number of workers
NEARLY = 8  # prompts whose lengths differ by less share batches, which are then of similar targets


@dataclass(frozen=True)
class SupervisedConfig:
    """How long and how fast to train."""

    steps: int
    """Updates in all."""
    decay_steps: int
    """Last updates, over which the learning rate falls linearly to zero; until then it is constant, so a
    checkpoint from before the fall may be continued with another number of `steps`."""
    batch_size: int = 256
    """Prompts per update."""
    learning_rate: float = 4e-3
    """Peak step size, in units of an Adam update."""
    embedding_rate: float = 1.0
    """Factor on it for embeddings and head; those of T5 begin with a deviation of 1, all others much nearer to 0."""
    warmup: int = 100
    """Updates during which the learning rate rises linearly."""
    weight_decay: float = 0.1
    """Decoupled decay of the weight matrices, times the learning rate."""
    ema_decay: float = 0.99
    """Decay of the moving average of the weights; the average is what training returns."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    muon: bool = True
    """Orthogonalise the updates of the hidden matrices (Muon); AdamW everywhere otherwise."""
    seed: int = 0
    """Seed of the order of the prompts and of the draw among right answers."""
    checkpoint_every: int = 200
    """Updates between two checkpoints."""


def make_optimizers(model: nn.Module, config: SupervisedConfig, pool: Executor) -> list[torch.optim.Optimizer]:
    """AdamW for embeddings, head and vectors, Muon (or AdamW) for the hidden matrices."""
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    hidden, embeddings, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif id(parameter) in looked_up or "lm_head" in name:
            embeddings.append(parameter)
        else:
            hidden.append(parameter)
    groups = [
        {"params": embeddings, "weight_decay": config.weight_decay, "rate": config.embedding_rate},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if not config.muon:
        groups.append({"params": hidden, "weight_decay": config.weight_decay})
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-8)
    ]
    if config.muon:
        optimizers.append(Muon(hidden, config.learning_rate, 0.95, config.weight_decay, pool))
    return optimizers


def epoch_batches(
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Targets],
    batch_size: int,
    seed: int,
    epoch: int,
    apart: bool = False,
) -> list[list[Row]]:
    """One pass over the prompts in random batches of similar lengths, one right answer drawn for each.

    Args:
        apart: prompts and targets are padded apart, as for encoder-decoders, so both shall be of similar lengths; else
            the two together.
    """
    rng = np.random.default_rng([seed, epoch])
    chosen = [answers[int(rng.integers(len(answers)))] for answers in targets]
    order = rng.permutation(len(prompts))
    read = np.array([len(prompts[i]) for i in order])
    written = np.array([len(chosen[i]) for i in order])
    keys = (written, read // NEARLY) if apart else (read + written,)  # the last key counts first
    order = order[np.lexsort(keys)]  # random among equals
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [[(prompts[i], chosen[i]) for i in batches[j]] for j in rng.permutation(len(batches))]


def collate(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Padded inputs and labels, both (rows, length); labels are -100 except where a target token comes next.

    Padding stands on the right, where a causal model never looks, so no mask and no pad id is needed.
    """
    length = max(len(prompt) + len(target) for prompt, target in rows) - 1
    inputs = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), -100)
    for i, (prompt, target) in enumerate(rows):
        text = torch.tensor([*prompt, *target])
        inputs[i, : len(text) - 1] = text[:-1]
        labels[i, len(prompt) - 1 : len(text) - 1] = text[len(prompt) :]
    return inputs, labels


def collate_sources(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """What an encoder reads, padded on the right, and its mask (1 where a token stands), both (rows, length)."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    sources = torch.zeros_like(mask)
    for i, prompt in enumerate(prompts):
        sources[i, : len(prompt)] = torch.tensor(prompt)
    return sources, mask


def target_loss(model: PreTrainedModel, inputs: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the target tokens, in nats; the head runs only where it is needed."""
    hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state  # (rows, length, width)
    wanted = labels != -100
    logits = model.get_output_embeddings()(hidden[wanted]).float()  # (target tokens, vocab)
    return functional.cross_entropy(logits, labels[wanted])


def rows_loss(model: PreTrainedModel, rows: Sequence[Row]) -> Tensor:
    """As `target_loss`, of a causal model or an encoder-decoder, which reads prompts with its encoder.

    An encoder-decoder's targets follow its opening, see `tw_env.decoding.conventions`; an end token that the encoder
    shall read is part of the prompt.
    """
    if not model.config.is_encoder_decoder:
        inputs, labels = (tensor.to(model.device) for tensor in collate(rows))
        return target_loss(model, inputs, labels)
    opening = conventions_of(model).opening
    read = collate_sources([prompt for prompt, _ in rows])
    written = collate([(opening, target) for _, target in rows])
    sources, mask, inputs, labels = (tensor.to(model.device) for tensor in (*read, *written))
    output = model(input_ids=sources, attention_mask=mask, decoder_input_ids=inputs, use_cache=False)
    return functional.cross_entropy(output.logits.flatten(0, 1).float(), labels.flatten())


def rate_factor(step: int, config: SupervisedConfig) -> float:
    """Factor on the learning rate: up over the warm-up, constant, then down to zero in `decay_steps`."""
    return min((step + 1) / max(config.warmup, 1), 1.0, (config.steps - step) / max(config.decay_steps, 1))


def may_continue(old: SupervisedConfig, new: SupervisedConfig, step: int) -> bool:
    """Whether a checkpoint of `old` at `step`, continued with `new`, gives what `new` alone would."""
    length = {"steps": new.steps, "decay_steps": new.decay_steps, "checkpoint_every": new.checkpoint_every}
    if asdict(old) | length != asdict(new):
        return False
    return (old.steps, old.decay_steps) == (new.steps, new.decay_steps) or all(
        step <= config.steps - config.decay_steps for config in (old, new)
    )


class Trainer:
    """Training of one model without dropout, with everything that a resumed run needs.

    Args:
        model: a causal language model or an encoder-decoder; its weights are trained in place, and `average` follows.
        prompts: token ids of each prompt.
        targets: the right answers to each prompt, same order.
        config: how long and how fast.
        folder: where the checkpoint lives; a run that finds one there continues it.
        workers: threads that share the work of an update; the result doesn't depend on their number.

    Raises:
        ValueError: prompts and targets differ in number, there are none, or the checkpoint in `folder` comes
            from another configuration.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        targets: Sequence[Targets],
        config: SupervisedConfig,
        folder: Path,
        workers: int = 1,
    ) -> None:
        if not prompts or len(prompts) != len(targets):
            raise ValueError(
                f"Expected as many targets as prompts, at least one, got {len(targets)} targets for "
                f"{len(prompts)} prompts."
            )
        self.model, self.prompts, self.targets, self.config = model, prompts, targets, config
        self.folder = folder
        self.checkpoint = folder / "checkpoint.pt"
        self.average = WeightAverage(model)
        self.pool = ThreadPoolExecutor(workers)
        self.optimizers = make_optimizers(model, config, self.pool)
        self.step = 0
        self.cpu_seconds = 0.0
        if self.checkpoint.is_file():
            self._restore()

    def _restore(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True, map_location=self.model.device)
        if not may_continue(SupervisedConfig(**json.loads(state["config"])), self.config, state["step"]):
            raise ValueError(
                f"Expected the checkpoint {self.checkpoint} to come from {asdict(self.config)}, got one from "
                f"{state['config']}; choose another folder, or delete it to start afresh."
            )
        self.model.load_state_dict(state["model"])
        self.average.weights = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.cpu_seconds = state["step"], state["cpu_seconds"]

    def save(self) -> None:
        """Write the checkpoint atomically: a run killed at any moment leaves the old one or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "config": json.dumps(asdict(self.config)),
            "model": self.model.state_dict(),
            "average": self.average.weights,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "cpu_seconds": self.cpu_seconds,
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    def _batches(self) -> Iterator[list[Row]]:
        """Batches from the current step on: their order depends on the seed and the epoch alone."""
        size, apart = self.config.batch_size, self.model.config.is_encoder_decoder
        epoch, skip = divmod(self.step, math.ceil(len(self.prompts) / size))
        while True:
            batches = epoch_batches(self.prompts, self.targets, size, self.config.seed, epoch, apart)
            yield from batches[skip:]
            epoch, skip = epoch + 1, 0

    def _update(self, rows: Sequence[Row]) -> float:
        factor = rate_factor(self.step, self.config)
        loss = self._accumulate(rows)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * group.get("rate", 1.0) * factor
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.average.follow(self.model, self.step, self.config.ema_decay)
        return loss

    def _accumulate(self, rows: Sequence[Row]) -> float:
        """Set the gradient of the batch's mean loss, from micro-batches that free workers take one by one.

        Workers of one thread each share a busy machine better than threads inside every operation do. The sum
        runs in a fixed order, so the result doesn't depend on their number.
        """
        tokens = sum(len(target) for _, target in rows)
        parameters = list(self.model.parameters())

        def part(micro: Sequence[Row]) -> tuple[float, tuple[Tensor, ...]]:
            weight = sum(len(target) for _, target in micro) / tokens
            loss = rows_loss(self.model, micro) * weight
            return loss.item(), torch.autograd.grad(loss, parameters)

        size = math.ceil(len(rows) / MICRO_BATCHES)
        parts = self.pool.map(part, [rows[i : i + size] for i in range(0, len(rows), size)])
        total = 0.0
        for loss, gradients in parts:
            total += loss
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return total

    def run(
        self, report: Callable[["Trainer", float], None] | None = None, until: int | None = None
    ) -> PreTrainedModel:
        """Train to the last step (or only to step `until`) and return the model with its averaged weights.

        Args:
            report: called at every checkpoint with the trainer and the mean loss since the last one, in nats.
            until: stop after this many updates in all, leaving a checkpoint.
        """
        last = min(self.config.steps, until or self.config.steps)
        losses: list[float] = []
        self.model.train()
        for rows in self._batches():
            if self.step >= last:
                break
            start = time.process_time()
            losses.append(self._update(rows))
            self.cpu_seconds += time.process_time() - start
            if self.step % self.config.checkpoint_every == 0 or self.step == last:
                self.save()
                if report is not None:
                    report(self, float(np.mean(losses)))
                losses = []
        return self.averaged()

    def averaged(self) -> PreTrainedModel:
        """A copy of the model with the averaged weights, in evaluation mode."""
        return self.average.applied(self.model)
