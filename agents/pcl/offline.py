"""Constrained PCL from logged play alone: no environment, no model.

Path-consistency residuals hold on anybody's paths (whole ones in a deterministic game, single steps otherwise), so the
gate learns as it does from replay. What play would tell beyond that, how much the gate spends, moves the multiplier:

- In a greedy game of this project with several logged paths of a prompt, it is read off them
  (`agents.pcl.counterfactual`), as are the cuts of deterministic play. V is the mean of a prompt's paths.
- Elsewhere it is estimated by fitted Q evaluation of spent - allowed (Le et al. 2019, arXiv 1903.08738, algorithm 3):

      Q_C(s_t, a_t) <- c_t - allowance_t + sum_a P(a | s_{t+1}) Q_C(s_{t+1}, a),   V_C(s) = sum_a P(a | s) Q_C(s, a)

  with P the gate as it is now; nothing is weighted by ratios of policies. It trusts the critic where the log shows
  little: an action that no behaviour policy took in a kind of state is a guess there, and play never corrects it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.baselines.calibration import CalibrationConfig
from agents.limits import SHARES
from agents.pcl.agent import PCL, Log
from agents.pcl.config import PCLConfig
from agents.pcl.counterfactual import LoggedPaths
from agents.pcl.learner import Learner, Part, follow
from agents.pcl.logged import LoggedPlay
from agents.pcl.paths import relabel
from agents.rollout import Episodes
from tw_env.actions import Action
from tw_env.policies import Gate, ObservationNetwork
from tw_env.policies.cuts import CutTable

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class OfflineConfig:
    """How a gate is learned from logged play."""

    pcl: PCLConfig = field(default_factory=PCLConfig)
    """Rounds, updates, networks, multiplier and entropy weight; of its `episodes`, starting states are drawn a round to
    estimate the violation."""
    warm_up: int = 500
    """Without siblings: gradient steps of the cost critic on the untrained gate before anything else moves."""
    critic_lr: float = 2e-3
    """Without siblings: Adam's step size for the cost critic."""
    limits: tuple[float, ...] = CalibrationConfig.limits
    """Limits on calls per token that get a cut."""


