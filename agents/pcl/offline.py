"""Constrained PCL from logged play alone: no environment, no model.

What play would tell is estimated. Path-consistency residuals hold on anybody's paths (whole ones in a deterministic
game, single steps otherwise), so gate and V_R learn as they do from replay. What the gate spends, which moves the
multiplier, comes from fitted Q evaluation of spent - allowed (Le et al. 2019, arXiv 1903.08738, algorithm 3):

    Q_C(s_t, a_t) <- c_t - allowance_t + sum_a P(a | s_{t+1}) Q_C(s_{t+1}, a),     V_C(s) = sum_a P(a | s) Q_C(s, a)

with P the gate as it is now; nothing is weighted by ratios of policies. The deterministic cut is found in the same way,
with a critic for every cut at once. Both trust the critic where the log shows little: an action that no behaviour
policy took in a kind of state is a guess there, and play never corrects it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from torch import Tensor

from agents.pcl.agent import PCL, Log
from agents.pcl.config import PCLConfig
from agents.pcl.learner import Learner, Part, follow
from agents.pcl.logged import LoggedPlay
from agents.pcl.multiplier import Multiplier
from agents.rollout import Episodes
from tw_env.policies import Gate, ObservationNetwork
from tw_env.policies.cuts import CutTable
from tw_env.rules import Quantity

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class OfflineConfig:
    """How a gate is learned from logged play."""

    pcl: PCLConfig = field(default_factory=PCLConfig)
    """Rounds, updates, networks, multiplier and entropy weight; of its `episodes`, starting states are drawn a round to
    estimate the violation."""
    warm_up: int = 500
    """Gradient steps of the cost critic on the untrained gate before anything else moves."""
    critic_lr: float = 2e-3
    """Adam's step size for the cost critics; that of the cut's critic falls to a tenth."""
    cut_updates: int = 3000
    """Gradient steps of the critic that finds the cuts."""
    cuts: int = 101
    """Cuts that are compared: quantiles of the gate's scores in the log."""


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
    """Train gate, values and multiplier on logged play.

    Args:
        log: called with (round, numbers by name); `violation` is the critic's estimate.

    Returns:
        An agent whose gate plays drawn actions; see `cut_offline` for deterministic ones.
    """
    config = OfflineConfig() if config is None else config
    agent, episodes = PCL(config.pcl), play.episodes
    pcl = replace(config.pcl, siblings=0)
    settings = pcl.settled(in_game="limit" in play.layout, sampling=play.sampling)
    agent.learner = learner = Learner(settings, play.layout, play.actions)
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
            log(iteration, {
                "violation": float(violation.mean()), "alpha": alpha,
                "lambda/mean": float(learner.multiplier.value.mean()), **learner.multiplier.numbers(),
                **{f"loss/{name}": float(np.mean([loss[name] for loss in losses])) for name in losses[0]},
            })  # fmt: skip
    agent.policy = learner.finish()
    return agent


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


# ---- the cut ---------------------------------------------------------------------------------------------------


def cut_offline(agent: PCL, play: LoggedPlay, config: OfflineConfig | None = None) -> CutTable:
    """Give the gate the lowest cuts whose estimated spending keeps each limit of the grid.

    A critic that sees the cut's rank, too, evaluates deterministic play for all cuts at once. It answers for limits on
    calls per token, and for logged starting states under limits nearby. `agents.baselines.calibration.calibrate`, which
    plays, is surer; this needs no models.

    Returns:
        The table, which is also set as `agent.policy.cut`.
    """
    config = OfflineConfig() if config is None else config
    gate, episodes = agent.learned(), play.episodes
    assert isinstance(gate, Gate)
    policies = _CutPolicies(gate, play, config.cuts)
    critic = CostCritic(play.layout.size + 1, len(play.actions), config, config.pcl.seed + 2)
    generator = np.random.default_rng(config.pcl.seed + 3)
    critic.standardise(policies.seen(np.arange(episodes.steps), generator.random(episodes.steps)))
    for update in range(config.cut_updates):
        critic.adam.param_groups[0]["lr"] = config.critic_lr * (1 - 0.9 * update / config.cut_updates)
        chosen = generator.integers(len(episodes), size=config.pcl.batch)
        batch = episodes.take(chosen)
        of_step = batch.of_step
        steps = episodes.starts[chosen][of_step] + np.arange(batch.steps) - batch.starts[:-1][of_step]
        ranks = generator.random(len(batch))[of_step]
        critic.update(batch, policies.seen(steps, ranks), policies.probabilities(steps, ranks))
    starts = episodes.starts[:-1]
    limits = episodes.observations[starts, play.layout["limit"].start].astype(np.float64)
    bound = (limits > 0) & (limits < 1)
    weights = Multiplier(np.array(config.pcl.limits)).weights(limits[bound])  # (episodes, limits)
    violation = np.stack([  # (cuts, limits)
        weights.T @ (policies.spent(critic, starts[bound], rank) - episodes.before[bound]) / weights.sum(axis=0)
        for rank in policies.ranks
    ])  # fmt: skip
    cuts = []
    for column in violation.T:  # a higher cut spends less: what says otherwise is the critic's error
        keeps = np.flatnonzero(isotonic_regression(column, increasing=False).x <= 0)
        cuts.append(float(policies.cut(policies.ranks[keeps[0] if keeps.size else -1])))
    name = Quantity.CALLS_PER_TOKEN.value
    gate.cut = CutTable(limits={name: list(config.pcl.limits)}, cuts={name: cuts})
    return gate.cut


class _CutPolicies:
    """Deterministic play of a gate at logged steps, for cuts given as ranks in [0, 1] among its scores there."""

    def __init__(self, gate: Gate, play: LoggedPlay, cuts: int) -> None:
        logprobs = gate.log_probabilities(play.episodes.observations, play.episodes.masks)
        with np.errstate(divide="ignore"):
            self.scores = np.log(np.exp(logprobs[:, 1:]).sum(axis=1)) - logprobs[:, 0]
        self.call = 1 + logprobs[:, 1:].argmax(axis=1)  # (steps,) the likeliest kind
        self.observations, self.actions = torch.from_numpy(play.episodes.observations), len(play.actions)
        self.ranks = np.linspace(0, 1, cuts)
        self._quantiles = np.quantile(self.scores[np.isfinite(self.scores)], self.ranks)

    def cut(self, ranks: FloatArray) -> FloatArray:
        """The scores of these ranks."""
        return np.interp(ranks, self.ranks, self._quantiles)

    def seen(self, steps: NDArray[np.int64], ranks: FloatArray) -> Tensor:
        """(n, size + 1) observations of these steps and the cut's rank."""
        return torch.cat([self.observations[torch.from_numpy(steps)], torch.from_numpy(ranks).float()[:, None]], dim=1)

    def probabilities(self, steps: NDArray[np.int64], ranks: FloatArray) -> Tensor:
        """(n, actions) one-hot: a call above the cut, the first action elsewhere."""
        chosen = np.where(self.scores[steps] > self.cut(ranks), self.call[steps], 0)
        return torch.nn.functional.one_hot(torch.from_numpy(chosen), self.actions).float()

    def spent(self, critic: CostCritic, steps: NDArray[np.int64], rank: float) -> FloatArray:
        """(n,) estimated spent - allowed from these steps on."""
        ranks = np.full(len(steps), rank)
        return critic.values(self.seen(steps, ranks), self.probabilities(steps, ranks)).double().numpy()
