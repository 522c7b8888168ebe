"""Cuts that keep a rule: how far a score may fall before the teacher is called, found on the policy split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.limits import Limited, limited
from agents.rollout import Predicts, play_prompts
from tw_env.policies.cuts import ALWAYS, NEVER, CutTable
from tw_env.rules import Quantity
from tw_env.vector_env import AssistedDecodingVectorEnv

FloatArray = NDArray[np.float64]


class Scored(Predicts, Protocol):
    """A policy that calls where a score of the observation lies above the cut of its rule."""

    cut: CutTable

    def scores(self, observations: NDArray[np.float32]) -> FloatArray:
        """(rows,) for observations (rows, size)."""
        ...


@dataclass(frozen=True)
class CalibrationConfig:
    """How carefully cuts are searched."""

    limits: tuple[float, ...] = (
        0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.9,
    )  # fmt: skip
    """Limits, in the quantity's unit; rules in between are interpolated."""
    quantity: Quantity = Quantity.CALLS_PER_TOKEN
    """What they limit."""
    prompts: int = 2500
    """Prompts of the policy split that are played for each limit."""
    rounds: int = 10
    """Halvings of the interval around each cut."""
    seed: int = 0
    """Seed of the choice of prompts and of play."""


def calibrate(
    policy: Scored,
    env: AssistedDecodingVectorEnv,
    config: CalibrationConfig | None = None,
    progress: Callable[[int], object] | None = None,
) -> CutTable:
    """Give the policy the lowest cuts whose spending on the environment's prompts keeps each limit.

    All limits are searched at once, by bisection on ranks of the scores that the policy's own play shows. A limit that
    a lossless policy would not reach even by calling wherever it can keeps the lowest cut.

    Args:
        progress: called with the number of finished rounds.

    Returns:
        The table, which is also set as `policy.cut`.
    """
    config = CalibrationConfig() if config is None else config
    generator = np.random.default_rng(config.seed)
    available = len(env.task.prompts)
    prompts = generator.permutation(available)[: config.prompts]
    limits = limited(env, config.quantity, config.limits)
    candidates = _candidates(policy, env, prompts, limits, config.seed)
    low = np.zeros(len(limits.limits), int)  # spends too much, or is the lowest there is
    high = np.full(len(limits.limits), len(candidates) - 1)  # keeps the limit
    low_keeps = _keeps(policy, env, prompts, limits, config.seed, candidates[low])
    high = np.where(low_keeps, low, high)
    for done in range(config.rounds):
        middle = (low + high) // 2
        keeps = _keeps(policy, env, prompts, limits, config.seed, candidates[middle])
        high, low = np.where(keeps, middle, high), np.where(keeps, low, middle)
        if progress is not None:
            progress(done + 1)
    policy.cut = _table(limits, candidates[high])
    return policy.cut


def _table(limits: Limited, cuts: FloatArray) -> CutTable:
    name, seen = limits.quantity.value, limits.seen(np.array(limits.limits))
    return CutTable(limits={name: seen.tolist()}, cuts={name: [float(cut) for cut in cuts]})


def _candidates(
    policy: Scored, env: AssistedDecodingVectorEnv, prompts: NDArray[np.int64], limits: Limited, seed: int
) -> FloatArray:
    """Rising cuts: quantiles of the scores seen while the student writes alone, and one above all of them.

    That one is not `NEVER`, for cuts of rules between two limits are interpolated.
    """
    policy.cut = CutTable(default=NEVER)
    seen: list[FloatArray] = []
    limit = env.game.layout["limit"].start

    class Listening:
        """Plays the policy and writes down its scores, but for rows that only wait: their rule is "never"."""

        def predict(self, observation: NDArray[np.float32], *args: object, **kwargs: object) -> tuple[object, None]:
            seen.append(policy.scores(observation)[observation[:, limit] > 0])
            return np.zeros(len(observation), np.int64), None

    usual = limits.constraint(0.1 if limits.share else limits.limits[len(limits.limits) // 2])
    play_prompts(env, Listening(), prompts[:1500], usual, seed, True)
    scores = np.concatenate(seen)
    scores = scores[(scores > ALWAYS) & (scores < NEVER)]
    beyond = scores.max() + 0.05 * (1.0 + scores.std())
    return np.concatenate([np.unique(np.quantile(scores, np.linspace(0, 1, 1024))) - 1e-9, [beyond]])


def _keeps(
    policy: Scored,
    env: AssistedDecodingVectorEnv,
    prompts: NDArray[np.int64],
    limits: Limited,
    seed: int,
    cuts: FloatArray,
) -> NDArray[np.bool_]:
    """(limits,) whether the policy with these cuts, one a limit, spends no more than is allowed."""
    policy.cut = _table(limits, cuts)
    rules = [limits.constraint(limit) for limit in limits.limits]
    outcomes = play_prompts(
        env, policy, np.tile(prompts, len(rules)), np.repeat(np.array(rules, object), len(prompts)), seed, True
    )
    excess = (outcomes.spent - outcomes.allowed).reshape(len(rules), -1).mean(axis=1)
    return excess <= 0
