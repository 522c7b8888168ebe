"""The single environment: the game with one row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tw_env.observations import GameLayout
from tw_env.render import render
from tw_env.settings import Settings, build


class AssistedDecodingEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One row of the game; `tw_env.vector_env.AssistedDecodingVectorEnv` describes it.

    Args:
        render_mode: None or "ansi".
        settings: see `tw_env.settings.Settings`.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}

    def __init__(self, render_mode: str | None = None, **settings: Any) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"Expected render_mode None or 'ansi', got {render_mode!r}.")
        self.settings = Settings.of(settings)
        self.render_mode = render_mode
        self._setup = build(1, self.settings)
        self.game = self._setup.game
        self.task, self.pair = self._setup.task, self._setup.pair
        self.observation_space = self.layout.space()  # type: ignore[assignment]  # a float32 Box is one
        self.action_space = gymnasium.spaces.Discrete(len(self.game.spec.actions))
        self._row = np.zeros(1, np.int64)

    @property
    def layout(self) -> GameLayout:
        """Names and slices of the observation."""
        return self.game.layout

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start a new episode; `options` as in `tw_env.schedule.Schedule.follow`."""
        super().reset(seed=seed)
        self.game.generators = [self.np_random]
        schedule = self._setup.schedule
        if options is not None:
            schedule.follow(options)
        starts = schedule.next(self.game.generators)
        self.game.budget.check(starts.rules[0])
        self.game.reset(self._row, *starts)
        self.game.look()
        return self.game.observe()[0], self._info(0.0, float(self.game.budget.allowed[0]))

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """Play one action.

        Raises:
            ValueError: an action outside the space.
            RuntimeError: no reset before, or the episode is over.
        """
        if self.game.ended[0]:
            raise RuntimeError("Expected reset() before step(): no episode is under way.")
        if not self.action_space.contains(action):
            names = ", ".join(f"{i} ({a.name})" for i, a in enumerate(self.game.spec.actions))
            raise ValueError(f"Expected an action out of {names}; got {action!r}.")
        step = self.game.step(np.array([action], np.int64))
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        if not terminated:
            self.game.look()
        observation = self.game.observe_final(np.zeros(1, np.int64)) if terminated else self.game.observe()
        info = self._info(float(step.cost[0]), float(step.allowance[0]))
        return observation[0], float(step.reward[0]), terminated, truncated, info

    def _info(self, cost: float, allowance: float) -> dict[str, Any]:
        game = self.game
        info: dict[str, Any] = {
            "cost": cost,
            "allowance": allowance,
            "spent": float(game.budget.spent[0]),
            "allowed": float(game.budget.allowed[0]),
            "calls": float(game.budget.calls[0]),
            "tokens": int(game.texts.length[0]),
            "prompt": int(game.prompt[0]),
            "quality": float(game.quality[0]),
            "action_mask": game.action_mask()[0],
        }
        if game.spec.costs.latency is not None:
            info["latency_ms"] = float(game.budget.milliseconds[0])
        if game.spec.costs.prices is not None:
            info["price"] = float(game.budget.money[0])
        return info

    def action_masks(self) -> NDArray[np.bool_]:
        """(actions,) which actions can be afforded, as sb3-contrib's MaskablePPO asks for them."""
        return self.game.action_mask()[0].astype(bool)

    def render(self) -> str | None:
        """Prompt, text with its writers, budget and the last call, as text (`render_mode="ansi"`)."""
        if self.render_mode is None:
            return None
        return render(self.game, self.pair.tokenizer, self.task.prompts, 0)
