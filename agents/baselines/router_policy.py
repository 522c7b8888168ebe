"""A router at play: calls the teacher where a network's score of the text so far lies above a cut."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from agents.baselines.episode_network import CHANGE, GAIN, Ensemble
from tw_env.actions import Action
from tw_env.observations import Layout
from tw_env.policies.cuts import ALWAYS, CutTable
from tw_env.policies.gate import WEIGHTS
from tw_env.policies.policy import FloatArray, IntArray, Observations, Policy, frame

OF_THE_RULE = ("quantity", "limit", "left", "ended")  # what a text's need for help doesn't depend on


class Target(StrEnum):
    """What a router predicts."""

    DISAGREEMENT = "disagreement"  # a call would change the text
    GAIN = "gain"  # the quality that a call adds


@dataclass
class Memory:
    """What a recurrent router remembers of each row's text: (rows, places, size), the memory before each place."""

    before: NDArray[np.float32]


class RouterPolicy(Policy):
    """Calls where `score > cut`, where a text would end if the call is `VERIFY`, at any place if it is `ASK`.

    The state that `predict` hands back holds a memory for every place of each row's text. A row goes on from the one
    at its `position`: so what VERIFY took back is forgotten, and a row that was reset begins anew.

    Args:
        network: from the layout's features other than those of the rule.
        target: which of its outputs is the score.
        cut: one for every rule, see `agents.baselines.calibration`.
        call: `ASK` or `VERIFY`.
    """

    kind = "router"

    def __init__(
        self,
        layout: Layout,
        actions: tuple[Action, ...],
        network: Ensemble,
        target: Target,
        cut: CutTable,
        call: Action,
    ) -> None:
        super().__init__(layout, actions)
        self.network, self.target, self.cut, self.call = network, Target(target), cut, call
        self._columns = columns(layout)
        self._memory = self._fresh(0)

    def predict(
        self,
        observation: Observations,
        state: Memory | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64] | np.int64, Memory]:
        """As `Policy.predict`; the same rows must come in the same order, with the state handed back (not copied).

        Args:
            state: None forgets all texts.
            episode_start: not needed, a text begins at position 0.

        Raises:
            ValueError: observations of another size, or of another number of rows than the state's.
        """
        self._memory = self._fresh(len(np.atleast_2d(observation))) if state is None else state
        actions, _ = super().predict(observation, None, episode_start, deterministic, action_masks)
        return actions, self._memory

    def choose(self, observations: Observations, deterministic: bool, masks: NDArray[np.bool_] | None) -> IntArray:
        asks = self.follow(observations, self._memory) > self.cut.of(observations, self.layout)
        return np.where(asks, self.actions.index(self.call), 0)

    def scores(self, observations: Observations) -> FloatArray:
        """(rows,) what is compared with the cut; goes on from the memory of the same rows' texts, see `follow`."""
        if len(observations) != len(self._memory.before):
            self._memory = self._fresh(len(observations))
        return self.follow(observations, self._memory)

    @torch.inference_mode()
    def follow(self, observations: Observations, memory: Memory) -> FloatArray:
        """(rows,) scores of these observations; `memory` moves on with them.

        Raises:
            ValueError: another number of rows than the memory's.
        """
        if len(observations) != len(memory.before):
            raise ValueError(
                f"Expected observations of the {len(memory.before)} rows that the state is of, got "
                f"{len(observations)}. Give state=None when other rows begin."
            )
        rows = np.arange(len(observations))
        place = np.rint(observations[:, self.layout["position"].start] * self.layout.cap).astype(np.int64)
        place = np.clip(place, 0, self.layout.cap - 1)
        before = torch.from_numpy(memory.before[rows, place])
        outputs, after = self.network.step(torch.from_numpy(observations[:, self._columns]), before)
        memory.before[rows, place + 1] = after.numpy()
        score = outputs[:, CHANGE if self.target == Target.DISAGREEMENT else GAIN].double().numpy()
        if self.call == Action.VERIFY:
            score = np.where(observations[:, self.layout["would_end"].start] > 0, score, ALWAYS)
        return score

    def _fresh(self, rows: int) -> Memory:
        return Memory(np.zeros((rows, self.layout.cap + 1, self.network.memory_size), np.float32))

    # ---- files -------------------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        network = self.network
        return {
            "target": self.target.value, "call": self.call.name, "cut": self.cut.record(), "width": network.width,
            "recurrent": network.recurrent, "members": len(network.members),
        }  # fmt: skip

    def save(self, folder: str | Path) -> None:
        super().save(folder)
        save_file(self.network.state_dict(), Path(folder) / WEIGHTS)

    @classmethod
    def restore(cls, record: dict[str, Any], folder: Path) -> RouterPolicy:
        layout, actions = frame(record)
        network = Ensemble(len(columns(layout)), record["width"], record["recurrent"], record["members"])
        network.load_state_dict(load_file(folder / WEIGHTS))
        cut = CutTable(**record["cut"])
        return cls(layout, actions, network.eval(), Target(record["target"]), cut, Action[record["call"]])


def columns(layout: Layout) -> IntArray:
    """The columns of an observation that a router reads."""
    read = [np.arange(where.start, where.stop) for name, where in layout.slices.items() if name not in OF_THE_RULE]
    return np.concatenate(read)
