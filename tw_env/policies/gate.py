"""A network that chooses actions from what it sees; saved as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from tw_env.actions import Action
from tw_env.observations import Layout
from tw_env.policies.cuts import CutTable
from tw_env.policies.memory import TextMemory
from tw_env.policies.networks import EpisodeNetwork, ObservationNetwork
from tw_env.policies.policy import FloatArray, IntArray, Observations, Policy, frame

WEIGHTS = "policy.safetensors"
Numbers = TypeVar("Numbers", Tensor, NDArray[np.float32])
FEW = 2  # rows, up to which the network is faster without torch


class Gate(Policy):
    """Draws actions from softmax(network / temperature), or cuts the log-odds of calling.

    A gate that reads whole texts remembers them by row and position: the same rows must come in the same order, every
    step of theirs. To play several environments in turn, hand back the state that `predict` returns.

    Args:
        network: advantages of the actions in the reward's unit, from the last observation or from the whole text.
        temperature: alpha, the entropy weight that the network was trained with.
        prices: a grid of limits and lambda at each. The network then has two outputs for every action, what it earns
            and what it spends, and an action's advantage is the first minus lambda times the second.
        at_end: call only where the text would end, so that one `VERIFY` settles all that was written.
        cut: deterministic play calls where log P(any call) - log P(SELF) > cut, by the likeliest kind of call; a
            table holds a cut for every rule, calibrated to its limit.
    """

    kind = "gate"

    def __init__(
        self,
        layout: Layout,
        actions: tuple[Action, ...],
        network: ObservationNetwork | EpisodeNetwork,
        temperature: float = 1.0,
        cut: CutTable | None = None,
        at_end: bool = False,
        prices: tuple[FloatArray, FloatArray] | None = None,
    ) -> None:
        super().__init__(layout, actions)
        self.at_end, self.prices = at_end, prices
        self.network, self.temperature = network, temperature
        self.cut = CutTable(default=0.0) if cut is None else cut
        self._memory: TextMemory | None = None

    def predict(
        self,
        observation: Observations,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64] | np.int64, Any]:
        """As `Policy.predict`; `state` is what a gate that reads whole texts remembers, None for its own memory.

        Raises:
            ValueError: observations of another size, or of another number of rows than the state's.
        """
        if state is not None:
            state.check(len(np.atleast_2d(observation)))
            self._memory = state
        elif isinstance(self.network, EpisodeNetwork):
            positions = np.atleast_2d(observation)[:, self.layout["position"].start]
            if not positions.any():  # all texts begin: a memory of their own, whoever else is played meanwhile
                self._memory = None
        actions, _ = super().predict(observation, None, episode_start, deterministic, action_masks)
        return actions, self._memory

    def _advantages(self, observations: Observations) -> NDArray[np.float32]:
        """(rows, actions) what each action is worth, up to a number for each row."""
        outputs = self._outputs(observations)
        if self.prices is None:
            return outputs
        limits, values = self.prices
        limit = np.minimum(np.maximum(observations[:, self.layout["limit"].start], limits[0]), limits[-1])
        price = np.interp(np.log(limit), np.log(limits), values).astype(np.float32)
        return priced(outputs, price)

    def _outputs(self, observations: Observations) -> NDArray[np.float32]:
        """(rows, outputs) of the network."""
        shown = np.ascontiguousarray(observations, np.float32)
        if isinstance(self.network, ObservationNetwork):
            if len(shown) <= FEW and not self.network.training:
                return self.network.of_few(shown)
            outputs: Tensor = self.network(torch.from_numpy(shown))
        else:
            if self._memory is None or self._memory.rows != len(shown):
                self._memory = TextMemory(self.layout, len(shown), self.network.width)
            outputs = self._memory.step(self.network, shown)
        numbers: NDArray[np.float32] = outputs.numpy()
        return numbers

    @torch.inference_mode()
    def log_probabilities(self, observations: Observations, masks: NDArray[np.bool_] | None = None) -> FloatArray:
        """(rows, actions) log-probabilities, -inf where a mask forbids."""
        if masks is None:
            masks = np.ones((len(observations), len(self.actions)), bool)
        if self.at_end:
            masks = masks_at_end(masks, observations, self.layout)
        logits = np.zeros(masks.shape)
        choosing = np.atleast_1d(masks[:, 1:].any(axis=1))
        if isinstance(self.network, EpisodeNetwork):  # it remembers every place
            choosing[:] = True
        if choosing.any():
            logits[choosing] = self._advantages(observations[choosing]) / np.float32(self.temperature)
        logits = np.where(masks, logits, -np.inf)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def scores(self, observations: Observations) -> FloatArray:
        """(rows,) log-odds of calling, what deterministic play compares with the cut."""
        return _log_odds(self.log_probabilities(observations))

    def choose(self, observations: Observations, deterministic: bool, masks: NDArray[np.bool_] | None) -> IntArray:
        logprobs = self.log_probabilities(observations, masks)
        if deterministic:
            calls = 1 + logprobs[:, 1:].argmax(axis=1)
            return np.where(_log_odds(logprobs) > self.cut.of(observations, self.layout), calls, 0)
        uniforms = self.generator.random((len(observations), 1))
        drawn = (np.exp(logprobs).cumsum(axis=1) <= uniforms).sum(axis=1)
        return np.minimum(drawn, len(self.actions) - 1)

    def config(self) -> dict[str, Any]:
        kind = "episode" if isinstance(self.network, EpisodeNetwork) else "observation"
        return {
            "network": kind, "width": self.network.width, "temperature": self.temperature, "cut": self.cut.record(),
            "at_end": self.at_end, "prices": None if self.prices is None else [one.tolist() for one in self.prices],
        }  # fmt: skip

    def save(self, folder: str | Path) -> None:
        super().save(folder)
        save_file(self.network.state_dict(), Path(folder) / WEIGHTS)

    @classmethod
    def restore(cls, record: dict[str, Any], folder: Path) -> Gate:
        layout, actions = frame(record)
        kinds: dict[str, type[ObservationNetwork] | type[EpisodeNetwork]]
        kinds = {"observation": ObservationNetwork, "episode": EpisodeNetwork}
        prices = record.get("prices")
        outputs = len(actions) * (1 if prices is None else 2)
        network = kinds[record.get("network", "observation")](layout.size, outputs, record["width"])
        network.load_state_dict(load_file(folder / WEIGHTS))
        cut, at_end = CutTable(**record["cut"]), record.get("at_end", False)
        grid = None if prices is None else (np.array(prices[0]), np.array(prices[1]))
        return cls(layout, actions, network.eval(), record["temperature"], cut, at_end, grid)


def priced(outputs: Numbers, price: Numbers) -> Numbers:
    """(n, actions) what actions earn minus lambda (n,) times what they spend, from outputs (n, 2 actions)."""
    actions = outputs.shape[1] // 2
    return outputs[:, :actions] - price[:, None] * outputs[:, actions:]


def masks_at_end(masks: NDArray[np.bool_], observations: Observations, layout: Layout) -> NDArray[np.bool_]:
    """(rows, actions) these masks, without calls where the text would not end."""
    masks = masks.copy()
    masks[:, 1:] &= observations[:, layout["would_end"].start][:, None] > 0
    return masks


def _log_odds(logprobs: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.log(np.exp(logprobs[:, 1:]).sum(axis=1)) - logprobs[:, 0]
