"""The policies whose latency is measured: in the batched game for quality, and one by one for the clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tw_env
from agents.baselines.calibration import CalibrationConfig
from agents.baselines.heuristic import Heuristic
from agents.baselines.oracles import Oracle
from agents.field import MEDIUM
from agents.joint.deployment import MODEL, told
from agents.recording import Recorded
from scripts.clock import Foreseen, Played
from scripts.evaluate import read_policy
from tw_env.actions import Action
from tw_env.costs import LatencyTable
from tw_env.decoding.loading import Pair, load_pair
from tw_env.decoding.reading import rule_reader
from tw_env.policies import load, shipped, speculative, student_alone, teacher_alone
from tw_env.rules import Constraint, Quantity
from tw_env.settings import encode_prompts
from tw_env.tasks.shipped import shipped_pair
from tw_env.tasks.task import Task

HEURISTICS = {  # a score, and which pending tokens VERIFY keeps
    "p-max": ("p_max", "exact"), "surprise-at-end": ("surprise_at_end", "exact"), "big-little": ("p_max", MEDIUM),
}  # fmt: skip
NEVER, FREE = (Constraint(Quantity.CALLS_PER_TOKEN, limit) for limit in (0.0, math.inf))


def share(limit: float) -> Constraint:
    """At most so many calls per token."""
    return Constraint(Quantity.CALLS_PER_TOKEN, limit)


@dataclass
class Contender:
    """One policy under one rule.

    Attributes:
        name, kind: in the rows. env: the batched game that it plays. told: what a student that reads rules is told, a
            sentence for each prompt. foreseen: an oracle, whose choices at batch 1 are made before the clock begins.
    """

    name: str
    kind: str
    policy: Any
    rule: Constraint
    env: Recorded
    accept: str = "exact"
    told: list[str] | None = None
    foreseen: bool = False

    @property
    def words(self) -> str:
        """The rule; empty where nothing is limited."""
        return "" if self.rule in (NEVER, FREE) else str(self.rule)

    @property
    def key(self) -> str:
        """Tells it from all others."""
        return " ".join(part for part in (self.name, self.words, "" if self.accept == "exact" else self.accept) if part)

    @property
    def pair(self) -> Pair:
        """Who writes."""
        pair: Pair = self.env.pair
        return pair

    def writer(self, prompts: Sequence[tuple[int, ...]]) -> Played:
        """The same at batch 1."""
        if self.foreseen:
            return Foreseen(self.pair, prompts, self.env.game.cap, self.rule)
        reader = rule_reader(self.pair)
        heard = None
        if reader is not None and self.told is not None:
            heard = [reader.before(words, ids) for words, ids in zip(self.told, prompts, strict=True)]
        costs = self.env.game.spec.costs if self.rule.quantity == Quantity.LATENCY_MS else None
        return Played(self.pair, self.policy, prompts, self.env.game.cap, self.rule, self.accept, heard, costs)


@dataclass
class Field:
    """The pair, the task and the games; `options` as of `scripts.latency`.

    Attributes:
        table: by which rules on time are measured; None for that of the pair that ships, if it plays.
    """

    options: Any
    split: str = "test"
    table: LatencyTable | None = None

    @staticmethod
    def open(options: Any) -> Field:
        """Load the models and the held-out prompts."""
        field = Field(options)
        _ = field.env
        return field

    def game(self, split: str, limit: int | None, **settings: Any) -> Recorded:
        """A batched game of the task."""
        options = self.options
        given: dict[str, Any] = {"actions": "SELF/ASK/VERIFY", "chat": options.chat} | settings
        for name in ("student", "teacher", "data", "metric", "template", "max_new_tokens"):
            if (value := getattr(options, name)) is not None:
                given.setdefault(name, value)
        id_ = f"{tw_env.__name__}/{options.task.capitalize()}Verify-v0"
        return Recorded(
            tw_env.make_vec(
                id_, options.rows, split=split, limit=limit, reward="quality", device=options.device, **given
            )
        )

    @cached_property
    def env(self) -> Recorded:
        """The held-out prompts."""
        return self.game(self.split, self.options.prompts)

    @cached_property
    def training(self) -> Recorded:
        """Prompts to calibrate on."""
        return self.game("policy", self.options.calibration)

    def training_of(self, accept: str) -> Recorded:
        """The same with another way to accept pending tokens."""
        return self.training if accept == "exact" else self.game("policy", self.options.calibration, accept=accept)

    @property
    def pair(self) -> Pair:
        """As it came, before any joint training."""
        pair: Pair = self.env.pair
        return pair

    @property
    def task(self) -> Task:
        """With the held-out prompts."""
        task: Task = self.env.task
        return task

    @property
    def cap(self) -> int:
        """On new tokens."""
        return int(self.env.game.cap)

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.pair.student.device

    def encoded(self, split: str, limit: int) -> list[tuple[int, ...]]:
        """Token ids of a split's first prompts."""
        env = self.env if split == self.split else self.training
        return encode_prompts(env.task, self.pair, self.cap, self.options.chat)[:limit]

    def ends(self) -> list[Contender]:
        """Both models alone."""
        layout, actions = self.env.layout, self.env.game.spec.actions
        return [
            Contender("student", "fixed", student_alone(layout, actions), NEVER, self.env),
            Contender("teacher", "fixed", teacher_alone(layout, actions), FREE, self.env),
        ]


