"""A causal teacher fine-tuned on a task, and a student of some of its layers distilled from it; stopped runs go on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from agents.checkpoint import FILE
from agents.joint.distillation import Distillation
from agents.joint.distillation_config import DistillationConfig, DistillationData
from agents.joint.sampling import Writer
from agents.joint.teacher import ScoredTexts, Teacher, joined
from agents.supervised import SupervisedConfig, Targets, Trainer
from scripts.answers import answers
from scripts.export import export
from scripts.layers import reduced
from scripts.smollm2_source import sha256_of
from tw_env.decoding.checks import end_tokens_of, shared_vocabulary
from tw_env.decoding.loading import Pair
from tw_env.settings import encode_prompts
from tw_env.tasks.metrics import CorpusScore, corpus
from tw_env.tasks.task import Task

METRIC = "rougeL"
"""What a model is judged by on the way."""
MODEL = "model"  # folder of a model in that of its work
SETTINGS, SPENT, TOOK = "settings.json", "spent.json", "took.json"  # beside it
WRITTEN_AT_ONCE = 256  # texts between two files of a teacher's texts
SIDE_BY_SIDE = 32  # texts that are written together
REPORTED = 20  # updates of the student between two lines


def read_model(name: str, device: torch.device) -> PreTrainedModel:
    """The causal model at a folder or hub id in single precision, in evaluation mode, to be trained or played."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    return model.eval().to(device)


def twice(model: PreTrainedModel, name: str) -> Pair:
    """The model as its own teacher: what the game's functions need to encode prompts as they will be played."""
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    models, tokenizers, names = (model, model), (tokenizer, tokenizer), (name, name)
    vocabulary = shared_vocabulary(models, tokenizers, names)
    ends = end_tokens_of(models, tokenizers, names, vocabulary)
    return Pair(*models, tokenizer, vocabulary, ends, name)


def judge(model: PreTrainedModel, pair: Pair, task: Task, metrics: Sequence[str]) -> dict[str, CorpusScore]:
    """Corpus scores of greedy outputs, written as in the game."""
    prompts = encode_prompts(task, pair, task.max_new_tokens)
    rows = min(SIDE_BY_SIDE, len(prompts))
    writer = Writer(model, max(map(len, prompts)), task.max_new_tokens, pair.end_tokens, pair.vocabulary, rows)
    texts = pair.tokenizer.batch_decode([list(ids) for ids in writer.greedy(prompts).outputs], skip_special_tokens=True)
    return {name: corpus(name, texts, task.references) for name in metrics}


# ---- the two trainings -------------------------------------------------------------------------------------------


def fine_tune(
    model: PreTrainedModel, pair: Pair, task: Task, watched: Task, config: SupervisedConfig, folder: Path
) -> None:
    """Train the model on a task's references, or continue it from `folder`, and write it to `folder/model`.

    No updates leave it as it is. `watched` are held-out prompts that every checkpoint is judged by.
    """
    if finished(folder, asdict(config), start=pair.name):
        return
    prompts, spent = encode_prompts(task, pair, task.max_new_tokens), Spent(folder)
    targets: list[Targets] = list(answers(task, pair))

    def report(trainer: Trainer, loss: float) -> None:
        score = judge(trainer.averaged(), pair, watched, [METRIC])[METRIC]
        spent.save()
        print(f"teacher {trainer.step}/{config.steps}: loss {loss:.3f}, dev {METRIC} {score}", flush=True)

    if config.steps:
        model = Trainer(model.requires_grad_(True), prompts, targets, config, folder).run(report)
    close(model, pair.tokenizer, folder, config.steps, len(prompts), spent)


