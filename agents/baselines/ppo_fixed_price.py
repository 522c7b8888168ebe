"""PPO with a fixed price of calls: what is learned without a multiplier that follows the rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3 import PPO

from agents.base import Agent
from agents.baselines.lagrangian import FloatArray, Log, MovePrice, Priced
from agents.baselines.ppo import PPOConfig, learn_ppo
from agents.pcl.agent import describe
from tw_env.adapters.sb3 import SB3VecEnv
from tw_env.policies import Gate

LOG_EPISODES = 512


@dataclass(frozen=True)
class PPOFixedPriceConfig(PPOConfig):
    """PPO's settings and the price."""

    price: float = 0.1
    """Reward that a unit of cost takes away, the same under every rule that limits something."""


class PPOFixedPrice(Agent):
    """One price for all rules, chosen beforehand; only the calibrated cut tells the rules apart.

    A price that makes a given limit hold is not known before training, and one for each limit would be a multiplier
    again. So this is the plain penalty of cost-aware routers: no rule changes the price, the gate learns one order of
    the states by how much a call there is worth, and `agents.baselines.calibration.calibrate` finds how far down that
    order each rule may go.
    """

    name = "ppo-fixed-price"

    def __init__(self, config: PPOFixedPriceConfig | None = None) -> None:
        self.config = PPOFixedPriceConfig() if config is None else config
        self.policy: Gate | None = None

    def learn(self, env: VectorEnv, log: Log | None = None) -> PPOFixedPrice:
        """Train on an environment with SAME_STEP autoreset.

        Args:
            log: called with (environment steps so far, numbers by name).
        """
        config, (layout, actions, _) = self.config, describe(env)

        def price_of(limits: FloatArray) -> FloatArray:
            return np.where(limits >= 1.0, 0.0, config.price)

        priced = Priced(SB3VecEnv(env), layout, price_of)
        self.policy = learn_ppo(PPO, env, priced, actions, config, MovePrice(priced, None, LOG_EPISODES, log))
        return self
