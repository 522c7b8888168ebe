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
from agents.limits import soft_limits
from agents.pcl import losses
from agents.pcl.agent import describe, settled
from agents.pcl.config import PCLConfig
from agents.pcl.learner import Learner, follow
from agents.pcl.paths import SiblingPlay
from agents.rollout import Collector, Episodes
from tw_env.policies import Gate
from tw_env.policies.gate import masks_at_end, priced


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

    It maximises what constrained PCL does, E[sum r] + alpha * H(gate) - lambda * E[sum (c - allowance)], with the
    same observations, prompts and rules, the same gate (what actions earn apart from what they spend; calls only where
    the text would end, wherever PCL's gate has it so), V_R, V_C, multiplier, step sizes and number of gradient steps,
    so that the difference between the two is what PCL's residual on replayed and demonstrated paths adds. The gate's
    network gives logits (temperature 1) instead of advantages: the policy gradient has no fixed point in the reward's
    unit, and its steps would be 1 / alpha times too long.

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
            ValueError: another autoreset mode, other spaces, no limit, or a gate that reads whole texts.
        """
        self._prepare(env)
        for iteration in range(self.config.pcl.iterations):
            numbers = self._round(iteration)
            if log is not None:
                log(iteration, numbers)
        self.policy = self._learner.finish()
        return self

    def _prepare(self, env: VectorEnv) -> None:
        config, (layout, actions, _) = settled(self.config.pcl, env), describe(env)
        check_limit(config.limit, layout)
        if config.whole_text:
            raise ValueError("Expected whole_text=False: the actor-critic learns from single states. Got True.")
        self._learner = Learner(replace(config, alpha=1.0, alpha_final=1.0), layout, actions, valued=True)
        self._generator = np.random.default_rng(config.seed)
        self._siblings = SiblingPlay(env, config, soft_limits(env)) if config.siblings else None
        self._collector = Collector(env, config.seed)
        self._learner.standardise(self._play(config.seed).observations)

    def _play(self, seed: int) -> Episodes:
        """A round of episodes, of the same prompts and rules as constrained PCL plays."""
        if self._siblings is None:
            return self._collector.collect(self._learner.policy, self.config.pcl.episodes)
        return self._siblings.play(self._learner.policy, self._generator, seed)

    def _round(self, iteration: int) -> dict[str, float]:
        """Play, move the multiplier, learn."""
        config, learner = self.config.pcl, self._learner
        learner.begin(iteration)
        alpha = config.alpha_at(iteration)
        fresh = self._play(config.seed + 1_000_003 * (1 + iteration))
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
        learner, networks = self._learner, self._learner.values
        observations, actions = torch.from_numpy(fresh.observations), torch.from_numpy(fresh.actions)
        masks, starts, of_step = (torch.from_numpy(a) for a in (self._masks(fresh), fresh.starts, fresh.of_step))
        shown = self._shown(fresh)
        logprob = self._logprob(observations, actions, masks, shown)
        rewards = torch.from_numpy(fresh.rewards).float() - alpha * logprob
        excess = torch.from_numpy(fresh.costs - fresh.allowances).float()
        last, goes_on = torch.from_numpy(fresh.last), torch.from_numpy(fresh.cut & bool(learner.config.bootstrap))
        last_r, last_c = (network(last)[:, 0] * goes_on for network in (networks.reward, networks.cost))
        prices = price[of_step]
        values = networks.reward(observations)[:, 0] - prices * networks.cost(observations)[:, 0]
        gains, last_values = (rewards - prices * excess).numpy(), (last_r - price * last_c).numpy()
        advantage = advantages(gains, values.numpy(), last_values, fresh.starts, self.config.gae_lambda)
        return {
            "observations": observations,
            "actions": actions,
            "masks": masks,
            "shown": shown,
            "logprob": logprob,
            "advantage": torch.from_numpy(advantage).float() / (1.0 + prices),
            "target_r": losses.remaining(rewards, starts, of_step) + last_r[of_step],
            "target_c": losses.remaining(excess, starts, of_step) + last_c[of_step],
        }

    def _masks(self, fresh: Episodes) -> NDArray[np.bool_]:
        """(steps, actions) what the gate chose from."""
        layout = self._learner.layout
        return masks_at_end(fresh.masks, fresh.observations, layout) if self._learner.config.at_end else fresh.masks

    def _shown(self, fresh: Episodes) -> Tensor:
        """(steps,) lambda that the gate was told when it played, 0 for a gate that is told none."""
        told, limits = self._learner.policy.prices, self._learner.limits(fresh.observations)
        return torch.from_numpy(limits * 0 if told is None else self._learner.multiplier.weights(limits) @ told[1])

    def _logprob(self, observations: Tensor, actions: Tensor, masks: Tensor, shown: Tensor) -> Tensor:
        """(steps,) log P(action | observation)."""
        outputs = self._learner.gate(observations)
        logits = priced(outputs, shown.float()) if self._learner.config.siblings else outputs
        logits = logits.masked_fill(~masks, -torch.inf)
        return logits.log_softmax(-1).gather(1, actions[:, None])[:, 0]

    def _update(self, batch: dict[str, Tensor]) -> None:
        """One gradient step of gate, V_R and V_C.

        The ratio corrects for the steps that the gate has made since it played; at the first of them its gradient is
        the policy gradient.
        """
        learner, networks = self._learner, self._learner.values
        logprob = self._logprob(*(batch[name] for name in ("observations", "actions", "masks", "shown")))
        ratio = (logprob - batch["logprob"]).exp()
        gate_loss = -(ratio * batch["advantage"]).mean()
        value_r, value_c = (network(batch["observations"])[:, 0] for network in (networks.reward, networks.cost))
        value_loss = 0.5 * (value_r - batch["target_r"]).square().mean()
        value_loss = value_loss + 0.5 * (value_c - batch["target_c"]).square().mean()
        for adam, loss in ((learner.gate_adam, gate_loss), (networks.adam, value_loss)):
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