def teacher_texts(model: PreTrainedModel, pair: Pair, task: Task, folder: Path, spent: Spent) -> ScoredTexts:
    """The teacher's greedy text for each prompt and its likeliest tokens at every place.

    They are kept in `folder`, so a run that was stopped writes the rest; those of other prompts are written anew.
    """
    prompts = encode_prompts(task, pair, task.max_new_tokens)
    teacher, parts = Teacher(model, pair.vocabulary), []
    for first in range(0, len(prompts), WRITTEN_AT_ONCE):
        wanted, path = prompts[first : first + WRITTEN_AT_ONCE], folder / f"texts-{first:06}.safetensors"
        found = ScoredTexts.load(path) if path.is_file() else None
        if found is None or list(map(tuple, found.texts.prompts)) != list(map(tuple, wanted)):
            rows = min(SIDE_BY_SIDE, len(wanted))
            found = teacher.write(wanted, task.max_new_tokens, pair.end_tokens, rows=rows)
            found.save(path)
            spent.save()
            print(f"the teacher wrote {first + len(wanted)} of {len(prompts)} texts", flush=True)
        parts.append(found)
    return joined(parts)


def distil(
    teacher: PreTrainedModel,
    pair: Pair,
    task: Task,
    watched: Task,
    layers: Sequence[int],
    config: DistillationConfig,
    folder: Path,
) -> None:
    """Distil a student of these layers from the teacher's texts, or go on from `folder`; written to `folder/model`.

    `pair` is the teacher twice, read from the folder that it was written to.
    """
    settings = {**asdict(config), "loss": str(config.loss)}
    if finished(folder, settings, start=pair.name, layers=list(layers), texts=len(task.prompts)):
        return
    spent = Spent(folder)
    stored = teacher_texts(teacher, pair, task, folder, spent)
    student = reduced(teacher, layers)
    data = DistillationData(
        stored.texts.prompts, pair.end_tokens, task.max_new_tokens, stored=stored, vocabulary=pair.vocabulary
    )
    losses: list[float] = []

    def log(update: int, numbers: dict[str, float]) -> None:
        losses.append(numbers["loss"])
        if update % REPORTED == 0 or update == config.updates:
            spent.save()
            print(f"student {update}/{config.updates}: loss {np.mean(losses[-REPORTED:]):.3f}", flush=True)

    trained = Distillation(student, data, config, folder=folder).run(log)
    score = judge(trained, pair, watched, [METRIC])[METRIC]
    print(f"student: dev {METRIC} {score}", flush=True)
    close(trained, pair.tokenizer, folder, config.updates, len(task.prompts), spent)


# ---- what is kept of them ----------------------------------------------------------------------------------------


def finished(folder: Path, config: dict[str, Any], **origin: Any) -> bool:
    """Whether the work in `folder` is done, which is then recorded there as begun from these settings.

    Args:
        config: settings of the training; those of an unfinished one may change as far as its checkpoint allows.
        origin: what may not change, `start` (a folder or hub id) being the first weights.

    Raises:
        ValueError: it comes from others.
    """
    weights = Path(origin["start"]) / "model.safetensors"
    if weights.is_file():
        origin["start"] = sha256_of(weights)
    known = json.loads(json.dumps({**config, **origin}))
    record, done = folder / SETTINGS, (folder / TOOK).is_file()
    if record.is_file():
        found = json.loads(record.read_text(encoding="utf-8"))
        changed = [name for name in (known if done else origin) if known[name] != found.get(name)]
        if changed:
            raise ValueError(
                f"Expected the work in {folder} to come from the same settings and weights; {', '.join(changed)} "
                f"{'differs' if len(changed) == 1 else 'differ'}. Choose another --work-dir, or delete {folder} to "
                "start afresh."
            )
    folder.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return done


class Spent:
    """Processor seconds of all runs that work in a folder, in `folder/spent.json`, up to the last save."""

    def __init__(self, folder: Path) -> None:
        self.path, self.start = folder / SPENT, time.process_time()
        self.before = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else 0.0

    def save(self) -> float:
        """Write the seconds down, and return them."""
        seconds: float = self.before + time.process_time() - self.start
        self.path.write_text(json.dumps(seconds), encoding="utf-8")
        return seconds


def close(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, steps: int, prompts: int, spent: Spent
) -> None:
    """Write weights in half precision, tokenizer and what the training took; the checkpoint is needed no longer."""
    export(model, tokenizer, folder / MODEL)
    took = {"steps": steps, "prompts": prompts, "cpu_minutes": round(spent.save() / 60, 1)}
    (folder / TOOK).write_text(json.dumps(took), encoding="utf-8")
    (folder / FILE).unlink(missing_ok=True)
