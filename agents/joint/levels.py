"""A number beside the words: what is added to the log-odds of calling under each limit, in training.

A small student hardly tells "at most 3%" from "at most 15%" by the words. Without help, prices then climb under the one
and fall under the other for something that no price can mend, and what it learns is the quarrel of the two, not where a
call is worth its price. In play the cuts of `agents.joint.deployment` take the levels' place; what a student does by
its words alone has none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class Levels:
    """One level for each limit that is trained on, moved by what the gate's logit still misses there.

    Args:
        limits: in calls per token. rate: share of what is missing on average that an update adds; 0 leaves
            it to the words.

    Attributes:
        value: (limits,) nats, in the order of `limits` when sorted.
    """

    def __init__(self, limits: Sequence[float], rate: float) -> None:
        self._limits, self._rate = np.array(sorted(set(limits))), rate
        self.value = np.zeros(len(self._limits))

    def _places(self, limits: FloatArray) -> NDArray[np.int64]:
        """(n,) place of each limit, or behind the last for those that have none: "never" and no limit."""
        places = np.searchsorted(self._limits, limits)
        known = np.append(self._limits, np.nan)[places] == limits
        return np.where(known, places, len(self._limits))

    def of(self, limits: FloatArray) -> FloatArray:
        """(n,) nats for episodes with these limits (n,); 0 under "never" and without a limit."""
        return np.append(self.value, 0.0)[self._places(limits)]

    def update(self, limits: FloatArray, missing: FloatArray, weights: FloatArray) -> None:
        """Move by what was missing in episodes with these limits (n,).

        Args:
            missing: (n,) weighted sums over an episode's choices, in nats. weights: (n,) sums of the weights.
        """
        places, size = self._places(limits), len(self._limits) + 1
        total = np.bincount(places, weights, minlength=size)[:-1]
        mean = np.bincount(places, missing, minlength=size)[:-1] / np.maximum(total, 1e-9)
        self.value = self.value + self._rate * mean

    def numbers(self) -> dict[str, float]:
        """For the log."""
        if not self._rate:
            return {}
        return {f"level/{limit:g}": float(level) for limit, level in zip(self._limits, self.value, strict=True)}

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"level": self.value.tolist()}

    def restore(self, state: Mapping[str, object]) -> None:
        """Take up what `state` kept."""
        self.value = np.asarray(state["level"], np.float64)
