"""The value of a state, read from the student's own hidden state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """V(s) of hidden states (steps, hidden size) -> (steps,): one hidden layer, 0 everywhere at first.

    Without asking V* = 0, so it begins at its optimum, and what it learns is how far the student still is from it.

    Args:
        inputs: size of the hidden states. width: of the layer between. seed: of its first weights.
    """

    def __init__(self, inputs: int, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            last = nn.Linear(width, 1)
            self.layers = nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width), nn.GELU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(steps,) values of states (steps, hidden size)."""
        values: Tensor = self.layers(hidden)[:, 0]
        return values
