"""What the gate is taught in an update of `Stage.PCL`, whichever way the student plays for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from agents.joint.drift import Places
from agents.joint.prices import CallPrices, Numbers
from agents.joint.writing import PartLoss


@dataclass(frozen=True)
class Lesson:
    """What the play of one update comes to.

    Attributes:
        loss: the gate's, of each part; a scalar with the student's gradient.
        numbers: for the log.
        places: where the gate decided, in this process's first part.
        own_tokens: that the student wrote in it, for all processes together.
    """

    loss: PartLoss
    numbers: Numbers
    places: Places
    own_tokens: int


class Play(Protocol):
    """The student's play: along drafts (`agents.joint.draft_play`) or in the game (`agents.joint.whole`)."""

    @property
    def read(self) -> Mapping[str, int]:
        """What the teacher read in the last update's play, as `agents.joint.training_cost` counts it."""

    def lesson(self, generator: np.random.Generator, update: int, prices: CallPrices) -> Lesson:
        """Play with the student as it is; moves the prices."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` kept."""
