"""A heuristic as an agent: what it learns is how low its score may fall under each rule."""

from __future__ import annotations

from collections.abc import Callable

from agents.base import Agent
from agents.baselines.calibration import CalibrationConfig, calibrate
from tw_env.actions import Action
from tw_env.policies import ScoreThreshold
from tw_env.policies.cuts import CutTable
from tw_env.vector_env import AssistedDecodingVectorEnv


class Heuristic(Agent):
    """Calls the teacher where a score lies above a cut, calibrated on the environment's prompts.

    Args:
        score: a name in `tw_env.policies.heuristics.SCORES`.
        call: `ASK` or `VERIFY`; None takes the last of the game's action set.
        config: how carefully cuts are searched.
    """

    name = "heuristic"

    def __init__(
        self, score: str = "p_max", call: Action | None = None, config: CalibrationConfig | None = None
    ) -> None:
        self.score, self.call = score, call
        self.config = CalibrationConfig() if config is None else config

    def learn(self, env: AssistedDecodingVectorEnv, progress: Callable[[int], object] | None = None) -> Heuristic:
        """Calibrate the cuts; `progress` is called with the number of finished rounds."""
        actions = env.game.spec.actions
        call = actions[-1] if self.call is None else self.call
        self.policy = ScoreThreshold(env.game.layout, actions, self.score, CutTable(), call)
        calibrate(self.policy, env, self.config, progress)
        return self
