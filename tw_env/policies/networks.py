"""Networks of policies: from the last observation alone, or from all that the text still holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

FINENESS = 100.0  # the logarithmic scale begins at numbers of about a hundredth


class Standardise(nn.Module):
    """Observations (n, size) twice, (n, 2 size): as they are and on a logarithmic scale, both shifted and scaled.

    Surprises of .01 and .1 nats call for different decisions under a loose rule, though both are small beside the
    largest ones. The shift and the scale are those of the observations that it was shown.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * inputs))
        self.register_buffer("scale", torch.ones(2 * inputs))

    def fit(self, observations: Tensor) -> None:
        """Take mean and scale from observations (n, size); columns that hardly move keep the scale 1."""
        both = _both_scales(observations)
        deviation = both.std(0)
        self.mean.copy_(both.mean(0))
        self.scale.copy_(torch.where(deviation > 1e-4, deviation, torch.ones_like(deviation)))

    def forward(self, observations: Tensor) -> Tensor:
        return ((_both_scales(observations) - self.mean) / self.scale).clamp(-10, 10)


def _both_scales(observations: Tensor) -> Tensor:
    """(n, size) -> (n, 2 size); asinh is linear near 0 and a signed logarithm beyond."""
    return torch.cat([observations, torch.asinh(FINENESS * observations)], dim=1)


class ObservationNetwork(nn.Module):
    """Numbers (n, outputs) from observations (n, size): standardised, then two hidden layers.

    Args:
        inputs: size of an observation. outputs: numbers for each. width: units of each layer.
        dropout: share of the inputs and of the last layer's units left out in training.
    """

    def __init__(self, inputs: int, outputs: int, width: int = 128, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.standardise = Standardise(inputs)
        self.dropout = nn.Dropout(dropout)
        self.body = nn.Sequential(nn.Linear(2 * inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.head = nn.Linear(width, outputs)
        self._seen: tuple[int, list[Any]] | None = None  # the head's address, and what `of_few` reads

    def forward(self, observations: Tensor) -> Tensor:
        return self.head(self.dropout(self.body(self.dropout(self.standardise(observations)))))

    def of_few(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, outputs) what `forward` gives without dropout, up to rounding, in less time for a row or two.

        There torch's calls take longer than their sums, and a gate that looks at every token is called as often as
        the student.
        """
        mean, scale, *layers, (head, bias) = self._weights()
        both = np.concatenate([observations, np.arcsinh(np.float32(FINENESS) * observations)], axis=1)
        values = np.minimum(np.maximum((both - mean) / scale, -10), 10)
        for weight, shift in layers:
            values = values @ weight + shift
            values /= 1 + np.exp(-np.maximum(values, -80))  # SiLU
        numbers: NDArray[np.float32] = values @ head + bias
        return numbers

    def _weights(self) -> list[Any]:
        """Mean, scale and the layers' matrices and shifts: torch's memory, as numpy sees it."""
        at = self.head.weight.data_ptr()
        if self._seen is None or self._seen[0] != at:  # copies of a network have memory of their own
            linear = [layer for layer in (*self.body, self.head) if isinstance(layer, nn.Linear)]
            numbers = [self.standardise.mean, self.standardise.scale]
            self._seen = at, [
                *(one.detach().numpy() for one in numbers),
                *((one.weight.detach().numpy().T, one.bias.detach().numpy()) for one in linear),
            ]  # fmt: skip
        return self._seen[1]


class EpisodeNetwork(nn.Module):
    """Numbers (n, outputs) from observations (n, size) and a memory of the text before each, (n, width).

    The memory is that of a gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) over the states of the text as it
    stands: behind a call that takes tokens back, it goes on from the memory at the place where the text goes on.

    Args:
        inputs: size of an observation.
        outputs: numbers for each.
        width: units of each layer and of the memory.
        dropout: share of units left out in training.
    """

    def __init__(self, inputs: int, outputs: int, width: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.width = width
        self.standardise = Standardise(inputs)
        self.dropout = nn.Dropout(dropout)
        self.inner = nn.Linear(2 * inputs, width)
        self.memory = nn.GRUCell(width, width)
        self.body = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Dropout(dropout))
        self.head = nn.Linear(width, outputs)

    def step(self, observations: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(n, outputs), and the memory behind these observations, (n, width)."""
        inner = self._inner(observations)
        after = self.memory(inner, memory)
        return self.head(self.body(torch.cat([inner, after], dim=1))), after

    def along(self, observations: Tensor, starts: NDArray[np.int64], before: NDArray[np.int64]) -> Tensor:
        """(steps, outputs) along whole episodes.

        Args:
            observations: (steps, size) of episodes, one after the other.
            starts: (episodes + 1,) where each begins, and the number of steps.
            before: (steps,) see `steps_before`.
        """
        inner = self._inner(observations)
        lengths = np.diff(starts)
        memories = inner.new_zeros((1, self.width))  # row 0 is the memory before any text
        row = np.zeros(len(before) + 1, np.int64)  # of each step in `memories`; the last stands for "no step"
        for time in range(int(lengths.max(initial=0))):
            steps = starts[:-1][lengths > time] + time
            row[steps] = len(memories) + np.arange(len(steps))
            after = self.memory(inner[torch.from_numpy(steps)], memories[torch.from_numpy(row[before[steps]])])
            memories = torch.cat([memories, after])
        return self.head(self.body(torch.cat([inner, memories[torch.from_numpy(row[:-1])]], dim=1)))

    def _inner(self, observations: Tensor) -> Tensor:
        return nn.functional.silu(self.inner(self.dropout(self.standardise(observations))))


def steps_before(positions: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(steps,) the step of the same episode that wrote the token before each position; -1 at the beginning.

    Args:
        positions: (steps,) tokens written before each step. starts: (episodes + 1,) where each episode begins.
    """
    before = np.full(len(positions), -1)
    lengths = np.diff(starts)
    latest = np.full((len(lengths), int(positions.max(initial=0)) + 2), -1)  # (episodes, 1 + positions)
    for time in range(int(lengths.max(initial=0))):
        episodes = np.flatnonzero(lengths > time)
        steps = starts[episodes] + time
        before[steps] = latest[episodes, positions[steps]]
        latest[episodes, positions[steps] + 1] = steps
    return before