class CostCritic:
    """Q_C(s, a), the expected remaining spent - allowed after an action, fitted to logged steps.

    Args:
        inputs: size of what it sees. actions: how many there are.
    """

    def __init__(self, inputs: int, actions: int, config: OfflineConfig, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.network = ObservationNetwork(inputs, actions, config.pcl.width)
        self.lagged = copy.deepcopy(self.network)
        self.adam = torch.optim.Adam(self.network.parameters(), config.critic_lr)
        self.lag = config.pcl.lag

    def standardise(self, seen: Tensor) -> None:
        """Scale what it sees by examples (n, inputs)."""
        for network in (self.network, self.lagged):
            network.standardise.fit(seen)

    def update(self, episodes: Episodes, seen: Tensor, policy: Tensor) -> float:
        """One gradient step.

        Args:
            seen: (steps, inputs) of these episodes. policy: (steps, actions) probabilities of the evaluated policy.
        """
        with torch.no_grad():
            values = (policy * self.lagged(seen)).sum(1)
            following = torch.cat([values[1:], values.new_zeros(1)])
            following[torch.from_numpy(episodes.starts[1:]) - 1] = 0.0  # nothing is spent behind an episode's end
            target = torch.from_numpy(episodes.costs - episodes.allowances).float() + following
        taken = self.network(seen).gather(1, torch.from_numpy(episodes.actions)[:, None])[:, 0]
        loss = 0.5 * (taken - target).square().mean()
        self.adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.adam.step()
        follow(self.lagged, self.network, self.lag)
        return float(loss.detach())

    @torch.no_grad()
    def values(self, seen: Tensor, policy: Tensor) -> Tensor:
        """(n,) V_C of a policy with probabilities (n, actions) where it sees (n, inputs)."""
        return (policy * self.network(seen)).sum(1)


def learn_offline(play: LoggedPlay, config: OfflineConfig | None = None, log: Log | None = None) -> PCL:
    """Train gate and multiplier on logged play.

    Args:
        log: called with (round, numbers by name); `violation` is what is estimated.

    Returns:
        An agent whose gate plays drawn actions; see `cut_offline` for deterministic ones.

    Raises:
        ValueError: a gate that reads whole texts, or siblings asked for where paths can't be told anew.
    """
    config = OfflineConfig() if config is None else config
    if config.pcl.whole_text:
        raise ValueError("Expected whole_text=False: offline, gates are judged at single states. Got True.")
    settings = config.pcl.settled(
        in_game="limit" in play.layout, sampling=play.sampling, verifies=Action.VERIFY in play.actions,
        limited=SHARES if "prompt" in play.episodes.sums else None,
    )  # fmt: skip
    agent = PCL(config.pcl)
    agent.learner = Learner(settings, play.layout, play.actions)
    (_learn_from_siblings if settings.siblings else _learn_with_critic)(agent.learner, play, config, log)
    agent.policy = agent.learner.finish()
    return agent


def cut_offline(agent: PCL, play: LoggedPlay, config: OfflineConfig | None = None) -> CutTable:
    """Give the gate the lowest cuts whose spending on the logged prompts keeps each limit.

    `agents.baselines.calibration.calibrate`, which plays, needs the models; this needs none.

    Returns:
        The table, which is also set as `agent.policy.cut`.

    Raises:
        ValueError: see `LoggedPaths`.
    """
    config = OfflineConfig() if config is None else config
    gate = agent.learned()
    assert isinstance(gate, Gate)
    gate.cut = LoggedPaths(play, gate.at_end).cuts(gate, config.limits)
    return gate.cut


# ---- with siblings ---------------------------------------------------------------------------------------------


def _learn_from_siblings(learner: Learner, play: LoggedPlay, config: OfflineConfig, log: Log | None) -> None:
    settings, generator = learner.config, np.random.default_rng(learner.config.seed)
    logged = LoggedPaths(play, bool(settings.at_end))
    if not logged.store.varied:
        raise ValueError("Expected at least one prompt with two distinct logged paths, found none: log more of each.")

    def limits(count: int) -> FloatArray:
        return np.exp(generator.uniform(np.log(0.5 * min(settings.limits)), np.log(max(settings.limits)), count))

    paths, _ = logged.store.everything()
    learner.standardise(relabel(paths, play.layout, limits(len(paths))).observations)
    for iteration in range(settings.iterations):
        alpha = learner.begin(iteration)
        places, asked = generator.integers(len(logged.prompts), size=settings.episodes), limits(settings.episodes)
        violation, covered = logged.expected(learner.policy, places, asked)
        learner.multiplier.update(asked, violation)
        losses = []
        for more in range(settings.updates):
            prompts = generator.choice(logged.prompts, size=settings.prompts)
            siblings = logged.store.draw(generator, prompts, limits(settings.prompts), settings.siblings or 2)
            if siblings is not None:
                losses.append(learner.update_siblings(siblings, alpha, iteration * settings.updates + more))
        if log is not None:
            log(iteration, {"covered": float(covered.mean()), **_told(learner, alpha, violation, losses)})


# ---- with a critic ---------------------------------------------------------------------------------------------


def _learn_with_critic(learner: Learner, play: LoggedPlay, config: OfflineConfig, log: Log | None) -> None:
    settings, episodes = learner.config, play.episodes
    learner.standardise(episodes.observations)
    critic = CostCritic(play.layout.size, len(play.actions), config, settings.seed + 1)
    critic.standardise(torch.from_numpy(episodes.observations))
    generator = np.random.default_rng(settings.seed)

    def evaluate() -> tuple[Episodes, Tensor, Tensor, float]:
        batch = episodes.take(generator.integers(len(episodes), size=settings.batch))
        seen, policy = torch.from_numpy(batch.observations), probabilities(learner.policy, batch)
        return batch, seen, policy, critic.update(batch, seen, policy)

    learner.begin(0)
    for _ in range(config.warm_up):
        evaluate()
    for iteration in range(settings.iterations):
        alpha = learner.begin(iteration)
        limits, violation = _violation(learner, critic, episodes, generator)
        learner.multiplier.update(limits, violation)
        losses = []
        for more in range(settings.updates):
            batch, seen, policy, critic_loss = evaluate()
            part = Part(batch, current=False, cost_targets=critic.values(seen, policy))
            found = learner.update([part], alpha, iteration * settings.updates + more)
            losses.append({**found, "Q_C": critic_loss})
        if log is not None:
            log(iteration, _told(learner, alpha, violation, losses))


def _told(
    learner: Learner, alpha: float, violation: FloatArray, losses: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Numbers of a round, for a log."""
    return {
        "violation": float(violation.mean()), "alpha": alpha,
        "lambda/mean": float(learner.multiplier.value.mean()), **learner.multiplier.numbers(),
        **{f"loss/{name}": float(np.mean([loss[name] for loss in losses])) for name in (losses[0] if losses else ())},
    }  # fmt: skip


def probabilities(gate: Gate, episodes: Episodes) -> Tensor:
    """(steps, actions) P(action) of the gate at each step of these episodes."""
    return torch.from_numpy(np.exp(gate.log_probabilities(episodes.observations, episodes.masks))).float()


def _violation(
    learner: Learner, critic: CostCritic, episodes: Episodes, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Limits and estimated violation of the gate from logged starting states, (config.episodes,) each."""
    chosen = generator.integers(len(episodes), size=learner.config.episodes)
    starts = episodes.starts[chosen]
    seen, masks = episodes.observations[starts], episodes.masks[starts]
    policy = torch.from_numpy(np.exp(learner.policy.log_probabilities(seen, masks))).float()
    spent = critic.values(torch.from_numpy(seen), policy).double().numpy()
    return learner.limits(seen), spent - episodes.before[chosen] - (learner.config.limit or 0.0)
