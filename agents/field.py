"""The agents of the benchmark. A new one is a file of its own and one line in `FIELD`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any

from agents.baselines.calibration import CalibrationConfig
from agents.baselines.heuristic import Heuristic
from agents.baselines.oracles import Oracle
from agents.baselines.ppo_lagrangian import PPOLagrangian, PPOLagrangianConfig
from agents.pcl.recipe import Recipe, train_pcl
from agents.rollout import Predicts
from tw_env.policies import speculative, student_alone, teacher_alone

ASKING, VERIFYING = "SELF/ASK", "SELF/ASK/VERIFY"
GAMES = (ASKING, VERIFYING)
BIG_LITTLE = "probability:0.1"  # a rollback threshold of 2.3 nats, in the range that Kim et al. (2023) use


class Kind(StrEnum):
    """Where an agent's decisions come from."""

    FIXED = "fixed"
    HEURISTIC = "heuristic"  # a score of the observation, calibrated on the policy split
    LEARNED = "learned"
    ORACLE = "oracle"  # sees the teacher


class Rules(StrEnum):
    """Which rules an agent can be asked to keep."""

    ALL = "all"
    NEVER = "never"  # only "never": it calls no one
    FREE = "free"  # only "as often as you like": it can't be told to call less


@dataclass
class Arena:
    """One game: where agents learn and calibrate, and where they are judged. Both remember the same prefixes."""

    train: Any  # a `Recorded` environment, as is `test`
    test: Any


@dataclass(frozen=True)
class Effort:
    """How much each agent may learn and calibrate; the same for all games."""

    recipe: Recipe = field(default_factory=Recipe)
    """Of constrained PCL."""
    ppo: PPOLagrangianConfig = field(default_factory=PPOLagrangianConfig)
    """Of PPO-Lagrangian."""
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    """Of the heuristics."""


Progress = Callable[[float], object]  # told the finished share of making an agent, from 0 to 1
Make = Callable[[Arena, int, Effort, Progress], Predicts]


@dataclass(frozen=True)
class Entry:
    """An agent of the benchmark.

    Attributes:
        name: in the rows. kind: in the rows.
        make: (arena, seed, effort, progress) -> what plays.
        games: action sets that it plays. accept: which pending tokens VERIFY keeps in its game.
        rules: which rules it is played under.
        seeded: whether its result depends on the seed, so that several are run.
        deterministic: how its actions are chosen in the evaluation; False draws them.
        weight: how long it takes to make, relative to playing all test prompts once; for the estimate of time.
    """

    name: str
    kind: Kind
    make: Make
    games: tuple[str, ...] = GAMES
    accept: str = "exact"
    rules: Rules = Rules.ALL
    seeded: bool = False
    deterministic: bool = True
    weight: float = 0.0


# ---- how each is made ------------------------------------------------------------------------------------------


def _alone(arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    return student_alone(arena.test.layout, arena.test.game.spec.actions)


def _teacher(arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    return teacher_alone(arena.test.layout, arena.test.game.spec.actions)


def _speculative(draft: int | None, arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    return speculative(arena.test.layout, arena.test.game.spec.actions, draft)


def _threshold(score: str, arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    """Calls, by the last call of the game's action set, where the score lies above the cut that keeps the rule."""
    rounds = effort.calibration.rounds
    return Heuristic(score, config=effort.calibration).learn(arena.train, lambda done: progress(done / rounds))


def _oracle(arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    return Oracle(arena.test)


def _pcl(arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    recipe = replace(effort.recipe, pcl=replace(effort.recipe.pcl, seed=seed))
    rounds = max(recipe.pcl.iterations, 1)
    return train_pcl(arena.train, recipe, log=lambda done, numbers: progress(0.9 * (done + 1) / rounds))


def _ppo_lagrangian(arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    config = replace(effort.ppo, seed=seed)
    return PPOLagrangian(config).learn(arena.train, log=lambda done, numbers: progress(min(done / config.steps, 1.0)))


# ---- the field -------------------------------------------------------------------------------------------------

_CALIBRATED = 25.0  # playing a few thousand prompts under ten limits, eleven times
_LEARNED = 150.0

FIELD: tuple[Entry, ...] = (
    Entry("student", Kind.FIXED, _alone, rules=Rules.NEVER),
    Entry("teacher", Kind.FIXED, _teacher, rules=Rules.FREE),
    Entry("random", Kind.HEURISTIC, partial(_threshold, "random"), seeded=True, weight=_CALIBRATED),
    Entry("p-max", Kind.HEURISTIC, partial(_threshold, "p_max"), weight=_CALIBRATED),
    Entry("entropy", Kind.HEURISTIC, partial(_threshold, "entropy"), weight=_CALIBRATED),
    Entry("margin", Kind.HEURISTIC, partial(_threshold, "margin"), weight=_CALIBRATED),
    Entry("chain-surprise", Kind.HEURISTIC, partial(_threshold, "chain_surprise"), weight=_CALIBRATED),
    Entry("surprise-at-end", Kind.HEURISTIC, partial(_threshold, "surprise_at_end"), (VERIFYING,), weight=_CALIBRATED),
    Entry("big-little", Kind.HEURISTIC, partial(_threshold, "p_max"), (VERIFYING,), BIG_LITTLE, weight=_CALIBRATED),
    Entry("speculative", Kind.FIXED, partial(_speculative, None), (VERIFYING,), rules=Rules.FREE),
    Entry("speculative-4", Kind.FIXED, partial(_speculative, 4), (VERIFYING,), rules=Rules.FREE),
    Entry("oracle", Kind.ORACLE, _oracle, rules=Rules.FREE),
    Entry("pcl", Kind.LEARNED, _pcl, seeded=True, weight=_LEARNED),
    Entry("ppo-lagrangian", Kind.LEARNED, _ppo_lagrangian, seeded=True, deterministic=False, weight=_LEARNED),
)


def choose(names: tuple[str, ...] = ()) -> tuple[Entry, ...]:
    """The entries with these names, all without any.

    Raises:
        ValueError: an unknown name.
    """
    known = {entry.name: entry for entry in FIELD}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"Expected agents out of {', '.join(known)}; got {', '.join(unknown)}.")
    return tuple(known[name] for name in names) if names else FIELD
