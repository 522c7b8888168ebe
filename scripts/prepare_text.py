"""The pairs of translation and summarisation, from the prepared data to models with cards; a stopped run continues."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from agents.supervised import SupervisedConfig, Targets
from scripts.debian_data import LEAD, METRICS
from scripts.text_card import Judged, complaints, judged, read_meta, ship, write_card
from scripts.text_pair import (
    COPYING,
    MAIN,
    MODEL,
    ModelRecipe,
    beginnings,
    encode,
    evaluate,
    tokenizer_of,
    train,
    written_by,
)
from tw_env.decoding.latency import measure
from tw_env.decoding.loading import load_pair, resolve_device
from tw_env.tasks import summarize, translate
from tw_env.tasks.metrics import corpus
from tw_env.tasks.prepared import SUMMARIZE, debian_folder
from tw_env.tasks.shipped import DATA, ShippedPair
from tw_env.tasks.text import TextPairs

COPYING_RATE = 4e-3
OF_THE_TEXTS = ("pair", "vocabulary", "limit", "seed")  # settings that a card names where they aren't the usual ones
WATCHED = 300  # prompts of dev that a checkpoint is judged by


@dataclass
class TextPair(ABC):
    """Tokenizer, teacher and a student distilled from its outputs; shipped only if they are worth playing with."""

    task: ClassVar[str]
    work_dir: Path | None = None
    """Where tokenizer, checkpoints, the teacher's outputs and the models live; None takes runs/prepare-TASK, with the
    languages behind it where they aren't the usual ones."""
    out: Path | None = None
    """Where a pair that is fit to be shipped is copied, into TASK/student and TASK/teacher; None takes the package for
    the pair that it comes with, and shipped/ in the work folder for other languages and where a --limit is set."""
    parts: tuple[Literal["teacher", "student", "cards", "latency"], ...] = ("teacher", "student", "cards", "latency")
    """What to make, each from those before it; cards judges both models and ships them, latency times the shipped."""
    vocabulary: int = 6144
    """Tokens of the tokenizer."""
    copying_steps: int = 250
    """First updates of both models, in which they copy the beginnings of the texts that they read: a model that can
    look back into its source learns the rest much sooner."""
    teacher_steps: int = 3000
    """Updates of the teacher."""
    teacher_decay: int = 1500
    """Last updates of the teacher, over which the learning rate falls to zero."""
    student_steps: int = 4000
    """Updates of the student."""
    student_decay: int = 2000
    """Last updates of the student, over which the learning rate falls to zero."""
    batch_size: int = 128
    """Prompts per update."""
    checkpoint_every: int = 100
    """Updates between two checkpoints of the teacher; the student has twice as many."""
    limit: int | None = None
    """Only the first so many prompts of each part, to try the recipe; None takes all."""
    seed: int = 0
    """Seed of the first weights and of the order of the prompts."""
    workers: int = 1
    """Threads that share an update; the weights don't depend on their number."""
    device: str = "auto"
    """auto, cpu or cuda: where the models are trained."""

    @abstractmethod
    def data(self, split: str) -> TextPairs:
        """A part of the prepared data."""

    @property
    @abstractmethod
    def prepared(self) -> str:
        """The name that the data were prepared under."""

    @property
    def usual(self) -> bool:
        """Whether the data are those of the pair that the package comes with."""
        return True

    @property
    def work(self) -> Path:
        """Where everything lives before it is shipped."""
        if self.work_dir is not None:
            return self.work_dir
        return Path(f"runs/prepare-{self.task}" + ("" if self.usual else f"-{self.prepared}"))

    @property
    def shipped(self) -> ShippedPair:
        """Where the pair is copied if it is fit for it."""
        own = DATA if self.usual and self.limit is None else self.work / "shipped"
        return ShippedPair((self.out or own) / self.task)

    def recipes(self) -> dict[str, ModelRecipe]:
        """Teacher and student."""
        shared: dict[str, Any] = {"batch_size": self.batch_size, "seed": self.seed}
        teacher = SupervisedConfig(
            self.teacher_steps, self.teacher_decay, learning_rate=2e-3, embedding_rate=20.0, ema_decay=0.99,
            checkpoint_every=self.checkpoint_every, **shared,
        )  # fmt: skip
        student = SupervisedConfig(
            self.student_steps, self.student_decay, learning_rate=4e-3, embedding_rate=20.0, ema_decay=0.99,
            weight_decay=0.0, checkpoint_every=2 * self.checkpoint_every, **shared,
        )  # fmt: skip
        return {
            "teacher": self.teacher_recipe(teacher),
            "student": ModelRecipe("student", 128, 2, 1, heads=4, intermediate=256, training=student),
        }

    def teacher_recipe(self, training: SupervisedConfig) -> ModelRecipe:
        """Eight million parameters."""
        return ModelRecipe("teacher", 256, 4, 4, heads=4, intermediate=512, training=training)

    def run(self) -> None:
        """Make the wanted parts, in an order that lets each use the one before."""
        torch.set_num_threads(1)  # the trainer's workers share the processor instead
        device = resolve_device(self.device)
        transformers_logging.disable_progress_bar()
        pair, watched = self.data("pair"), self.data("dev")
        tokenizer = tokenizer_of(pair, self.vocabulary, self.work / "tokenizer")
        prompts, references = encode(tokenizer, pair)
        del watched.prompts[WATCHED:], watched.references[WATCHED:]

        def judge(model: PreTrainedModel) -> str:
            scores, nats = evaluate(model, tokenizer, watched, [MAIN[self.task]])
            return f"dev {MAIN[self.task]} {100 * scores[MAIN[self.task]].score:.2f}, nats {nats:.3f}"

        weights = self.work / "teacher" / MODEL
        for role, recipe in self.recipes().items():
            if role not in self.parts:
                continue
            targets: Sequence[Targets] = references
            if role == "student":
                teacher = AutoModelForSeq2SeqLM.from_pretrained(weights, dtype="float32").eval().to(device)
                path = weights / "model.safetensors"
                targets = written_by(teacher, path, prompts, pair.max_new_tokens, self.work / role)
            begun = self.copying(recipe, tokenizer, prompts, judge, device)
            train(recipe, tokenizer, (prompts, targets), judge, self.work / role, self.workers, device, begun)
        if "cards" in self.parts:
            self.finish()
        if "latency" in self.parts:
            self.time(int(np.median([len(ids) for ids in prompts])))

    def copying(
        self,
        recipe: ModelRecipe,
        tokenizer: PreTrainedTokenizerFast,
        prompts: Sequence[Sequence[int]],
        judge: Callable[[PreTrainedModel], str],
        device: torch.device,
    ) -> PreTrainedModel | None:
        """The model that copies; one that stands in the work folder is read. None for no such updates."""
        if not self.copying_steps:
            return None
        steps, decay = self.copying_steps, self.copying_steps // 3
        learning = replace(recipe.training, steps=steps, decay_steps=decay, learning_rate=COPYING_RATE, ema_decay=0.95)
        copies = replace(recipe, role=f"{recipe.role}, copying", training=learning)
        folder, end = self.work / recipe.role / COPYING, tokenizer.convert_tokens_to_ids(tokenizer.eos_token)
        train(copies, tokenizer, (prompts, beginnings(prompts, end)), judge, folder, self.workers, device)
        model: PreTrainedModel = AutoModelForSeq2SeqLM.from_pretrained(folder / MODEL, dtype="float32")
        return model

    def finish(self) -> None:
        """Judge both models on dev and test, write their cards, and ship them if they are fit for it."""
        meta = read_meta(debian_folder(self.prepared))
        parts = {split: self.data(split) for split in ("dev", "test")}
        trivial = {split: self.trivial(task) for split, task in parts.items()}
        models: dict[str, Judged] = {}
        for role, recipe in self.recipes().items():
            folder = self.work / role / MODEL
            models[role] = judged(folder, parts, self.task)
            write_card(folder, recipe, models[role], trivial, meta, self.command(role), self.copying_steps > 0)
            for split, scores in models[role].scores.items():
                print(f"{role}, {split}: " + ", ".join(f"{name} {score}" for name, score in scores.items()))
        found = complaints(self.task, models["teacher"], models["student"], trivial)
        if found:
            print(f"not shipped, the pair stays in {self.work}: " + "; ".join(found))
            return
        ship(self.work, self.shipped.folder)
        print(f"shipped to {self.shipped.folder}")

    def time(self, prompt: int) -> None:
        """Measure the shipped pair's latency table, for prompts of so many tokens; nothing where none was shipped."""
        shipped = self.shipped
        if not shipped.teacher.is_dir():
            print(f"no pair in {shipped.folder}, so no latency to measure")
            return
        table = measure(load_pair(str(shipped.student), str(shipped.teacher), device="cpu"), prompt)
        table.save(shipped.latency)
        print(f"latency at batch 1, one thread: {table}")

    def trivial(self, task: TextPairs) -> dict[str, float]:
        """Scores of what needs no model: the source as its translation, its first words as the summary."""
        lead = LEAD if self.task == SUMMARIZE else None
        texts = [" ".join(prompt.split()[:lead]) if lead else prompt for prompt in task.prompts]
        return {metric: corpus(metric, texts, task.references).score for metric in METRICS[self.task]}

    def command(self, role: str) -> str:
        """What makes a model again."""
        training = self.recipes()[role].training
        wanted = f"--copying-steps {self.copying_steps} "
        wanted += f"--{role}-steps {training.steps} --{role}-decay {training.decay_steps}"
        wanted += f" --batch-size {self.batch_size}"
        for field in fields(self):
            if field.name in OF_THE_TEXTS and (value := getattr(self, field.name)) != field.default:
                wanted += f" --{field.name} {value}"
        return f"python -m scripts.prepare {self.task} {wanted}"


