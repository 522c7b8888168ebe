"""What the policy sees: a flat float32 `Box` with named slices."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from tw_env.budget import QUANTITIES, Budget

SURE = 20.0  # nats; log-probabilities, surprises and margins are observed within this bound
HIDDEN_BOUND = 1e3


@dataclass(frozen=True)
class Feature:
    """A named slice of the observation; `unit` says what its numbers mean."""

    name: str
    size: int
    low: float
    high: float
    unit: str


def features(top_k: int, vocabulary: int, cap: int, hidden: int, asks: bool = False) -> tuple[Feature, ...]:
    """The slices in order.

    Args:
        top_k: how many of the student's log-probabilities are shown.
        vocabulary: size of the vocabulary. cap: most new tokens of a text.
        hidden: size of the student's last hidden state, or 0 to leave it out.
        asks: whether the student has a token of its own that asks for the teacher.
    """
    entropy = math.log(vocabulary) + 1e-3
    shown = [
        Feature("top_logprobs", top_k, -SURE, 0.0, "nats, falling"),
        Feature("entropy", 1, 0.0, entropy, "nats, of the student's next token"),
        Feature("margin", 1, 0.0, SURE, "nats between the student's best two tokens"),
        Feature("surprise", 1, 0.0, SURE, "nats, -log p_S of the token that SELF would write"),
        Feature("would_end", 1, 0.0, 1.0, "1 if the episode would end with SELF"),
        Feature("pending", 1, 0.0, 1.0, "pending tokens / cap"),
        Feature("pending_surprise", 1, 0.0, SURE * cap, "nats, summed over pending tokens"),
        Feature("least_sure", 1, 0.0, SURE, "nats, the most surprising pending token"),
        Feature("position", 1, 0.0, 1.0, "written tokens / cap"),
        Feature("last_kept", 1, 0.0, 1.0, "share of pending tokens that the last call kept; 1 before any"),
        Feature("quantity", len(QUANTITIES), 0.0, 1.0, "one-hot: " + ", ".join(q.value for q in QUANTITIES)),
        Feature("limit", 1, 0.0, 1.0, "the limit relative to a call at every token; 1 without a limit"),
        Feature("left", 1, float(-cap), float(cap), "allowed - spent, in calls"),
        Feature("ended", 1, 0.0, 1.0, "1 once the text is final"),
    ]
    if asks:
        pending = f"nats, -log P(no ask at any pending token), up to {HIDDEN_BOUND:g}"
        shown.append(Feature("pending_ask", 1, 0.0, HIDDEN_BOUND, pending))
        shown.append(Feature("ask", 1, -HIDDEN_BOUND, HIDDEN_BOUND, "nats, log-odds of the student's ask token"))
    if hidden:
        shown.append(Feature("hidden", hidden, -HIDDEN_BOUND, HIDDEN_BOUND, "the student's last hidden state"))
    return tuple(shown)


#: The features that the game itself keeps for every row; they stand side by side.
OF_THE_GAME = ("would_end", "pending", "pending_surprise", "least_sure", "position", "last_kept")
FEATURES = features(top_k=5, vocabulary=512, cap=24, hidden=0)  # as in the default environments


class Layout:
    """Where each feature stands: `layout["entropy"]` is a slice of the last axis.

    Args:
        features: the slices in order.
        cap: most new tokens of a text, the unit of some features.
    """

    def __init__(self, features: Iterable[Feature], cap: int) -> None:
        self.features, self.cap = tuple(features), cap
        ends = np.cumsum([feature.size for feature in self.features])
        self.slices = {f.name: slice(int(end) - f.size, int(end)) for f, end in zip(self.features, ends, strict=True)}
        self.size = int(ends[-1])

    def __getitem__(self, name: str) -> slice:
        return self.slices[name]

    def __contains__(self, name: str) -> bool:
        return name in self.slices

    def space(self) -> Box:
        """The observation space."""
        low = np.concatenate([np.full(f.size, f.low, np.float32) for f in self.features])
        high = np.concatenate([np.full(f.size, f.high, np.float32) for f in self.features])
        return Box(low, high, dtype=np.float32)

    def record(self) -> dict[str, Any]:
        """As plain numbers and words, for a file; see `Layout.restore`."""
        return {"features": [asdict(feature) for feature in self.features], "cap": self.cap}

    @staticmethod
    def restore(record: dict[str, Any]) -> Layout:
        """What `record` described."""
        return Layout([Feature(**feature) for feature in record["features"]], record["cap"])


class GameLayout(Layout):
    """The layout of the game's observations, and how they are filled in. Arguments as of `features`."""

    def __init__(self, top_k: int, vocabulary: int, cap: int, hidden: int, asks: bool = False) -> None:
        super().__init__(features(top_k, vocabulary, cap, hidden, asks), cap)
        self._column = {name: where.start for name, where in self.slices.items()}
        self._student = slice(0, self.slices["surprise"].stop)  # what `LiveTexts.view` holds behind the token
        self._game = slice(self.slices[OF_THE_GAME[0]].start, self.slices[OF_THE_GAME[-1]].stop)
        self._rule = slice(self.slices["quantity"].start, self.slices["limit"].stop)

    def observe(
        self,
        view: NDArray[np.float32],
        extras: NDArray[np.float32],
        state: NDArray[np.float32],
        budget: Budget,
        pending_ask: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """(rows, size) observations.

        Args:
            view: (rows, 1 + student features) see `LiveTexts.view`. extras: (rows, size) see there.
            state: (features, rows) the features `OF_THE_GAME`, in their units.
            budget: the rows' rules and accounts.
            pending_ask: (rows,) in nats, of a student with an ask token.
        """
        column = self._column
        obs = np.empty((len(view), self.size), np.float32)
        np.minimum(view[:, 1:], SURE, out=obs[:, self._student])  # log-probabilities come clipped from below
        obs[:, self._game] = state.T
        obs[:, self._rule] = budget.rule
        obs[:, column["left"]] = budget.left()
        obs[:, column["ended"]] = 0.0
        if extras.shape[1]:
            np.clip(extras, -HIDDEN_BOUND, HIDDEN_BOUND, out=obs[:, self.size - extras.shape[1] :])
        if pending_ask is not None and "pending_ask" in column:
            obs[:, column["pending_ask"]] = np.minimum(pending_ask, HIDDEN_BOUND)
        return obs

    def observe_final(
        self, position: NDArray[np.floating], last_kept: NDArray[np.floating], rows: NDArray[np.int64], budget: Budget
    ) -> NDArray[np.float32]:
        """(r, size) observations of these rows when their texts are final: no next token, nothing pending, `ended`."""
        column = self._column
        obs = np.zeros((len(rows), self.size), np.float32)
        obs[:, column["position"]] = position
        obs[:, column["last_kept"]] = last_kept
        obs[:, self._rule] = budget.rule[rows]
        obs[:, column["left"]] = budget.left()[rows]
        obs[:, column["ended"]] = 1.0
        return obs
