"""DQN-Lagrangian: stable-baselines3's DQN, unmodified, with a replay buffer that prices calls when it is sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from gymnasium.spaces import Space
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from agents.base import Agent
from agents.baselines.lagrangian import (
    Log,
    MovePrice,
    MultiplierConfig,
    Priced,
    PriceOf,
    excess_of,
    free,
    limits_of,
)
from agents.baselines.sb3_gate import architecture, fitted, gate_of, own_random_numbers, untrained_gate
from agents.pcl.agent import describe
from agents.pcl.multiplier import Multiplier
from tw_env.adapters.sb3 import SB3VecEnv
from tw_env.observations import Layout
from tw_env.policies import Gate


@dataclass(frozen=True)
class DQNLagrangianConfig(MultiplierConfig):
    """DQN's settings and the multiplier's."""

    steps: int = 1_000_000
    """Environment steps in all, of all rows together; about as many as constrained PCL takes."""
    buffer: int = 200_000
    """Transitions kept for replay."""
    first: int = 10_000
    """Steps of random actions before learning."""
    updates: int = 2
    """Gradient steps after each step of all rows."""
    batch: int = 1024
    """Transitions a gradient step."""
    lr: float = 1e-3
    """Adam's step size; it falls to a tenth."""
    target_every: int = 10_000
    """Environment steps between copies to the target network."""
    exploration: float = 0.1
    """Chance of a random action at the start."""
    exploration_final: float = 0.01
    """Chance of a random action from half of the steps on: its calls count as spent, too."""
    width: int = 128
    """Units of the two hidden layers."""
    temperature: float = 0.003
    """Of sampled play, in the reward's unit; deterministic play hardly depends on it."""
    seed: int = 0
    """Seed of the environment, of play, of batches and of the initial weights."""


class PricedReplay(ReplayBuffer):
    """Keeps rewards and costs apart and pays (r - lambda * (cost - allowance)) / (1 + lambda) when sampled.

    A reward that was priced when it was stored would teach an old lambda. Here every sample has the price of now, so
    nothing in the buffer goes stale while lambda moves.

    Args:
        buffer_size to handle_timeout_termination: as of `ReplayBuffer`.
        layout: of the observations. price_of: lambda of each limit, now. seed: of the choice of samples.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: Space[Any],
        action_space: Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        layout: Layout,
        price_of: PriceOf,
        seed: int,
    ) -> None:
        super().__init__(
            buffer_size, observation_space, action_space, device, n_envs, optimize_memory_usage,
            handle_timeout_termination,
        )  # fmt: skip
        self.layout, self.price_of = layout, price_of
        self.excess = np.zeros((self.buffer_size, self.n_envs), np.float32)
        self.generator = np.random.default_rng(seed)

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Keep one transition a row; `reward` is the unpriced one, the cost comes from `infos`."""
        self.excess[self.pos] = excess_of(infos)
        super().add(obs, next_obs, action, reward, done, infos)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Transitions drawn with replacement, with the prices of now; `env` must be None."""
        at = (
            self.generator.integers(self.size(), size=batch_size),
            self.generator.integers(self.n_envs, size=batch_size),
        )
        observations = self.observations[at]
        price = self.price_of(limits_of(observations, self.layout))
        rewards = (self.rewards[at] - price * self.excess[at]) / (1.0 + price)
        over = self.dones[at] * (1.0 - self.timeouts[at])
        arrays = observations, self.actions[at], self.next_observations[at], over[:, None], rewards[:, None]
        first, chosen, then, ends, paid = (self.to_torch(array) for array in arrays)
        return ReplayBufferSamples(first, chosen, then, ends.float(), paid.float())


class DQNLagrangian(Agent):
    """Learns action values for every rule at once, in any vector environment with Discrete actions and `info["cost"]`.

    What plays is a `Gate` whose network gives the action values: deterministic play compares the best call's value
    with SELF's, and `agents.baselines.calibration.calibrate` finds the cut on that difference that keeps each rule. The
    price moves as constrained PCL's does, against the episodes that DQN itself plays, exploration included.
    """

    name = "dqn-lagrangian"

    def __init__(self, config: DQNLagrangianConfig | None = None) -> None:
        self.config = DQNLagrangianConfig() if config is None else config
        self.policy: Gate | None = None
        self.multiplier: Multiplier | None = None

    def learn(self, env: VectorEnv, log: Log | None = None) -> DQNLagrangian:
        """Train on an environment with SAME_STEP autoreset.

        Args:
            log: called with (environment steps so far, numbers by name) after each move of the price.
        """
        config, (layout, actions, _) = self.config, describe(env)
        self.multiplier = config.multiplier(layout)
        counted = Priced(SB3VecEnv(env), layout, free, config.limit)
        standardise = fitted(env, untrained_gate(layout, actions, config.width, 0.1, config.seed), config.seed)
        with own_random_numbers():
            model = DQN(
                "MlpPolicy", counted, learning_rate=lambda left: config.lr * (0.1 + 0.9 * left),
                buffer_size=config.buffer, learning_starts=config.first, batch_size=config.batch, gamma=1.0,
                train_freq=1, gradient_steps=config.updates, target_update_interval=config.target_every,
                exploration_fraction=0.5, exploration_initial_eps=config.exploration,
                exploration_final_eps=config.exploration_final, replay_buffer_class=PricedReplay,
                replay_buffer_kwargs={"layout": layout, "price_of": self.multiplier.of, "seed": config.seed},
                policy_kwargs=architecture(standardise, config.width), seed=config.seed, device="cpu",
            )  # fmt: skip
            model.set_logger(Logger(None, []))  # its own would leave a folder behind
            model.learn(config.steps, callback=MovePrice(counted, self.multiplier, config.multiplier_episodes, log))
        *body, head = model.q_net.q_net
        self.policy = gate_of(
            layout, actions, standardise, nn.Sequential(*body), cast(nn.Linear, head), config.temperature
        )
        return self
