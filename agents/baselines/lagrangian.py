"""The price of calls in the reward: a stable-baselines3 `VecEnvWrapper` and the callback that moves the price."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from agents.pcl.multiplier import Multiplier
from tw_env.adapters.sb3 import SB3VecEnv

FloatArray = NDArray[np.float64]


class Priced(VecEnvWrapper):
    """Pays (r - lambda * (cost - allowance)) / (1 + lambda), with lambda of the row's own limit.

    The division keeps the reward's size while lambda rises (Stooke et al. 2020, arXiv 2007.03964, section 5). What is
    allowed at a reset is the same for every action and left out.

    Args:
        venv: the adapted environment; its infos hold `cost`, `allowance`, `spent` and `allowed`.
        limit_at: the column of the observation that holds the row's limit.
        multiplier: the price of every limit.
    """

    def __init__(self, venv: SB3VecEnv, limit_at: int, multiplier: Multiplier) -> None:
        super().__init__(venv)
        self.limit_at, self.multiplier = limit_at, multiplier
        self._limits = np.zeros(self.num_envs)
        self._finished: list[tuple[float, float, float]] = []  # limit, violation and return of an episode
        self._returns = np.zeros(self.num_envs)

    def reset(self) -> NDArray[np.float32]:
        """Start all rows anew."""
        observations = np.asarray(self.venv.reset())
        self._limits = observations[:, self.limit_at].astype(np.float64)
        self._returns[:] = 0.0
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        """The environment's step with the priced reward."""
        observations, rewards, dones, infos = self.venv.step_wait()
        price = self.multiplier.of(self._limits)
        excess = np.array([info["cost"] - info["allowance"] for info in infos])
        priced = (rewards - price * excess) / (1.0 + price)
        self._returns += rewards
        for row in np.flatnonzero(dones):
            violation = float(infos[row]["spent"] - infos[row]["allowed"])
            self._finished.append((float(self._limits[row]), violation, float(self._returns[row])))
            self._returns[row] = 0.0
        self._limits = np.asarray(observations)[:, self.limit_at].astype(np.float64)
        return observations, priced.astype(np.float32), dones, infos

    def drain(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Limit, violation and unpriced return of the episodes finished since the last call, (episodes,) each."""
        done = np.array(self._finished, np.float64).reshape(-1, 3)
        self._finished.clear()
        return done[:, 0], done[:, 1], done[:, 2]


class MovePrice(BaseCallback):
    """After each rollout, moves lambda against the violations of the episodes that finished in it.

    Args:
        env: the wrapper that pays.
        log: called with (environment steps so far, numbers by name).
    """

    def __init__(self, env: Priced, log: Callable[[int, dict[str, float]], object] | None = None) -> None:
        super().__init__()
        self._env, self._log = env, log

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        limits, violation, returns = self._env.drain()
        if not len(limits):
            return
        multiplier = self._env.multiplier
        multiplier.update(limits, violation)
        if self._log is not None:
            prices = zip(multiplier.limits, multiplier.value, strict=True)
            numbers = {f"lambda/{limit:g}": float(value) for limit, value in prices}
            self._log(
                self.num_timesteps,
                {"return": float(returns.mean()), "violation": float(violation.mean()), **numbers},
            )