def oracle(field: Field) -> Contender:
    """Asks exactly where the two models differ: the teacher's text at the fewest calls, if one knew where."""
    return Contender("oracle", "oracle", Oracle(field.env, Action.ASK), FREE, field.env, foreseen=True)


def drafts(field: Field, lengths: Sequence[int]) -> list[Contender]:
    """Lossless speculative decoding with drafts of these lengths; 0 is the whole rest of the text."""
    layout, actions = field.env.layout, field.env.game.spec.actions
    return [
        Contender(
            f"speculative-{length or 'rest'}", "fixed", speculative(layout, actions, length or None), FREE, field.env
        )
        for length in lengths
    ]


def lossy(field: Field, length: int, accepts: Sequence[str]) -> list[Contender]:
    """Speculative decoding that keeps more than the teacher's own choice."""
    found = []
    for accept in accepts:
        env = field.game(field.split, field.options.prompts, accept=accept)
        policy = speculative(env.layout, env.game.spec.actions, length or None)
        found.append(Contender("lossy", "lossy", policy, FREE, env, accept))
    return found


def frontiers(field: Field, options: Any) -> list[Contender]:
    """A point for each limit: thresholds, saved gates, and students trained together with their asking."""
    found: list[Contender] = []
    rules = [share(limit) for limit in options.limit]
    config = CalibrationConfig(limits=tuple(options.limit), prompts=options.calibration, rounds=8, seed=options.seed)
    for name, (score, accept) in HEURISTICS.items():
        policy = Heuristic(score, config=config).learn(field.training_of(accept).env).policy
        env = field.env if accept == "exact" else field.game(field.split, options.prompts, accept=accept)
        found += [Contender(name, "heuristic", policy, rule, env, accept) for rule in rules]
    named = [name for name in shipped() if options.student is None and name.startswith(f"{options.task}-")]
    for name in (*named, *options.policy):
        policy = read_policy(name)
        kind = "learned" if hasattr(policy, "network") else "heuristic"
        env = _game_for(field, policy)
        found += [Contender(name, kind, policy, rule, env) for rule in timed_rules(policy, env) or rules]
    for folder, name in zip(options.joint, run_names(options.joint), strict=True):
        found += joint(field, folder, name, options.limit)
    return found


def timed_rules(policy: Any, env: Recorded) -> list[Constraint]:
    """The rules on time that a saved policy was calibrated for, as this game's latency table tells them; else none."""
    seen = policy.cut.limits.get(Quantity.LATENCY_MS.value, []) if hasattr(policy, "cut") else []
    if not seen:
        return []
    call = env.game.budget.call_cost(Quantity.LATENCY_MS)
    return [Constraint(Quantity.LATENCY_MS, float(f"{limit * env.game.cap * call:.3g}")) for limit in seen]


def _game_for(field: Field, policy: Any) -> Recorded:
    """The game with the observations that a saved policy was made for."""
    layout = policy.layout
    return field.game(
        field.split, field.options.prompts, actions="/".join(action.name for action in policy.actions),
        hidden="hidden" in layout, top_k=layout["top_logprobs"].stop - layout["top_logprobs"].start,
        max_new_tokens=layout.cap, latency=field.table,
    )  # fmt: skip


def run_names(folders: Sequence[Path]) -> list[str]:
    """A name for each run of scripts.joint: that of its folder, or the whole path where two are called alike."""
    homes = [folder.parent if folder.name == MODEL else folder for folder in folders]
    names = [home.resolve().name for home in homes]
    return [name if names.count(name) == 1 else str(home) for name, home in zip(names, homes, strict=True)]


def joint(field: Field, folder: Path, name: str, limits: Sequence[float]) -> list[Contender]:
    """A student that is told its rule in words and asks by a token of its own, a contender for each limit.

    Raises:
        FileNotFoundError, ValueError: no policy in the folder, or a student that the pair's teacher doesn't fit.
    """
    model = folder / MODEL if (folder / MODEL).is_dir() else folder
    policy: Any = load(model)
    teacher = field.options.teacher or str(shipped_pair(field.options.task).teacher)
    load_pair(str(model), teacher, device=field.options.device)  # refused early if the two don't fit
    env = Recorded(
        tw_env.make_vec(
            f"{tw_env.__name__}/Text-v0", field.options.rows, task=field.task, student=str(model), teacher=teacher,
            actions="/".join(action.name for action in policy.actions), reward="quality",
            device=field.options.device, max_new_tokens=policy.layout.cap,
        )
    )  # fmt: skip
    count = len(field.task.prompts)
    return [
        Contender(
            f"joint {name}", "joint", policy, share(limit), env,
            told=np.array(told(limit).words(count, field.options.seed)).tolist(),
        )
        for limit in limits
    ]  # fmt: skip
