"""What a network that reads whole texts remembers of each row at play."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tw_env.observations import Layout
from tw_env.policies.networks import EpisodeNetwork


class TextMemory:
    """Of each row's text, the network's memory before every place; a row goes on from the one at its position.

    So what a call took back is forgotten, and a row that was reset begins anew, without being told.

    Args:
        layout: of the observations. rows: texts. width: of the memory.
    """

    def __init__(self, layout: Layout, rows: int, width: int) -> None:
        self.rows, self._position, self._cap = rows, layout["position"].start, layout.cap
        self._before = np.zeros((rows, layout.cap + 2, width), np.float32)

    def check(self, rows: int) -> None:
        """Raises ValueError for another number of rows."""
        if rows != self.rows:
            raise ValueError(
                f"Expected observations of the {self.rows} rows that the state is of, got {rows}. Give state=None when "
                "other rows begin."
            )

    def step(self, network: EpisodeNetwork, observations: NDArray[np.float32]) -> Tensor:
        """(rows, outputs) of the network, which goes on from what is remembered."""
        self.check(len(observations))
        rows = np.arange(self.rows)
        place = np.rint(observations[:, self._position] * self._cap).astype(np.int64)
        before = torch.from_numpy(self._before[rows, place])
        outputs, after = network.step(torch.from_numpy(np.ascontiguousarray(observations, np.float32)), before)
        self._before[rows, place + 1] = after.numpy()
        return outputs
