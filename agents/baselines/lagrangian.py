"""The price of calls in the reward: a stable-baselines3 `VecEnvWrapper` and the callback that moves the price."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from agents.pcl.learner import ONLY_LIMIT
from agents.pcl.multiplier import Multiplier
from tw_env.adapters.sb3 import SB3VecEnv
from tw_env.observations import Layout

FloatArray = NDArray[np.float64]
Log = Callable[[int, dict[str, float]], object]
PriceOf = Callable[[FloatArray], FloatArray]  # (n,) limits -> (n,) prices, reward per unit of cost


@dataclass(frozen=True)
class MultiplierConfig:
    """How lambda moves; the defaults are those of constrained PCL."""

    limits: tuple[float, ...] = (0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
    """Grid of the multiplier, in the observation's unit of the limit."""
    limit: float | None = None
    """The limit on E[sum of costs] in environments whose observations name no rule."""
    multiplier_step: float = 0.02
    """Move of lambda per unit of violation."""
    multiplier_least: float = 0.03
    """Least lambda of a limited rule."""
    multiplier_episodes: int = 512
    """Finished episodes between two moves."""

    def multiplier(self, layout: Layout) -> Multiplier:
        """On the grid of limits, or on one point where observations name no rule.

        Raises:
            ValueError: neither the observations nor the configuration tell a limit.
        """
        check_limit(self.limit, layout)
        grid = self.limits if "limit" in layout else (ONLY_LIMIT,)
        return Multiplier(np.array(grid), self.multiplier_step, least=self.multiplier_least)


def check_limit(limit: float | None, layout: Layout) -> None:
    """Raises ValueError where neither observations nor a configuration's `limit` tell one."""
    if limit is None and "limit" not in layout:
        raise ValueError(
            "Expected a limit, for the observations name none: give the configuration limit=..., the most that an "
            "episode may cost in expectation; 0.0 where info['allowance'] holds all that is allowed."
        )


def free(limits: FloatArray) -> FloatArray:
    """The price 0."""
    return np.zeros(len(limits))


def limits_of(observations: NDArray[np.float32], layout: Layout) -> FloatArray:
    """(n,) the limit that each observation (n, size) names, as the multiplier's grid knows it."""
    if "limit" not in layout:
        return np.full(len(observations), ONLY_LIMIT)
    return observations[:, layout["limit"].start].astype(np.float64)


def excess_of(infos: Sequence[dict[str, Any]]) -> FloatArray:
    """(rows,) cost - allowance of a step; environments whose infos hold no allowance allow nothing by the step.

    Raises:
        KeyError: infos without a cost.
    """
    for info in infos:
        if "cost" not in info:
            raise KeyError(
                f"Expected info['cost'] on every step of a constrained environment, 0.0 included; got {sorted(info)}. "
                "Set it in a wrapper's step."
            )
    return np.array([info["cost"] - info.get("allowance", 0.0) for info in infos])


class Priced(VecEnvWrapper):
    """Pays (r - lambda * (cost - allowance)) / (1 + lambda), with lambda of the row's own limit.

    The division keeps the reward's size while lambda rises (Stooke et al. 2020, arXiv 2007.03964, section 5). An
    episode keeps the price that it began with, so that its return is that of one price. What is allowed at a reset is
    the same for every action and left out of the reward.

    Args:
        venv: the adapted environment; its infos hold `cost` and, where the limit grows with the steps, `allowance`.
        layout: of the observations; see `agents.pcl.agent.describe`.
        price_of: lambda of each limit.
        limit: on the sum of costs, beside what the infos allow.
    """

    def __init__(self, venv: SB3VecEnv, layout: Layout, price_of: PriceOf, limit: float | None = None) -> None:
        super().__init__(venv)
        self.layout, self.price_of, self.limit = layout, price_of, limit or 0.0
        rows = self.num_envs
        self._limits, self._prices, self._returns, self._violations = (np.zeros(rows) for _ in range(4))
        self._finished: list[tuple[float, float, float]] = []  # limit, violation and return of an episode

    def reset(self) -> NDArray[np.float32]:
        """Start all rows anew."""
        observations = np.asarray(self.venv.reset())
        self._begin(np.arange(self.num_envs), observations)
        return observations

    def _begin(self, rows: NDArray[np.int64], observations: NDArray[np.float32]) -> None:
        self._limits[rows] = limits_of(observations[rows], self.layout)
        self._prices[rows] = self.price_of(self._limits[rows])
        self._returns[rows] = 0.0
        allowed = [self.venv.reset_infos[row].get("allowance", 0.0) for row in rows.tolist()]
        self._violations[rows] = -self.limit - np.array(allowed)

    def step_wait(self) -> VecEnvStepReturn:
        """The environment's step with the priced reward."""
        observations, rewards, dones, infos = self.venv.step_wait()
        excess = excess_of(infos)
        priced = (rewards - self._prices * excess) / (1.0 + self._prices)
        self._returns += rewards
        self._violations += excess
        rows = np.flatnonzero(dones)
        if rows.size:
            ended = (values[rows].tolist() for values in (self._limits, self._violations, self._returns))
            self._finished.extend(zip(*ended, strict=True))
            self._begin(rows, np.asarray(observations))
        return observations, priced.astype(np.float32), dones, infos

    @property
    def finished(self) -> int:
        """Number of episodes finished since the last `drain`."""
        return len(self._finished)

    def drain(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Limit, violation and unpriced return of the episodes finished since the last call, (episodes,) each."""
        done = np.array(self._finished, np.float64).reshape(-1, 3)
        self._finished.clear()
        return done[:, 0], done[:, 1], done[:, 2]


class MovePrice(BaseCallback):
    """Moves lambda against the violations of finished episodes, whenever there are enough of them, and keeps a log.

    Args:
        env: the wrapper that counts.
        multiplier: what is moved; None moves nothing and only logs.
        episodes: how many are enough.
        log: called with (environment steps so far, numbers by name) after each move.
    """

    def __init__(self, env: Priced, multiplier: Multiplier | None, episodes: int, log: Log | None = None) -> None:
        super().__init__()
        self._env, self._multiplier, self._episodes, self._log = env, multiplier, episodes, log

    def _on_step(self) -> bool:
        if self._env.finished < self._episodes:
            return True
        limits, violation, returns = self._env.drain()
        numbers = {"return": float(returns.mean()), "violation": float(violation.mean())}
        if self._multiplier is not None:
            self._multiplier.update(limits, violation)
            numbers |= {"lambda/mean": float(self._multiplier.value.mean()), **self._multiplier.numbers()}
        if self._log is not None:
            self._log(self.num_timesteps, numbers)
        return True
