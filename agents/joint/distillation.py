"""Distillation of a student, one loop for every loss: the same data, updates and teacher tokens, another loss.

Texts are gold, written by the teacher beforehand (`ScoredTexts`), or the student's own, sampled at each update and
scored by the teacher. Losses on stored texts need no live teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from agents.averaging import WeightAverage
from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.joint.distillation_config import DistillationConfig, DistillationData
from agents.joint.objective import Loss, Numbers, Part, Settings, objective, value_loss
from agents.joint.reading import Texts, log_distributions, states
from agents.joint.sampling import Writer
from agents.joint.teacher import ScoredTexts, Teacher, joined
from agents.joint.values import ValueHead
from agents.supervised import Targets, epoch_batches, make_optimizers, rate_factor

Log = Callable[[int, Numbers], object]


class Distillation:
    """Training of one student with one loss.

    Args:
        student: a causal model, trained in place; `averaged` returns its moving average.
        data: prompts and stored texts. config: the loss and the rest.
        teacher: scores the student's own texts; not needed where there are none.
        folder: where the checkpoint lives; a run that finds one there goes on from it. None keeps none.

    Attributes:
        update: how many updates are done. teacher_tokens: what the teacher read for the texts that were learnt from,
            stored ones included, each stored text once.

    Raises:
        ValueError: settings and data that don't fit, or a checkpoint of other settings in `folder`.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        data: DistillationData,
        config: DistillationConfig,
        teacher: Teacher | None = None,
        folder: Path | None = None,
    ) -> None:
        config.check()
        data.check(config, teacher)
        self.student, self.data, self.config, self.teacher, self.folder = student, data, config, teacher, folder
        student.eval().requires_grad_(True)  # no dropout: log p_S is that of the model which samples
        longest = max(map(len, data.prompts))
        self._writer = Writer(
            student, longest, data.max_new_tokens, data.end_tokens, data.vocabulary, config.batch
        )  # before the first update: a session proves itself on the weights that it first sees
        self._settings = Settings(config.loss, config.beta, config.path_lengths)
        self._recipe = config.recipe()
        self.value = ValueHead(student.get_input_embeddings().embedding_dim, seed=config.seed)
        self.value.to(student.device, student.dtype)
        self._pool = ThreadPoolExecutor(1)
        self._optimizers = make_optimizers(student, self._recipe, self._pool)
        self._value_optimizer = torch.optim.Adam(self.value.parameters(), config.value_lr)
        self._average = WeightAverage(student)
        self._seen: set[int] = set()  # stored texts that were counted
        self.teacher_tokens = 0
        self.update = 0 if folder is None else load_checkpoint(folder, self._state, self._restore)

    def run(self, log: Log | None = None, until: int | None = None) -> PreTrainedModel:
        """Train to the last update (or only to `until`) and return the student with its averaged weights."""
        last = min(self.config.updates, self.config.updates if until is None else until)
        for prompts in self._batches():
            if self.update >= last:
                break
            numbers = self._step(prompts)
            self.update += 1
            if self.folder is not None and (self.update % self.config.checkpoint_every == 0 or self.update == last):
                save_checkpoint(self.folder, self.update, self._state())
            if log is not None:
                log(self.update, numbers)
        return self.averaged()

    def averaged(self) -> PreTrainedModel:
        """A copy of the student with the averaged weights."""
        return self._average.applied(self.student).requires_grad_(False)

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        """Prompts of each update from the current one on; prompts of a batch have similar lengths."""
        size = self.config.batch // self.config.texts_per_prompt
        places: list[Targets] = [[[i]] for i in range(len(self.data.prompts))]  # each prompt's only "answer": its place
        per_epoch = -(-len(places) // size)
        epoch, skip = divmod(self.update, per_epoch)
        while True:
            batches = epoch_batches(self.data.prompts, places, size, self.config.seed, epoch)
            for batch in batches[skip:]:
                yield np.array([place for _, (place,) in batch])
            epoch, skip = epoch + 1, 0

    def _texts(self, prompts: NDArray[np.int64]) -> tuple[Texts, Part]:
        """The texts of one update, the student's own ones first, and the same for the loss."""
        config, device = self.config, self.student.device
        generator = np.random.default_rng([config.seed, self.update])
        rows = np.repeat(np.arange(len(prompts)), config.texts_per_prompt)  # prompt of each text
        others = round((1.0 - config.own_share) * len(rows))
        stored = generator.permutation(len(prompts))[:others]  # at most one for each prompt
        mine = np.delete(rows, config.texts_per_prompt * stored)
        if config.loss is Loss.SUPERVISED:
            assert self.data.gold is not None
            answers = [self.data.gold[i] for i in prompts[stored]]
            gold = [answer[int(generator.integers(len(answer)))] for answer in answers]
            texts, scores = Texts([self.data.prompts[i] for i in prompts[stored]], gold), None
        else:
            parts = [*self._own(prompts[mine], generator), *self._stored(prompts[stored])]
            found = joined(parts)
            texts, scores = found.texts, found.scores.to(device)
        group = torch.from_numpy(np.concatenate([mine, stored])).to(device)
        own = torch.arange(len(texts), device=device) < len(mine)
        laid = texts.tokens.to(device), texts.starts.to(device), texts.of_step.to(device)
        return texts, Part(*laid, own, group, len(prompts), scores)

    def _own(self, prompts: NDArray[np.int64], generator: np.random.Generator) -> list[ScoredTexts]:
        if not prompts.size:
            return []
        assert self.teacher is not None
        drawn = self._writer.sample([self.data.prompts[i] for i in prompts], generator, self.config.temperature)
        self.teacher_tokens += drawn.read_tokens
        return [self.teacher.score(drawn)]

    def _stored(self, prompts: NDArray[np.int64]) -> list[ScoredTexts]:
        if not prompts.size:
            return []
        assert self.data.stored is not None
        fresh = [i for i in prompts.tolist() if i not in self._seen]
        self._seen.update(fresh)
        self.teacher_tokens += self.data.stored.texts.take(fresh).read_tokens
        return [self.data.stored.take(prompts)]

    def _step(self, prompts: NDArray[np.int64]) -> Numbers:
        texts, part = self._texts(prompts)
        hidden = states(self.student, texts)
        logprobs = log_distributions(self.student, hidden, self.data.vocabulary)
        learns_value = self.config.learns_value
        values = self.value(hidden.detach()).float() if learns_value else hidden.new_zeros(len(hidden))
        loss, numbers = objective(self._settings, logprobs, values, part)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), self.config.clip)
        factor = rate_factor(self.update, self._recipe)
        optimizers = [(optimizer, self.config.learning_rate) for optimizer in self._optimizers]
        if learns_value:
            nn.utils.clip_grad_norm_(self.value.parameters(), self.config.clip)
            optimizers.append((self._value_optimizer, self.config.value_lr))
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()
        self._average.follow(self.student, self.update + 1, self.config.ema_decay)
        if learns_value and part.own.any():
            self._fit_value(hidden.detach(), logprobs.detach(), part)
        return {"loss": loss.item(), "teacher_tokens": float(self.teacher_tokens), **numbers}

    def _fit_value(self, hidden: Tensor, logprobs: Tensor, part: Part) -> None:
        """After the student's step, so that the baseline of a text never knows how that text went on."""
        for _ in range(self.config.value_steps):
            loss = value_loss(self._settings, logprobs, self.value(hidden).float(), part)
            loss.backward()
            self._value_optimizer.step()
            self._value_optimizer.zero_grad()

    def _state(self) -> dict[str, Any]:
        config = {**asdict(self.config), "loss": str(self.config.loss)}
        return {
            "config": config,
            "student": self.student.state_dict(),
            "average": self._average.weights,
            "value": self.value.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in (*self._optimizers, self._value_optimizer)],
            "seen": np.array(sorted(self._seen), np.int64),
            "teacher_tokens": self.teacher_tokens,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self._average.weights = state["average"]
        self.value.load_state_dict(state["value"])
        for optimizer, saved in zip((*self._optimizers, self._value_optimizer), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._seen, self.teacher_tokens = set(state["seen"].tolist()), int(state["teacher_tokens"])
