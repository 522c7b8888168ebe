"""Finished episodes kept for off-policy residuals."""

from __future__ import annotations

import numpy as np

from agents.rollout import Episodes


class Replay:
    """A bounded store of whole episodes, oldest out first. Rewards, costs and allowances stay apart.

    Whole episodes of a deterministic (greedy) game are consistent under any policy. In sampling, only one-step
    segments of old data are (`PCLConfig` sees to that).

    Args:
        capacity: most episodes kept.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"Expected a replay capacity of at least one episode, got {capacity}.")
        self.capacity = capacity
        self.parts: list[Episodes] = []

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def add(self, episodes: Episodes) -> None:
        self.parts.append(episodes)
        while len(self) - len(self.parts[0]) >= self.capacity:
            self.parts.pop(0)

    def sample(self, generator: np.random.Generator, count: int) -> Episodes:
        """`count` episodes drawn with replacement."""
        sizes = np.array([len(part) for part in self.parts])
        drawn = np.sort(generator.integers(sizes.sum(), size=count))
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        which = np.searchsorted(offsets, drawn, side="right") - 1
        chosen = [
            part.take(drawn[which == index] - offsets[index])
            for index, part in enumerate(self.parts)
            if (which == index).any()
        ]
        return Episodes.join(chosen)
