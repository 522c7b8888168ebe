"""Networks that score states of the game: from the last one alone, or from all that the text still holds."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from tw_env.policies.networks import Standardise

OUTPUTS = 2
CHANGE, GAIN = 0, 1  # log-odds that a call changes the text, and the quality that it adds


class StateNetwork(nn.Module):
    """Change and gain (n, 2) from states (n, size), one by one or along a text.

    Args:
        inputs: size of a state.
        width: units of each layer.
        recurrent: read all states of a text with a gated recurrent unit (Cho et al. 2014, arXiv 1406.1078). Its memory
            behind each place is that of the text so far, so whoever takes tokens back goes on from an older memory.
        dropout: share of units left out in training.
    """

    def __init__(self, inputs: int, width: int = 64, recurrent: bool = True, dropout: float = 0.1) -> None:
        super().__init__()
        self.width, self.recurrent = width, recurrent
        self.standardise = Standardise(inputs)
        self.dropout = nn.Dropout(dropout)
        self.inner = nn.Linear(2 * inputs, width)
        self.memory = nn.GRU(width, width, batch_first=True) if recurrent else None
        behind = 2 * width if recurrent else width
        self.head = nn.Sequential(
            nn.Linear(behind, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, OUTPUTS)
        )  # fmt: skip

    def forward(self, states: Tensor) -> Tensor:
        """(texts, places, 2) from states (texts, places, size); a place sees itself and those before it."""
        inner = self._inner(states)
        if self.memory is None:
            return self.head(self.dropout(inner))
        return self.head(self.dropout(torch.cat([inner, self.memory(inner)[0]], dim=-1)))

    def step(self, states: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 2) and the memory behind this place, from states (n, size) and the memory before it, (n, width)."""
        inner = self._inner(states)
        if self.memory is None:
            return self.head(inner), memory
        _, after = self.memory(inner[:, None], memory[None].contiguous())
        return self.head(torch.cat([inner, after[0]], dim=-1)), after[0]

    def _inner(self, states: Tensor) -> Tensor:
        flat = self.standardise(states.reshape(-1, states.shape[-1]))
        return nn.functional.silu(self.inner(self.dropout(flat))).reshape(*states.shape[:-1], self.width)


class Ensemble(nn.Module):
    """The mean of several `StateNetwork`s; see there for the arguments.

    Args:
        members: how many.
    """

    def __init__(self, inputs: int, width: int, recurrent: bool, members: int = 1, dropout: float = 0.1) -> None:
        super().__init__()
        self.inputs, self.width, self.recurrent = inputs, width, recurrent
        self.members = nn.ModuleList(StateNetwork(inputs, width, recurrent, dropout) for _ in range(members))

    @property
    def networks(self) -> list[StateNetwork]:
        """The members."""
        return [cast(StateNetwork, member) for member in self.members]

    @property
    def memory_size(self) -> int:
        """Numbers that `step` hands on from place to place."""
        return len(self.members) * self.width if self.recurrent else 0

    def step(self, states: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 2) and (n, memory_size): see `StateNetwork.step`."""
        outputs, after = [], []
        for part, member in zip(memory.tensor_split(len(self.members), dim=1), self.networks, strict=True):
            output, behind = member.step(states, part)
            outputs.append(output)
            after.append(behind)
        return torch.stack(outputs).mean(0), torch.cat(after, dim=1)
