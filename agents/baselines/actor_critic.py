"""An on-policy actor-critic with all that constrained PCL has, but its residual, replay and demonstrations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from agents.base import Agent
from agents.baselines.lagrangian import Log, check_limit
from agents.pcl import losses
from agents.pcl.agent import describe
from agents.pcl.config import PCLConfig
from agents.pcl.learner import Learner, follow
from agents.rollout import Collector, Episodes
from tw_env.policies import Gate


@dataclass(frozen=True)
class ActorCriticConfig:
    """How the gate is trained."""

    pcl: PCLConfig = field(default_factory=PCLConfig)
    """Rounds, episodes, networks, step sizes, multiplier and entropy weight, as constrained PCL has them; its replay,
    demonstrations and path lengths are not used."""
    gae_lambda: float = 0.95
    """Of the advantage estimate; gamma is 1. At 1 the advantage is the Monte Carlo return minus V."""


class ActorCritic(Agent):
    """Policy gradient with a V baseline, in any vector environment with Discrete actions and `info["cost"]`.

    It maximises what constrained PCL does, E[sum r] + alpha * H(gate) - lambda * E[sum (c - allowance)], with
    the same networks (gate, V_R, V_C), multiplier, step sizes and number of gradient steps, so that the difference
    between the two is what PCL's residual on replayed and demonstrated paths adds. The gate's network gives logits
    (temperature 1) instead of advantages: the policy gradient has no fixed point in the reward's unit, and its steps
    would be 1 / alpha times too long.

    Give the gate its cuts with `agents.baselines.calibration.calibrate`.
    """

    name = "actor-critic"

    def __init__(self, config: ActorCriticConfig | None = None) -> None:
        self.config = ActorCriticConfig() if config is None else config
        self.policy: Gate | None = None

    def learn(self, env: VectorEnv, log: Log | None = None) -> ActorCritic:
        """Train on an environment with SAME_STEP autoreset.

        Args:
            log: called with (round, numbers by name).

        Raises:
            ValueError: another autoreset mode, other spaces, or no limit.
        """
        self._prepare(env)
        for iteration in range(self.config.pcl.iterations):
            numbers = self._round(iteration)
            if log is not None:
                log(iteration, numbers)
        self.policy = self._learner.finish()
        return self

    def _prepare(self, env: VectorEnv) -> None:
        config, (layout, actions, sampling) = self.config.pcl, describe(env)
        check_limit(config.limit, layout)
        settled = replace(config, siblings=0).settled(hasattr(env, "game"), sampling)
        self._learner = Learner(replace(settled, alpha=1.0, alpha_final=1.0), layout, actions)
        self._generator = np.random.default_rng(config.seed)
        self._collector = Collector(env, config.seed)
        self._learner.standardise(self._collector.collect(self._learner.policy, config.episodes).observations)

    def _round(self, iteration: int) -> dict[str, float]:
        """Play, move the multiplier, learn."""
        config, learner = self.config.pcl, self._learner
        learner.begin(iteration)
        alpha = config.alpha_at(iteration)
        fresh = self._collector.collect(learner.policy, config.episodes)
        limits, violation = learner.limits(fresh.observations[fresh.starts[:-1]]), learner.violation(fresh)
        learner.multiplier.update(limits, violation)
        judged = self._judge(fresh, torch.from_numpy(learner.multiplier.of(limits)).float(), alpha)
        before = iteration * config.updates
        for more in range(config.updates):
            drawn = self._generator.integers(len(fresh), size=config.batch)
            steps = torch.from_numpy(np.flatnonzero(np.isin(fresh.of_step, drawn)))
            self._update({name: values[steps] for name, values in judged.items()})
            done = before + more
            follow(learner.averaged, learner.gate, min(config.averaging, (1 + done) / (10 + done)))
        return learner.tell(fresh, alpha)

    # ---- learning ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _judge(self, fresh: Episodes, price: Tensor, alpha: float) -> dict[str, Tensor]:
        """What updates need of each step, under the gate that played: log-probability, advantage, targets of V.

        Args:
            price: (episodes,) lambda.
        """
        learner = self._learner
        observations, actions = torch.from_numpy(fresh.observations), torch.from_numpy(fresh.actions)
        masks, starts, of_step = (torch.from_numpy(a) for a in (fresh.masks, fresh.starts, fresh.of_step))
        logprob = self._logprob(observations, actions, masks)
        rewards = torch.from_numpy(fresh.rewards).float() - alpha * logprob
        excess = torch.from_numpy(fresh.costs - fresh.allowances).float()
        last, goes_on = torch.from_numpy(fresh.last), torch.from_numpy(fresh.cut & bool(learner.config.bootstrap))
        last_r, last_c = (network(last)[:, 0] * goes_on for network in (learner.value_r, learner.value_c))
        prices = price[of_step]
        values = learner.value_r(observations)[:, 0] - prices * learner.value_c(observations)[:, 0]
        gains, last_values = (rewards - prices * excess).numpy(), (last_r - price * last_c).numpy()
        advantage = advantages(gains, values.numpy(), last_values, fresh.starts, self.config.gae_lambda)
        return {
            "observations": observations,
            "actions": actions,
            "masks": masks,
            "logprob": logprob,
            "advantage": torch.from_numpy(advantage).float() / (1.0 + prices),
            "target_r": losses.remaining(rewards, starts, of_step) + last_r[of_step],
            "target_c": losses.remaining(excess, starts, of_step) + last_c[of_step],
        }

    def _logprob(self, observations: Tensor, actions: Tensor, masks: Tensor) -> Tensor:
        """(steps,) log P(action | observation)."""
        logits = self._learner.gate(observations).masked_fill(~masks, -torch.inf)
        return logits.log_softmax(-1).gather(1, actions[:, None])[:, 0]

    def _update(self, batch: dict[str, Tensor]) -> None:
        """One gradient step of gate, V_R and V_C.

        The ratio corrects for the steps that the gate has made since it played; at the first of them its gradient is
        the policy gradient.
        """
        learner = self._learner
        logprob = self._logprob(batch["observations"], batch["actions"], batch["masks"])
        ratio = (logprob - batch["logprob"]).exp()
        gate_loss = -(ratio * batch["advantage"]).mean()
        value_r, value_c = (network(batch["observations"])[:, 0] for network in (learner.value_r, learner.value_c))
        value_loss = 0.5 * (value_r - batch["target_r"]).square().mean()
        value_loss = value_loss + 0.5 * (value_c - batch["target_c"]).square().mean()
        for adam, loss in ((learner.gate_adam, gate_loss), (learner.value_adam, value_loss)):
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(adam.param_groups[0]["params"], learner.config.clip)
            adam.step()


def advantages(
    gains: NDArray[Any], values: NDArray[Any], last: NDArray[Any], starts: NDArray[np.int64], gae_lambda: float
) -> NDArray[Any]:
    """(steps,) generalised advantage estimates with gamma = 1 (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

    Args:
        gains: (steps,) rewards. values: (steps,) V. last: (episodes,) V behind each episode.
        starts: (episodes + 1,) where each episode begins, and the number of steps.
    """
    ends = starts[1:] - 1
    behind = np.append(values[1:], 0.0)
    behind[ends] = last
    estimates = gains + behind - values
    lengths = np.diff(starts)
    for back in range(1, int(lengths.max())):  # from each episode's end, all episodes at once
        at = ends[lengths > back] - back
        estimates[at] += gae_lambda * estimates[at + 1]
    return estimates
