"""Pairs of encoder-decoders for text tasks: architectures, training, distillation and greedy evaluation."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast, T5Config
from transformers import T5ForConditionalGeneration as T5

from agents.supervised import SupervisedConfig, Targets, Trainer, rows_loss
from scripts.export import export
from scripts.text_tokenizer import build_tokenizer
from tw_env.decoding.session import Session
from tw_env.tasks.metrics import CorpusScore, corpus
from tw_env.tasks.text import TextPairs

Ids = Sequence[int]
SIDE_BY_SIDE = 128  # texts that are written together
WRITTEN_AT_ONCE = 1024  # texts between two looks at the file of a teacher's outputs
MODEL = "model"  # folder of a model in that of its work
TOOK = "took.json"  # beside a model: what its training took
COPYING = "copying"  # folder of the work on a model that only copies yet
COPIED = 12  # tokens
MAIN = {"translate": "chrf", "summarize": "rougeL"}
"""The metric that a task's models are judged by."""


@dataclass(frozen=True)
class ModelRecipe:
    """Size and training of one of the two models."""

    role: str
    width: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    intermediate: int
    training: SupervisedConfig

    def new_model(self, tokenizer: PreTrainedTokenizerBase) -> T5:
        """A freshly initialised model; the same weights for the same seed."""
        config = T5Config(
            vocab_size=len(tokenizer),
            d_model=self.width,
            d_kv=self.width // self.heads,
            d_ff=self.intermediate,
            num_layers=self.encoder_layers,
            num_decoder_layers=self.decoder_layers,
            decoder_layers=self.decoder_layers,  # transformers sizes a decoder's cache by it, or by the encoder
            num_heads=self.heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.training.seed)
            return T5(config)


def tokenizer_of(task: TextPairs, size: int, folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer trained on a part's sources and targets; one that is in `folder` from these texts is read.

    Raises:
        ValueError: the one in `folder` comes from other texts or has another size.
    """
    texts = [*task.prompts, *(text for accepted in task.references for text in accepted)]
    origin = {"size": size, "texts": hashlib.sha256("\n".join(texts).encode()).hexdigest()}
    record = folder / "origin.json"
    if record.is_file():
        if json.loads(record.read_text(encoding="utf-8")) != origin:
            raise ValueError(
                f"Expected the work in {folder.parent} to come from the same texts and size of vocabulary; it comes "
                "from others. Choose another --work-dir, or delete that one to start afresh."
            )
        return PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = build_tokenizer(texts, size)
    tokenizer.save_pretrained(folder)
    record.write_text(json.dumps(origin), encoding="utf-8")
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerBase, task: TextPairs) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Token ids of every prompt and of its references, all closed with the end token; targets up to the cap."""
    prompts = tokenizer(task.prompts).input_ids
    cap = task.max_new_tokens
    return prompts, [[ids[:cap] for ids in tokenizer(accepted).input_ids] for accepted in task.references]


@torch.inference_mode()
def greedy(model: PreTrainedModel, prompts: Sequence[Ids], max_new_tokens: int) -> list[list[int]]:
    """Greedy outputs in the prompts' order, with the end token unless the cap came first."""
    rows = min(SIDE_BY_SIDE, len(prompts))
    session = Session(model, rows, max_new_tokens + 1, prompt_memory=0)
    end = model.config.eos_token_id
    outputs: list[list[int]] = [[] for _ in prompts]
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    for first in range(0, len(order), rows):
        texts = order[first : first + rows]
        places = np.arange(len(texts))
        session.reset(places, [prompts[i] for i in texts])
        following = np.full((len(texts), 1), session.opening[-1])
        for _ in range(max_new_tokens):
            tokens = session.logits(session.append(places, following)[:, -1]).argmax(-1).cpu().numpy()  # (texts,)
            for i, token in zip(texts.tolist(), tokens.tolist(), strict=True):
                outputs[i].append(token)
            going = tokens != end
            places, texts, following = places[going], texts[going], tokens[going, None]
            if not texts.size:
                break
    return outputs


def evaluate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: TextPairs, metrics: Sequence[str]
) -> tuple[dict[str, CorpusScore], float]:
    """Corpus scores of greedy outputs, and nats per token of the first references."""
    prompts, references = encode(tokenizer, task)
    texts = tokenizer.batch_decode(greedy(model, prompts, task.max_new_tokens), skip_special_tokens=True)
    rows = sorted(((p, r[0]) for p, r in zip(prompts, references, strict=True)), key=lambda row: len(row[0]))
    nats = tokens = 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), SIDE_BY_SIDE):
            batch = rows[start : start + SIDE_BY_SIDE]
            count = sum(len(target) for _, target in batch)
            nats, tokens = nats + rows_loss(model, batch).item() * count, tokens + count
    return {name: corpus(name, texts, task.references) for name in metrics}, nats / tokens


