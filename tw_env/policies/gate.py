"""A network that chooses actions from the observation; saved as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tw_env.actions import Action
from tw_env.observations import Layout
from tw_env.policies.cuts import CutTable
from tw_env.policies.policy import FloatArray, IntArray, Observations, Policy, frame

WEIGHTS = "policy.safetensors"
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
    """Numbers (n, outputs) from observations (n, size): standardised, then two hidden layers."""

    def __init__(self, inputs: int, outputs: int, width: int = 128) -> None:
        super().__init__()
        self.width = width
        self.standardise = Standardise(inputs)
        self.body = nn.Sequential(nn.Linear(2 * inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.head = nn.Linear(width, outputs)

    def forward(self, observations: Tensor) -> Tensor:
        return self.head(self.body(self.standardise(observations)))


class Gate(Policy):
    """Draws actions from softmax(network / temperature), or cuts the log-odds of calling.

    Args:
        network: (rows, actions) advantages in the reward's unit.
        temperature: alpha, the entropy weight that the network was trained with.
        cut: deterministic play calls where log P(any call) - log P(SELF) > cut, by the likeliest kind of call; a
            table holds a cut for every rule, calibrated to its limit.
    """

    kind = "gate"

    def __init__(
        self,
        layout: Layout,
        actions: tuple[Action, ...],
        network: ObservationNetwork,
        temperature: float = 1.0,
        cut: CutTable | None = None,
    ) -> None:
        super().__init__(layout, actions)
        self.network, self.temperature = network, temperature
        self.cut = CutTable(default=0.0) if cut is None else cut

    @torch.inference_mode()
    def log_probabilities(self, observations: Observations, masks: NDArray[np.bool_] | None = None) -> FloatArray:
        """(rows, actions) log-probabilities, -inf where a mask forbids."""
        logits = self.network(torch.from_numpy(np.ascontiguousarray(observations, np.float32))) / self.temperature
        if masks is not None:
            logits = logits.masked_fill(~torch.from_numpy(masks), -torch.inf)
        return logits.double().log_softmax(-1).numpy()

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
        return {"width": self.network.width, "temperature": self.temperature, "cut": self.cut.record()}

    def save(self, folder: str | Path) -> None:
        super().save(folder)
        save_file(self.network.state_dict(), Path(folder) / WEIGHTS)

    @classmethod
    def restore(cls, record: dict[str, Any], folder: Path) -> Gate:
        layout, actions = frame(record)
        network = ObservationNetwork(layout.size, len(actions), record["width"])
        network.load_state_dict(load_file(folder / WEIGHTS))
        return cls(layout, actions, network.eval(), record["temperature"], CutTable(**record["cut"]))


def _log_odds(logprobs: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.log(np.exp(logprobs[:, 1:]).sum(axis=1)) - logprobs[:, 0]
