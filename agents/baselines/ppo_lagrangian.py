"""PPO-Lagrangian: stable-baselines3's PPO, unmodified, on a reward that holds the price of calls."""

from __future__ import annotations

from dataclasses import dataclass

from gymnasium.vector import VectorEnv
from stable_baselines3 import PPO

from agents.base import Agent
from agents.baselines.lagrangian import Log, MovePrice, MultiplierConfig, Priced
from agents.baselines.ppo import PPOConfig, learn_ppo
from agents.pcl.agent import describe
from agents.pcl.multiplier import Multiplier
from tw_env.adapters.sb3 import SB3VecEnv
from tw_env.policies import Gate


@dataclass(frozen=True)
class PPOLagrangianConfig(MultiplierConfig, PPOConfig):
    """PPO's settings and the multiplier's."""


class PPOLagrangian(Agent):
    """Learns a gate for every rule at once, in any vector environment with Discrete actions and `info["cost"]`.

    The price moves as constrained PCL's does. Give the gate its cuts with `agents.baselines.calibration.calibrate`.

    Example:
        >>> agent = PPOLagrangian(PPOLagrangianConfig(steps=100_000)).learn(env)  # doctest: +SKIP
        >>> agent.predict(observations)  # doctest: +SKIP
    """

    name = "ppo-lagrangian"

    def __init__(self, config: PPOLagrangianConfig | None = None) -> None:
        self.config = PPOLagrangianConfig() if config is None else config
        self.policy: Gate | None = None
        self.multiplier: Multiplier | None = None

    def learn(self, env: VectorEnv, log: Log | None = None) -> PPOLagrangian:
        """Train on an environment with SAME_STEP autoreset.

        Args:
            log: called with (environment steps so far, numbers by name) after each move of the price.
        """
        config, (layout, actions, _) = self.config, describe(env)
        self.multiplier = config.multiplier(layout)
        priced = Priced(SB3VecEnv(env), layout, self.multiplier.of, config.limit)
        callback = MovePrice(priced, self.multiplier, config.multiplier_episodes, log)
        self.policy = learn_ppo(PPO, env, priced, actions, config, callback)
        return self