@dataclass
class Translate(TextPair):
    """The pair of the translation task, from the data that `debian --pair` prepared."""

    task: ClassVar[str] = "translate"
    pair: str = translate.PAIR
    """From and to, as the data are named."""
    teacher_steps: int = 1800
    """Updates of the teacher."""
    teacher_decay: int = 1500
    """Last updates of the teacher, over which the learning rate falls to zero."""
    student_steps: int = 1200
    """Updates of the student; it shall stay well below the teacher."""
    student_decay: int = 900
    """Last updates of the student, over which the learning rate falls to zero."""

    def teacher_recipe(self, training: SupervisedConfig) -> ModelRecipe:
        """Six million parameters; narrow and deep, since a token's latency goes with the layers."""
        return ModelRecipe("teacher", 192, 4, 6, heads=4, intermediate=384, training=training)

    def data(self, split: str) -> TextPairs:
        """Texts and their translations."""
        return translate.Translate(self.pair, split, limit=self.limit)

    @property
    def prepared(self) -> str:
        """The languages."""
        return self.pair

    @property
    def usual(self) -> bool:
        """Other languages are another pair of models."""
        return self.pair == translate.PAIR


@dataclass
class Summarize(TextPair):
    """The pair of the summarisation task, from the data that `debian --task summarize` prepared."""

    task: ClassVar[str] = SUMMARIZE
    teacher_steps: int = 1100
    """Updates of the teacher."""
    teacher_decay: int = 900
    """Last updates of the teacher, over which the learning rate falls to zero."""
    student_steps: int = 300
    """Updates of the student; with many more it is as good as the teacher, and sure of what is wrong."""
    student_decay: int = 220
    """Last updates of the student, over which the learning rate falls to zero."""

    def data(self, split: str) -> TextPairs:
        """Paragraphs and their headlines."""
        return summarize.Summarize(split=split, limit=self.limit)

    @property
    def prepared(self) -> str:
        """There is one set of them."""
        return SUMMARIZE
