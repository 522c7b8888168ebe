"""What play costs beside the rule's own account: teacher tokens read in calls, modelled time of each output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray

from tw_env.game import Game
from tw_env.observations import Layout
from tw_env.vector_env import AssistedDecodingVectorEnv

FloatArray = NDArray[np.float64]


class Recorded(VectorWrapper):
    """An `AssistedDecodingVectorEnv` that counts as it is played; it plays exactly as before.

    Attributes:
        teacher_tokens: tokens that the teacher had not read and reads in calls, each prompt at its first call; what
            training would have it process at batch 1 if nothing were remembered between episodes.
        env_steps: steps of all rows together.
        milliseconds: modelled time of finished episodes by their number (row, then order of starting), as
            `agents.rollout.play_prompts` numbers them since the last reset; empty without a latency table.
        tokens: final texts of finished episodes by their number, end token left out; numbered as the milliseconds.
        number: (rows,) which episode each row plays.
    """

    env: AssistedDecodingVectorEnv

    def __init__(self, env: AssistedDecodingVectorEnv) -> None:
        super().__init__(env)
        self.teacher_tokens = 0
        self.env_steps = 0
        self.milliseconds: dict[int, float] = {}
        self.tokens: dict[int, list[int]] = {}
        self.number = np.arange(env.num_envs)

    @property
    def game(self) -> Game:
        """Of the environment within."""
        return self.env.game

    @property
    def layout(self) -> Layout:
        """Of the environment within."""
        return self.env.layout

    @property
    def task(self) -> Any:
        """Of the environment within."""
        return self.env.task

    @property
    def pair(self) -> Any:
        """Of the environment within."""
        return self.env.pair

    def reset(self, *, seed: Any = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's; episodes are numbered from 0 again."""
        self.number = np.arange(self.num_envs)
        self.milliseconds.clear()
        self.tokens.clear()
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: NDArray[np.int64]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's."""
        game = self.env.game
        unread = game.texts.prompt_length + game.texts.length - game.teacher_read
        before = game.budget.calls.copy()
        out = self.env.step(actions)
        self.env_steps += self.num_envs
        infos, done = out[4], out[2] | out[3]
        calls = np.where(done, infos["final_info"]["calls"], infos["calls"]) if done.any() else infos["calls"]
        self.teacher_tokens += int(unread[calls > before].sum())
        rows = np.flatnonzero(done)
        if rows.size:
            self.tokens.update((int(self.number[row]), game.final[row]) for row in rows)
            if "latency_ms" in infos:
                taken = infos["final_info"]["latency_ms"][rows].tolist()
                self.milliseconds.update(zip(self.number[rows].tolist(), taken, strict=True))
            following = int(self.number.max()) + 1
            self.number[rows] = np.arange(following, following + len(rows))
        return out

    def times(self, episodes: int) -> FloatArray | None:
        """(episodes,) milliseconds of the first so many episodes; None without a latency table."""
        if not self.milliseconds:
            return None
        return np.array([self.milliseconds[number] for number in range(episodes)])

    def texts(self, episodes: int) -> list[str]:
        """Final texts of the first so many episodes."""
        tokens = [self.tokens[number] for number in range(episodes)]
        return list(self.env.pair.tokenizer.batch_decode(tokens, skip_special_tokens=True))


def recorded(env: VectorEnv) -> Recorded:
    """The environment with a recorder around it, once."""
    return env if isinstance(env, Recorded) else Recorded(env)  # type: ignore[arg-type]
