"""MaskablePPO of sb3-contrib under the hard rule: no price, calls that can't be afforded are masked."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import VectorEnv

from agents.base import Agent
from agents.baselines.lagrangian import Log, MovePrice, Priced, free
from agents.baselines.ppo import PPOConfig, learn_ppo
from agents.pcl.agent import describe
from tw_env.adapters.sb3 import SB3VecEnv
from tw_env.policies import Gate

LOG_EPISODES = 512


class MaskablePPOAgent(Agent):
    """Learns when to spend the calls that a hard rule leaves, in an environment with `action_masks()`.

    Nothing but the mask limits calls while it learns, and the mask counts in whole calls of an output at the cap, so a
    rule on calls per token is overspent on short outputs. `agents.baselines.calibration.calibrate` in the same
    environment gives the gate the cuts that keep the rule over all outputs, too.
    """

    name = "maskable-ppo"

    def __init__(self, config: PPOConfig | None = None) -> None:
        self.config = PPOConfig() if config is None else config
        self.policy: Gate | None = None

    def learn(self, env: VectorEnv, log: Log | None = None) -> MaskablePPOAgent:
        """Train on an environment with SAME_STEP autoreset, made with `hard=True`.

        Args:
            log: called with (environment steps so far, numbers by name).

        Raises:
            ImportError: sb3-contrib is not installed.
            ValueError: the environment has no masks, or its rules bind in expectation only.
        """
        algorithm = _maskable_ppo()
        if not hasattr(env, "action_masks") and not hasattr(env.unwrapped, "action_masks"):
            raise ValueError(f"Expected an environment with action_masks(), got {type(env.unwrapped).__name__}.")
        settings = getattr(env.unwrapped, "settings", None)
        if settings is not None and not settings.hard:
            raise ValueError("Expected an environment made with hard=True, got hard=False: no call would be masked.")
        layout, actions, _ = describe(env)
        priced = Priced(SB3VecEnv(env), layout, free)
        callback = MovePrice(priced, None, LOG_EPISODES, log)
        self.policy = learn_ppo(algorithm, env, priced, actions, self.config, callback)
        return self


def _maskable_ppo() -> Any:
    try:
        from sb3_contrib import MaskablePPO
    except ImportError as error:
        raise ImportError(
            "Expected sb3-contrib for MaskablePPO, which is not installed. It is in the extra `contrib`: "
            "pip install -e '.[contrib]'."
        ) from error
    return MaskablePPO