def beginnings(prompts: Sequence[Ids], end: int) -> list[Targets]:
    """The first tokens of each prompt, what a model copies while it learns to look back into its source."""
    return [[[*ids[:COPIED], end]] if len(ids) > COPIED else [ids] for ids in prompts]


def train(
    recipe: ModelRecipe,
    tokenizer: PreTrainedTokenizerBase,
    data: tuple[Sequence[Ids], Sequence[Targets]],
    judge: Callable[[PreTrainedModel], str],
    folder: Path,
    workers: int,
    device: torch.device,
    start: PreTrainedModel | None = None,
) -> None:
    """Train one model on a device, or continue it from `folder`, and write its averaged weights to `folder/model`.

    What that took goes to `folder/took.json`: `prompts`, `steps`, `epochs`, `cpu_minutes`.

    Args:
        data: prompts and their right answers as token ids. judge: says in words how good a model is, at checkpoints.
        start: the first weights; None begins from scratch.
    """
    begun = recipe.new_model(tokenizer) if start is None else start
    trainer = Trainer(begun.to(device), *data, recipe.training, folder, workers)
    start, first, last = time.monotonic(), trainer.step, recipe.training.steps

    def report(trainer: Trainer, loss: float) -> None:
        average = trainer.averaged()
        left = (time.monotonic() - start) / (trainer.step - first) * (last - trainer.step)
        print(
            f"{recipe.role} {trainer.step}/{last}: loss {loss:.4f}, {judge(average)}, {trainer.cpu_seconds / 60:.1f} "
            f"processor minutes, {left / 60:.0f} min left",
            flush=True,
        )
        export(average, tokenizer, folder / "latest")

    export(trainer.run(report), tokenizer, folder / MODEL)
    took = {
        "prompts": len(data[0]),
        "steps": trainer.step,
        "epochs": round(trainer.step / math.ceil(len(data[0]) / recipe.training.batch_size), 1),
        "cpu_minutes": round(trainer.cpu_seconds / 60, 1),
    }
    (folder / TOOK).write_text(json.dumps(took), encoding="utf-8")


def written_by(
    teacher: PreTrainedModel, weights: Path, prompts: Sequence[Ids], cap: int, folder: Path
) -> list[Targets]:
    """The teacher's greedy output for each prompt, the target of sequence-level distillation (arXiv 1606.07947).

    They are kept in `folder`, under the hash of the teacher's `weights`, so a run that was stopped goes on.
    """
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    path = folder / f"outputs-{digest}-{len(prompts)}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    found: list[list[int]] = []
    if path.is_file():
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]  # a line that was cut off has no end
        found = [json.loads(line) for line in whole.splitlines()]
        path.write_text("".join(f"{json.dumps(ids)}\n" for ids in found), encoding="utf-8")
    with path.open("a", encoding="utf-8") as lines:
        while len(found) < len(prompts):
            fresh = greedy(teacher, prompts[len(found) : len(found) + WRITTEN_AT_ONCE], cap)
            lines.writelines(f"{json.dumps(ids)}\n" for ids in fresh)
            lines.flush()
            found += fresh
            print(f"the teacher wrote {len(found)} of {len(prompts)} texts", flush=True)
    return [[ids] for ids in found]
