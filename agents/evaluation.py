"""How good a policy is under a rule: from the outcome of every prompt to a row of the benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from agents.recording import recorded
from agents.rollout import Outcomes, Predicts, play_prompts
from tw_env.policies import student_alone, teacher_alone
from tw_env.rules import Constraint, Quantity, parse
from tw_env.vector_env import AssistedDecodingVectorEnv

FloatArray = NDArray[np.float64]
Row = dict[str, Any]

NEVER = Constraint(Quantity.CALLS_PER_TOKEN, 0.0)
FREE = Constraint(Quantity.CALLS_PER_TOKEN, math.inf)


@dataclass(frozen=True)
class Ends:
    """Quality of the student alone and of the teacher alone on the same prompts, (prompts,) each."""

    student: FloatArray
    teacher: FloatArray


@dataclass(frozen=True)
class Gap:
    """Recovered share of the gap with its interval; all None where student and teacher are equally good."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass
class Played:
    """Outcomes and texts of all prompts and, with a latency table, the modelled milliseconds of each (prompts,)."""

    outcomes: Outcomes
    milliseconds: FloatArray | None
    texts: list[str]


def play(
    env: Any,
    policy: Predicts,
    prompts: Sequence[int] | NDArray[np.int64],
    rule: str | Constraint,
    seed: int = 0,
    deterministic: bool = True,
    progress: Callable[[int], object] | None = None,
    words: Sequence[str] | str | None = None,
) -> Played:
    """Play every prompt exactly once; arguments as of `agents.rollout.play_prompts`."""
    watched = recorded(env)
    outcomes = play_prompts(watched, policy, list(prompts), rule, seed, deterministic, progress, words)
    return Played(outcomes, watched.times(len(prompts)), watched.texts(len(prompts)))


def play_ends(env: AssistedDecodingVectorEnv, prompts: Sequence[int] | NDArray[np.int64], seed: int = 0) -> Ends:
    """Both ends of the gap, on these prompts, in any game."""
    layout, actions = env.layout, env.game.spec.actions
    alone = play(env, student_alone(layout, actions), prompts, NEVER, seed).outcomes.quality
    taught = play(env, teacher_alone(layout, actions), prompts, FREE, seed).outcomes.quality
    return Ends(alone, taught)


def recovered_gap(
    quality: FloatArray, ends: Ends, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Gap:
    """(q - q_student) / (q_teacher - q_student) over prompts, with a paired percentile bootstrap.

    Policy, student and teacher are resampled on the same prompts (Efron and Tibshirani 1993, chapter 13): the interval
    holds the uncertainty of the denominator, too, and leaves out how hard the words are for all three alike.

    Args:
        quality: (prompts,) of the policy, in the order of `ends`.

    Raises:
        ValueError: arrays of different lengths.
    """
    if not len(quality) == len(ends.student) == len(ends.teacher):
        raise ValueError(
            f"Expected the same prompts for policy, student and teacher; got {len(quality)}, {len(ends.student)} and "
            f"{len(ends.teacher)} of them."
        )
    gained, gap = quality - ends.student, ends.teacher - ends.student
    if math.isclose(gap.mean(), 0.0, abs_tol=1e-12):
        return Gap(None)
    value = float(gained.mean() / gap.mean())
    if len(quality) < 2:
        return Gap(value)

    def share(gained: FloatArray, gap: FloatArray, axis: int) -> FloatArray:
        below = gap.mean(axis)
        return gained.mean(axis) / np.where(np.abs(below) < 1e-12, 1e-12, below)

    drawn = bootstrap(
        (gained, gap), share, paired=True, vectorized=True, n_resamples=resamples, batch=50,
        confidence_level=confidence, method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Gap(value, float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))


def make_row(
    env: Any,
    played: Played,
    ends: Ends,
    rule: str | Constraint,
    *,
    agent: str,
    kind: str,
    seed: int = 0,
    training_teacher_tokens: int = 0,
    training_env_steps: int = 0,
    training_seconds: float = 0.0,
    asking_auc: float | None = None,
) -> Row:
    """A row of the benchmark. Means are over prompts; numbers that don't exist are None.

    Fields beyond the obvious: `calls_per_token` is sum over sum; `within_rule` the share of outputs that spent no more
    than was allowed; `spend_over_rule` the mean excess of spent over allowed in percent of the written tokens for a
    rule on calls per token, in the rule's unit otherwise, 0 where less was spent; `latency_ms` modelled, per output;
    `training_...` what making the agent took: tokens that the teacher read, steps of all rows, processor seconds;
    `asking_auc` see `agents.asking`.
    """
    constraint = parse(rule) if isinstance(rule, str) else rule
    outcomes, spec = played.outcomes, env.game.spec
    gap = recovered_gap(outcomes.quality, ends)
    excess = float((outcomes.spent - outcomes.allowed).sum())
    fraction = constraint.quantity == Quantity.CALLS_PER_TOKEN
    over = 100 * excess / float(outcomes.tokens.sum()) if fraction else excess / len(outcomes.quality)
    times = played.milliseconds
    return {
        "task": env.task.name,
        "actions": "/".join(action.name for action in spec.actions),
        "accept": str(spec.accept),
        "agent": agent,
        "kind": kind,
        "seed": seed,
        "rule": str(rule),
        "quantity": str(constraint.quantity),
        "limit": _finite(constraint.limit),
        "quality": float(outcomes.quality.mean()),
        "recovered_gap": gap.value,
        "recovered_gap_low": gap.low,
        "recovered_gap_high": gap.high,
        "calls_per_token": float(outcomes.calls.sum() / outcomes.tokens.sum()),
        "spent": float(outcomes.spent.mean()),
        "allowed": float(outcomes.allowed.mean()),
        "within_rule": float((outcomes.spent <= outcomes.allowed + 1e-9).mean()),
        "spend_over_rule": max(over, 0.0),
        "tokens": float(outcomes.tokens.mean()),
        "latency_ms": None if times is None else float(times.mean()),
        "prompts": len(outcomes.quality),
        "student_quality": float(ends.student.mean()),
        "teacher_quality": float(ends.teacher.mean()),
        "training_teacher_tokens": training_teacher_tokens,
        "training_env_steps": training_env_steps,
        "training_seconds": training_seconds,
        "asking_auc": asking_auc,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
