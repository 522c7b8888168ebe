"""From a network that stable-baselines3 trained to a `Gate`: the same inputs, layers and files as constrained PCL's."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from agents.rollout import Collector
from tw_env.actions import Action
from tw_env.observations import Layout
from tw_env.policies import Gate, ObservationNetwork
from tw_env.policies.networks import Standardise

FIRST_EPISODES = 256  # that the shift and the scale of observations are taken from


class Standardised(BaseFeaturesExtractor):
    """Observations (n, size) as the gate's network sees them, (n, 2 size)."""

    def __init__(self, observation_space: Box, standardise: Standardise) -> None:
        super().__init__(observation_space, 2 * int(np.prod(observation_space.shape)))
        self.standardise = copy.deepcopy(standardise)

    def forward(self, observations: Tensor) -> Tensor:
        return self.standardise(observations)


def architecture(standardise: Standardise, width: int) -> dict[str, Any]:
    """`policy_kwargs` that make stable-baselines3 build the layers of an `ObservationNetwork`."""
    return {
        "net_arch": [width, width],
        "activation_fn": nn.SiLU,
        "features_extractor_class": Standardised,
        "features_extractor_kwargs": {"standardise": standardise},
    }


def call_odds(rate: float, actions: int) -> float:
    """Logit of each call above SELF's where all calls together are drawn with probability `rate`, all alike."""
    return float(np.log(rate / (1 - rate) / (actions - 1)))


def untrained_gate(layout: Layout, actions: tuple[Action, ...], width: int, rate: float, seed: int) -> Gate:
    """Calls with probability `rate` in about every state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = ObservationNetwork(layout.size, len(actions), width)
    with torch.no_grad():
        network.head.weight *= 0.01
        network.head.bias[:] = call_odds(rate, len(actions))
        network.head.bias[0] = 0.0
    gate = Gate(layout, actions, network)
    gate.seed(seed)
    return gate


def fitted(env: VectorEnv, gate: Gate, seed: int) -> Standardise:
    """Shift and scale of the observations that the gate's first episodes show."""
    shown = Collector(env, seed).collect(gate, FIRST_EPISODES).observations
    standardise = Standardise(shown.shape[1])
    standardise.fit(torch.from_numpy(shown))
    return standardise


def gate_of(
    layout: Layout,
    actions: tuple[Action, ...],
    standardise: Standardise,
    body: nn.Sequential,
    head: nn.Linear,
    temperature: float = 1.0,
) -> Gate:
    """The gate with these trained layers. Arguments as of `Gate` and `ObservationNetwork`."""
    with torch.random.fork_rng(devices=[]):
        network = ObservationNetwork(layout.size, len(actions), head.in_features)
    for ours, theirs in ((network.standardise, standardise), (network.body, body), (network.head, head)):
        ours.load_state_dict(theirs.state_dict())
    return Gate(layout, actions, network.eval(), temperature)


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Keep stable-baselines3's seeding, which sets the generators of the whole process, from reaching the caller."""
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
