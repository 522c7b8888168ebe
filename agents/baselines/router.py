"""Supervised routers: networks that predict what a call changes or gains, thresholded as policies in the game."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from agents.base import Agent
from agents.baselines.calibration import CalibrationConfig, calibrate
from agents.baselines.episode_network import CHANGE, GAIN, Ensemble, StateNetwork
from agents.baselines.router_paths import Paths, paths_of
from agents.baselines.router_policy import RouterPolicy, Target, columns
from tw_env.actions import Action
from tw_env.policies.cuts import CutTable
from tw_env.vector_env import AssistedDecodingVectorEnv


@dataclass(frozen=True)
class RouterConfig:
    """What a router sees and predicts, and how it is fitted."""

    target: Target = Target.DISAGREEMENT
    """What is predicted and compared with the cut."""
    episode: bool = False
    """Read all states of the text with a recurrent network, instead of the last one alone."""
    prompts: int | None = None
    """Prompts that it learns from; None for all of the environment's."""
    members: int = 3
    """Networks whose predictions are averaged."""
    epochs: int = 6
    """Passes over the texts."""
    batch: int = 256
    """Texts per update."""
    learning_rate: float = 2e-3
    """AdamW's step size after 100 updates; it falls linearly to zero."""
    weight_decay: float = 0.01
    """Decoupled decay."""
    width: int = 64
    """Units of each layer."""
    dropout: float = 0.1
    """Share of units left out in training."""
    averaging: float = 0.99
    """Decay of the averaged weights; the average is what is learned."""
    gain_weight: float = 4.0
    """Weight of the squared error of the gain beside the cross entropy of the disagreement."""
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    """Of the cuts."""
    seed: int = 0
    """Seed of the first weights and of the order of the texts."""


class Router(Agent):
    """Learns from paths on which the student goes on alone, then calibrates its cuts; greedy decoding only.

    With `episode` and the gain as its target it estimates the information limit of a frozen student: how well its
    states let a policy call where the next call gains most, given so many prompts to learn from.

    Args:
        config: what it sees and predicts.
        call: `ASK` or `VERIFY`; None takes the last of the game's action set.
    """

    def __init__(self, config: RouterConfig | None = None, call: Action | None = None) -> None:
        self.config = RouterConfig() if config is None else config
        self.call = call
        self.policy: RouterPolicy | None = None
        self.name = _NAMES[self.config.episode, self.config.target]

    def learn(self, env: AssistedDecodingVectorEnv, progress: Callable[[float], object] | None = None) -> Router:
        """Play the paths (once for all routers of this environment), fit, calibrate.

        Args:
            env: of greedy decoding; made with `hidden=True` it shows the student's last hidden state, too.
            progress: called with the finished share, from 0 to 1.

        Raises:
            ValueError: the environment samples, or its game lacks the call.
        """
        tell = progress or (lambda share: None)
        config, actions = self.config, env.game.spec.actions
        call = actions[-1] if self.call is None else self.call
        paths = paths_of(env, call, config.prompts)
        tell(0.1)
        network = fit(paths, columns(env.layout), config, lambda share: tell(0.1 + 0.4 * share))
        self.policy = RouterPolicy(env.layout, actions, network, config.target, CutTable(), call)
        rounds = config.calibration.rounds
        calibrate(self.policy, env, config.calibration, lambda done: tell(0.5 + 0.5 * done / rounds))
        return self

    @staticmethod
    def restore(folder: str | Path) -> RouterPolicy:
        """Read the policy that `save` wrote."""
        return RouterPolicy.read(folder)


_NAMES = {
    (False, Target.DISAGREEMENT): "router",
    (False, Target.GAIN): "router-gain",
    (True, Target.DISAGREEMENT): "router-episode",
    (True, Target.GAIN): "information-limit",
}


# ---- fitting ---------------------------------------------------------------------------------------------------


def fit(
    paths: Paths, read: NDArray[np.int64], config: RouterConfig, progress: Callable[[float], object] | None = None
) -> Ensemble:
    """Networks fitted to what a call changes and gains, at the places of these paths where one decides.

    Both are learned at once, whichever is the target: what they need from the states is alike.

    Args:
        read: columns of the states that the networks see.
        progress: called with the finished share.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        network = Ensemble(len(read), config.width, config.episode, config.members, config.dropout)
        states = torch.from_numpy(np.ascontiguousarray(paths.states[:, read]))
        for index, member in enumerate(network.networks):
            member.standardise.fit(states)
            _fit_member(member, paths, states, config, np.random.default_rng([config.seed, index]))
            if progress is not None:
                progress((index + 1) / config.members)
    return network.eval()


def _fit_member(
    member: StateNetwork, paths: Paths, states: Tensor, config: RouterConfig, generator: np.random.Generator
) -> None:
    targets = torch.from_numpy(np.stack([paths.changes, paths.gain], axis=1).astype(np.float32))  # (states, 2)
    useful = torch.from_numpy(paths.open)
    optimizer = torch.optim.AdamW(member.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    average = [weight.detach().clone() for weight in member.parameters()]
    decisions = np.add.reduceat(paths.open.astype(np.int64), paths.starts[:-1])
    chosen = np.flatnonzero(decisions)
    total, step = config.epochs * -(-len(chosen) // config.batch), 0
    member.train()
    for _ in range(config.epochs):
        for batch in _batches(chosen, paths, config.batch, generator):
            numbers = torch.from_numpy(paths.padded(batch))  # (texts, places)
            place = (numbers >= 0) & useful[numbers.clamp(min=0)]
            loss = _loss(member(states[numbers.clamp(min=0)])[place], targets[numbers[place]], config.gain_weight)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * min((step + 1) / 100, 1 - step / total)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(member.parameters(), 1.0)
            optimizer.step()
            step += 1
            decay = min(config.averaging, step / (step + 10))  # forgets the random start quickly
            for mean, weight in zip(average, member.parameters(), strict=True):
                mean.lerp_(weight.detach(), 1 - decay)
    with torch.no_grad():
        for mean, weight in zip(average, member.parameters(), strict=True):
            weight.copy_(mean)


def _batches(
    chosen: NDArray[np.int64], paths: Paths, size: int, generator: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """One pass over the chosen paths in random batches of similar lengths."""
    order = generator.permutation(chosen)
    order = order[np.argsort(np.diff(paths.starts)[order], kind="stable")]  # random among equal lengths
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    for index in generator.permutation(len(batches)):
        yield batches[index]


def _loss(outputs: Tensor, targets: Tensor, gain_weight: float) -> Tensor:
    """Cross entropy of the change plus weighted squared error of the gain, (n, 2) each."""
    change = functional.binary_cross_entropy_with_logits(outputs[:, CHANGE], targets[:, CHANGE])
    return change + gain_weight * functional.mse_loss(outputs[:, GAIN], targets[:, GAIN])
