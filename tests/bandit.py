"""A constrained contextual bandit as a Gymnasium `VectorEnv`: its optimum is a formula."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

GAINS = np.array([0.0, 0.3, 0.6, 1.0])  # what action 1 is worth in each context; it costs 1


class Bandit(VectorEnv):
    """`length` contexts an episode, uniform and independent; action 1 pays GAINS[context] and costs 1."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int = 64, length: int = 3) -> None:
        self.num_envs, self.length = num_envs, length
        self.single_observation_space = Box(0, 1, (len(GAINS),), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = Discrete(2)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _observe(self) -> np.ndarray:
        self.context = self.rng.integers(len(GAINS), size=self.num_envs)
        return np.eye(len(GAINS), dtype=np.float32)[self.context]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.step_of = 0
        return self._observe(), {"cost": np.zeros(self.num_envs)}

    def step(self, actions: np.ndarray):
        cost = actions.astype(np.float64)
        rewards = GAINS[self.context] * cost
        self.step_of += 1
        done = np.full(self.num_envs, self.step_of == self.length)
        observations, infos = self._observe(), {"cost": cost}
        if done.all():
            self.step_of = 0
            final = np.empty(self.num_envs, object)
            final[:] = list(observations)
            infos = {"cost": np.zeros(self.num_envs), "final_info": {"cost": cost}, "final_obs": final}
            observations = self._observe()
        return observations, rewards, done, np.zeros(self.num_envs, bool), infos
