"""Policies that see the teacher: what asking could reach if one knew beforehand where it helps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tw_env.actions import Action
from tw_env.policies.policy import Policy

BoolArray = NDArray[np.bool_]


class Oracle(Policy):
    """Calls exactly where the teacher would change something; greedy decoding only.

    With `ASK` that is where the two greedy choices differ, so the text is the teacher's at the fewest calls that SELF
    and ASK can write it with. With `VERIFY` it is where the text would end and one of the student's pending tokens,
    or the last one, would not be accepted.

    Args:
        env: the environment that it plays, `predict` is for that environment's current rows only. The teacher reads
            every row at every step, outside of the game's account.
        call: the call to use; by default `ASK` where the game has it.

    Raises:
        ValueError: the environment samples, or its game lacks the call.
    """

    kind = "oracle"

    def __init__(self, env: Any, call: Action | None = None) -> None:
        game = env.game
        super().__init__(game.layout, game.spec.actions)
        if call is None:
            call = Action.ASK if Action.ASK in self.actions else Action.VERIFY
        if call not in self.actions or call == Action.SELF:
            names = ", ".join(action.name for action in self.actions[1:])
            raise ValueError(f"Expected a call out of this game's {names}, got {Action(call).name}.")
        if game.spec.sampling:
            raise ValueError("Expected greedy decoding: in sampling the teacher has no one choice. Got sampling.")
        self.game, self.call = game, call

    def choose(self, observations: NDArray[np.float32], deterministic: bool, masks: Any) -> NDArray[np.int64]:
        self.game.texts.read()
        would_end = observations[:, self.layout["would_end"].start] > 0
        calls = self._differs() if self.call == Action.ASK else would_end & self._unaccepted()
        return np.where(calls, self.actions.index(self.call), 0)

    def _differs(self) -> BoolArray:
        """(rows,) whether the teacher would write another token than the student here."""
        texts = self.game.texts
        rows = np.arange(texts.rows)
        return texts.best[rows, texts.length] != texts.proposal[rows, texts.length]

    def _unaccepted(self) -> BoolArray:
        """(rows,) whether the teacher refuses a pending token, or would write another one here."""
        game, texts = self.game, self.game.texts
        places = np.arange(texts.places)
        pending = (places >= game.settled[:, None]) & (places < texts.length[:, None])  # (rows, places)
        accepted = game.spec.accept.greedy(texts.best, texts.best_logprob, texts.proposal, texts.score)
        return (pending & ~accepted).any(axis=1) | self._differs()
