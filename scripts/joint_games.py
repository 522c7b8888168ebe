"""The games of a joint run: of its student on a split, of the pair that training began with, and of one in training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import tw_env
from agents.evaluation import Ends, play_ends
from agents.joint.config import JointConfig
from agents.recording import Recorded
from scripts import runs
from scripts.time_tables import time_table
from tw_env.decoding.loading import register_model
from tw_env.settings import Settings, load_task
from tw_env.tasks.shipped import shipped_pair
from tw_env.vector_env import AssistedDecodingVectorEnv

IN_TRAINING = "memory:joint-student"


@dataclass(kw_only=True)
class GameOptions:
    """The task, the pair, and how games of them are played."""

    task: Literal["pronounce", "translate", "summarize", "text"] = "pronounce"
    """The task; its metric is what asking is worth."""
    student: str | None = None
    """Folder or hub id of the student to begin with, one that asks already (OUT/model) included; None takes the pair
    that ships."""
    original: str | None = None
    """Folder or hub id of the student whose gap to the teacher is recovered; None takes the one that ships, or that of
    --student where a teacher is named, too."""
    teacher: str | None = None
    """Folder or hub id of the teacher."""
    data: str | None = None
    """JSONL with `prompt` and `reference`, or a `datasets` name; for translate also two languages: en-it."""
    metric: str | None = None
    """chrf, bleu, rouge1, rouge2, rougeL, exact or edit; None: exact (text), chrf (translate), rougeL (summarize)."""
    template: str | None = None
    """What models read, with {text} where the text goes; None leaves the wording to the task."""
    limit: int | None = None
    """Only the first so many prompts of every split."""
    judged: int | None = None
    """Only the first so many prompts of the test split."""
    max_new_tokens: int | None = None
    """Cap on new tokens; None takes the task's."""
    play_rows: int = 512
    """Rows of the batched game in evaluation."""
    device: str = "auto"
    """auto, cpu or cuda; with several processes, auto and cuda give each a GPU of its own."""
    config: JointConfig = field(default_factory=JointConfig)
    """Of the training."""


def settings_of(options: GameOptions, split: str | None) -> Settings:
    """The game's settings for a split of the task."""
    limits = [limit for limit in (options.limit, options.judged if split == "test" else None) if limit is not None]
    return Settings(
        task=options.task, split=split, student=options.student,
        teacher=teacher_of(options) if options.student else options.teacher, data=options.data, metric=options.metric,
        template=options.template, limit=min(limits, default=None), max_new_tokens=options.max_new_tokens,
        device=options.device,
    )  # fmt: skip


def teacher_of(options: GameOptions) -> str:
    """Folder or hub id of the teacher."""
    return options.teacher or str(shipped_pair(options.task).teacher)


def original_of(options: GameOptions) -> str:
    """Folder or hub id of the student whose gap is recovered."""
    return runs.original_of(vars(options))


def game(options: GameOptions, split: str, model: Path, actions: str) -> Recorded:
    """The game of the trained student on a split."""
    settings = settings_of(options, split)
    task = load_task(settings)
    table = time_table(options.task, str(model), teacher_of(options))
    env = tw_env.make_vec(
        f"{tw_env.__name__}/Text-v0", options.play_rows, task=task, student=str(model), teacher=teacher_of(options),
        actions=actions, reward="quality", device=options.device, latency=None if table is None else table.path,
        max_new_tokens=options.max_new_tokens or task.max_new_tokens,
    )  # fmt: skip
    return Recorded(env)


def original_game(options: GameOptions, split: str) -> AssistedDecodingVectorEnv:
    """The game of the pair that training began with, on a split."""
    task = load_task(settings_of(options, split))
    return tw_env.make_vec(
        f"{tw_env.__name__}/Text-v0", options.play_rows, task=task, teacher=teacher_of(options),
        student=original_of(options), actions="SELF/ASK", reward="quality", device=options.device,
        max_new_tokens=options.max_new_tokens or task.max_new_tokens,
    )  # fmt: skip


def original_ends(options: GameOptions) -> Ends:
    """Both ends of the gap, of the pair that training began with, on the test prompts."""
    env = original_game(options, "test")
    return play_ends(env, np.arange(len(env.task.prompts)))


def sampled_game(
    options: GameOptions, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> AssistedDecodingVectorEnv:
    """The game in sampling of a student in memory, on the policy split; its weights may change as it is played."""
    register_model(IN_TRAINING, student, tokenizer)
    task = load_task(settings_of(options, "policy"))
    return tw_env.make_vec(
        f"{tw_env.__name__}/Text-v0", options.config.episodes, task=task, student=IN_TRAINING,
        teacher=teacher_of(options), actions="SELF/ASK", decoding="sampling", reward="kl", device=options.device,
        max_new_tokens=options.max_new_tokens or task.max_new_tokens,
    )  # fmt: skip
