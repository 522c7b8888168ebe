"""Single texts token by token: who wrote what, and which texts show best what a policy does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from agents.evaluation import FREE, NEVER
from agents.rollout import Predicts
from tw_env.actions import Writer
from tw_env.env import AssistedDecodingEnv
from tw_env.policies import student_alone, teacher_alone
from tw_env.render import pieces
from tw_env.rules import Constraint
from tw_env.vector_env import AssistedDecodingVectorEnv


class Ink(Enum):
    """How a token came to be, or to vanish; the values are the page's class names."""

    STUDENT = "student"  # written by the student, and nobody read it
    ACCEPTED = "accepted"  # written by the student, read and kept by the teacher
    TEACHER = "teacher"  # written by the teacher
    DROPPED = "dropped"  # written by the student, taken back by the teacher


_INKS = {Writer.STUDENT: Ink.STUDENT, Writer.ACCEPTED: Ink.ACCEPTED, Writer.TEACHER: Ink.TEACHER}


@dataclass
class Piece:
    """A token as text; `end` marks the end token. `instead`: what the student would have written there."""

    text: str
    ink: Ink
    end: bool = False
    instead: str = ""


@dataclass
class Played:
    """One text; the title says by whom, or under which rule."""

    title: str
    pieces: list[Piece]
    calls: int
    quality: float


@dataclass
class Example:
    """One prompt with its references, and what was written for it, each time by another."""

    prompt: str
    references: list[str]
    played: list[Played] = field(default_factory=list)


def write(
    env: AssistedDecodingEnv, policy: Predicts, prompt: int, rule: str | Constraint, title: str, seed: int = 0
) -> Played:
    """Play one prompt with the likeliest actions and write down what became of every token."""
    observation, info = env.reset(seed=seed, options={"prompts": [prompt], "rules": rule})
    game, state, over = env.game, None, False
    dropped: dict[int, list[list[int]]] = {}  # before which place, tokens that were taken back
    instead: dict[int, int] = {}  # what the student would have written where the teacher wrote
    while not over:
        written = game.texts.tokens[0, : game.texts.length[0]].tolist()
        proposal = int(game.texts.proposal[0, len(written)])
        action, state = policy.predict(
            observation, state, deterministic=True, action_masks=info["action_mask"].astype(bool)
        )
        observation, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        place = int(game.texts.length[0]) - 1
        if game.dropped[0]:
            dropped.setdefault(place, []).append(written[place:])
        if game.writer[0, place] == Writer.TEACHER:
            instead[place] = written[place] if game.dropped[0] else proposal
    return Played(title, _pieces(env, dropped, instead), int(info["calls"]), float(info["quality"]))


def _pieces(
    env: AssistedDecodingEnv, dropped: Mapping[int, list[list[int]]], instead: Mapping[int, int]
) -> list[Piece]:
    """The final text's tokens in order, each run of dropped ones before the token that replaced it."""
    texts, tokenizer, ends = env.game.texts, env.pair.tokenizer, set(env.pair.end_tokens)
    tokens = texts.tokens[0, : texts.length[0]].tolist()
    shown: list[Piece] = []
    for place, (token, text) in enumerate(zip(tokens, pieces(tokenizer, tokens), strict=True)):
        for run in dropped.get(place, []):
            shown += [Piece(tokenizer.decode([lost]), Ink.DROPPED, lost in ends) for lost in run]
        other = instead.get(place, token)
        name = "the end" if other in ends else tokenizer.decode([other]).strip()
        ink = _INKS[Writer(int(env.game.writer[0, place]))]
        shown.append(Piece(text, ink, token in ends, "" if other == token else name))
    return shown


@dataclass(frozen=True)
class Column:
    """What plays under which rule, beneath which title."""

    title: str
    policy: Predicts
    rule: str | Constraint


def columns_of(env: AssistedDecodingEnv, policy: Predicts, rules: Sequence[str]) -> list[Column]:
    """A policy under rising limits, between the student alone and the teacher alone."""
    frame = env.layout, env.game.spec.actions
    return [
        Column("student alone", student_alone(*frame), NEVER),
        *(Column(rule, policy, rule) for rule in rules),
        Column("teacher alone", teacher_alone(*frame), FREE),
    ]


def collect(
    env: AssistedDecodingEnv, columns: Sequence[Column], groups: Sequence[Group]
) -> list[tuple[Group, list[Example]]]:
    """The groups' prompts, written by every column."""
    names = getattr(env.task, "words", env.task.prompts)

    def example(prompt: int) -> Example:
        written = [write(env, column.policy, prompt, column.rule, column.title) for column in columns]
        return Example(names[prompt], list(env.task.references[prompt]), written)

    return [(group, [example(prompt) for prompt in group.prompts.tolist()]) for group in groups]


def one_row(env: AssistedDecodingVectorEnv) -> AssistedDecodingEnv:
    """The same game with a single row; it remembers the same prefixes."""
    return AssistedDecodingEnv(**{f.name: getattr(env.settings, f.name) for f in fields(env.settings)})


# ---- which texts to show -------------------------------------------------------------------------------------


@dataclass
class Group:
    """Prompts of one kind: what they show, how often it happens, and some of them."""

    title: str
    share: float
    prompts: NDArray[np.int64]


def choose_groups(
    student: NDArray[np.float64], teacher: NDArray[np.float64], ruled: Sequence[NDArray[np.float64]], count: int
) -> list[Group]:
    """Groups that between them hold every prompt once, and the first few prompts of each.

    Args:
        student, teacher: (prompts,) quality of each alone. ruled: the policy's under rising limits.
        count: prompts shown of the largest group; the others show fewer.
    """
    tight, loose = ruled[0], ruled[-1]
    gained, lost = teacher > student, teacher < student
    first = gained & (tight > student)
    later = gained & ~first & (loose > student)
    groups = {
        "The teacher's help is worth it, and the tightest rule already buys it": (first, count),
        "Worth it, but only a looser rule buys it": (later, count),
        "It would be worth it, and the policy misses it": (gained & ~first & ~later, count // 2),
        "The student is as good as the teacher: asking would be wasted": (~gained & ~lost, count // 2),
        "The teacher alone does worse than the student": (lost, count // 2),
    }
    return [
        Group(title, float(chosen.mean()), np.flatnonzero(chosen)[: max(few, 1)])
        for title, (chosen, few) in groups.items()
        if chosen.any()
    ]
