"""What constrained PCL learns: gate, values and multiplier, and one gradient step on their residuals.

It knows no environment: `agents.pcl.agent` feeds it with play, `agents.pcl.offline` with logged play.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.pcl import losses
from agents.pcl.config import PCLConfig
from agents.pcl.multiplier import Multiplier
from agents.pcl.paths import Siblings
from agents.rollout import Episodes
from tw_env.observations import Layout
from tw_env.policies import EpisodeNetwork, Gate, ObservationNetwork
from tw_env.policies.gate import masks_at_end, priced
from tw_env.policies.networks import steps_before

FloatArray = NDArray[np.float64]
ONLY_LIMIT = 0.5  # stands for the one limit of environments whose observations name no rule


@dataclass
class Part:
    """A share of a batch.

    Attributes:
        current: played by the gate as it is now.
        cost_targets: (steps,) what V_C is regressed on; None takes what was spent, of current episodes only.
    """

    episodes: Episodes
    current: bool
    cost_targets: Tensor | None = None


class Values:
    """V_R and V_C of states, and V_R's lagged average; the process's generator draws their first weights.

    Args:
        inputs: size of an observation. config: of the learner.
    """

    def __init__(self, inputs: int, config: PCLConfig) -> None:
        self.reward = ObservationNetwork(inputs, 1, config.width)
        self.cost = ObservationNetwork(inputs, 1, config.width)
        self.lagged = copy.deepcopy(self.reward)
        self.networks = (self.reward, self.cost, self.lagged)
        self.adam = torch.optim.Adam([*self.reward.parameters(), *self.cost.parameters()], config.value_lr)

    def state(self) -> dict[str, Any]:
        """Weights and step sizes."""
        return {"networks": [network.state_dict() for network in self.networks], "adam": self.adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` told."""
        for network, weights in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(weights)
        self.adam.load_state_dict(state["adam"])


class Learner:
    """Gate, V = V_R - lambda V_C where it is needed, and the multiplier.

    Args:
        config: settled, see `PCLConfig.settled`.
        layout: of the observations. actions: of the policy, one output of the gate each.
        valued: whether there are networks for V; None: unless siblings tell it (see `losses.sibling_residuals`).
    """

    def __init__(self, config: PCLConfig, layout: Layout, actions: tuple[Any, ...], valued: bool | None = None) -> None:
        self.config, self.layout = config, layout
        torch_seed = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(torch.randint(2**31, (1,), generator=torch_seed)))
            self.gate: ObservationNetwork | EpisodeNetwork
            outputs = len(actions) * (2 if config.siblings else 1)  # see `Gate`'s prices
            if config.whole_text:
                self.gate = EpisodeNetwork(layout.size, outputs, config.width, config.dropout).eval()
            else:
                self.gate = ObservationNetwork(layout.size, outputs, config.width, config.dropout).eval()
            needed = not config.siblings if valued is None else valued
            self._values = Values(layout.size, config) if needed else None
        with torch.no_grad():  # start at P(any call) = initial_rate, every kind of call alike
            odds = np.log(config.initial_rate / (1 - config.initial_rate) / (len(actions) - 1))
            self.gate.head.weight *= config.alpha
            self.gate.head.bias[:] = float(config.alpha * odds)
            self.gate.head.bias[0] = 0.0
            if config.siblings:  # a call spends about one call
                self.gate.head.bias[len(actions) :] = 1.0
                self.gate.head.bias[len(actions)] = 0.0
        self.averaged = copy.deepcopy(self.gate)
        self.gate_adam = torch.optim.Adam(self.gate.parameters(), config.gate_lr)
        self.multiplier = Multiplier(
            np.array(config.limits if "limit" in layout else (ONLY_LIMIT,)),
            step=config.multiplier_step,
            proportional=config.multiplier_proportional,
            derivative=config.multiplier_derivative,
            least=config.multiplier_least,
            largest=config.multiplier_largest,
        )
        self.policy = Gate(layout, actions, self.gate, config.alpha, at_end=bool(config.at_end))
        self._tell_prices()
        self.policy.seed(config.seed)

    @property
    def values(self) -> Values:
        """The networks for V.

        Raises:
            RuntimeError: there are none, for siblings tell V.
        """
        if self._values is None:
            raise RuntimeError("Expected a learner with networks for V, got one without: make it with valued=True.")
        return self._values

    def standardise(self, observations: NDArray[np.float32]) -> None:
        """Scale what the networks see by observations (n, size)."""
        for network in (self.gate, self.averaged, *(self._values.networks if self._values else ())):
            network.standardise.fit(torch.from_numpy(observations))

    def begin(self, iteration: int) -> float:
        """Set temperature and step sizes for a round; returns alpha."""
        config, alpha = self.config, self.config.alpha_at(iteration)
        self.policy.temperature = alpha
        self._tell_prices()
        left = 1 - 0.9 * iteration / max(config.iterations, 1)
        self.gate_adam.param_groups[0]["lr"] = config.gate_lr * left
        if self._values is not None:
            self._values.adam.param_groups[0]["lr"] = config.value_lr * left
        return alpha

    def _tell_prices(self) -> None:
        if self.config.siblings:
            self.policy.prices = self.multiplier.limits, self.multiplier.value

    def finish(self) -> Gate:
        """The policy, with the averaged weights of the gate at the last temperature."""
        self._tell_prices()
        self.policy.network = self.averaged
        self.policy.temperature = self.config.alpha_at(self.config.iterations)
        return self.policy

    def limits(self, observations: NDArray[np.float32]) -> FloatArray:
        """(n,) the limit in each observation (n, size), as the multiplier's grid knows it."""
        if "limit" not in self.layout:
            return np.full(len(observations), ONLY_LIMIT)
        return observations[:, self.layout["limit"].start].astype(np.float64)

    def tell(self, fresh: Episodes, alpha: float) -> dict[str, float]:
        """What a round of play and the multiplier came to, by name, for a log."""
        numbers = {
            "return": float(fresh.total(fresh.rewards).mean()),
            "violation": float(self.violation(fresh).mean()),
            "alpha": alpha,
            "lambda/mean": float(self.multiplier.value.mean()),
            **{f"sum/{name}": float(values.mean()) for name, values in fresh.sums.items() if name != "prompt"},
            **self.multiplier.numbers(),
        }
        if "calls" in fresh.sums and "tokens" in fresh.sums:
            numbers["calls_per_token"] = float(fresh.sums["calls"].sum() / fresh.sums["tokens"].sum())
        return numbers

    def violation(self, episodes: Episodes) -> FloatArray:
        """(episodes,) spent - allowed, the configuration's own limit included."""
        return episodes.violation - (self.config.limit or 0.0)

    # ---- a gradient step ---------------------------------------------------------------------------------------

    def update(self, parts: Sequence[Part], alpha: float, before: int) -> dict[str, float]:
        """One gradient step of gate, V_R and V_C, after `before` earlier ones."""
        config = self.config
        total = torch.zeros(())
        numbers: dict[str, float] = {}
        steps = sum(part.episodes.steps for part in parts)
        for part in parts:
            loss, cost_loss, size = self.loss(part, alpha)
            total = total + (loss + cost_loss) * (part.episodes.steps / steps)
            name = "on_policy" if part.current else "off_policy"
            numbers[name] = numbers.get(name, 0.0) + float(loss.detach())
            if part.current or part.cost_targets is not None:
                numbers["V_C"], numbers["abs_residual"] = float(cost_loss.detach()), size
        self._step(total, before, self.gate_adam, self.values.adam)
        follow(self.values.lagged, self.values.reward, config.lag)
        return numbers

    def update_siblings(self, siblings: Siblings, alpha: float, before: int) -> dict[str, float]:
        """One gradient step of the gate on paths that share their starts, after `before` earlier ones."""
        episodes = siblings.episodes
        of_step, group = torch.from_numpy(episodes.of_step), torch.from_numpy(siblings.group)
        self.gate.train()
        with torch.random.fork_rng(devices=[]):  # dropout draws from the process's generator
            torch.default_generator.manual_seed(self.config.seed + 1_000_003 * (1 + before))
            gains, price = self._gains(episodes, alpha)
            residual = losses.sibling_residuals(gains, of_step, group, siblings.groups)
            loss = losses.weighted_loss(residual, price[torch.from_numpy(episodes.starts[:-1])])
            self._step(loss, before, self.gate_adam)
        self.gate.eval()
        return {"siblings": float(loss.detach()), "abs_residual": float(residual.detach().abs().mean())}

    def _step(self, loss: Tensor, before: int, *adams: torch.optim.Optimizer) -> None:
        for adam in adams:
            adam.zero_grad()
        loss.backward()
        for adam in adams:
            torch.nn.utils.clip_grad_norm_(adam.param_groups[0]["params"], self.config.clip)
            adam.step()
        # Early on the average forgets faster, or a short run would keep its first weights.
        follow(self.averaged, self.gate, min(self.config.averaging, (1 + before) / (10 + before)))

    def loss(self, part: Part, alpha: float) -> tuple[Tensor, Tensor, float]:
        """Path-consistency loss, V_C's loss and the mean size of the residual."""
        episodes, networks = part.episodes, self.values
        observations = torch.from_numpy(episodes.observations)
        starts, of_step = torch.from_numpy(episodes.starts), torch.from_numpy(episodes.of_step)
        gains, price = self._gains(episodes, alpha)
        excess = torch.from_numpy(episodes.costs - episodes.allowances).float()
        value_r, value_c = networks.reward(observations)[:, 0], networks.cost(observations)[:, 0]
        last_r, last_c = self._last_values(episodes)
        values, last = value_r - price * value_c.detach(), last_r - price[starts[:-1]] * last_c
        behind = values
        lengths: list[int | None] = [d or None for d in self.config.path_lengths]
        if self.config.stochastic and not part.current:
            # A longer off-policy segment would hold later draws of the environment against the gate.
            lengths = [1]
            behind = networks.lagged(observations)[:, 0].detach() - price * value_c.detach()
        loss, size = torch.zeros(()), 0.0
        for length in lengths:
            residual = losses.residuals(gains, values, last, starts, of_step, length, behind)
            loss = loss + losses.weighted_loss(residual, price) / len(lengths)
            size += float(residual.detach().abs().mean()) / len(lengths)
        target = part.cost_targets
        if target is None and not part.current:
            return loss, torch.zeros(()), size
        if target is None:
            target = losses.remaining(excess, starts, of_step) + last_c[of_step]
        return loss, 0.5 * (value_c - target).square().mean(), size

    def _gains(self, episodes: Episodes, alpha: float) -> tuple[Tensor, Tensor]:
        """r - lambda (c - allowance) - alpha log P(action), with the gate's gradient, and lambda; (steps,) each."""
        limits = self.limits(episodes.observations[episodes.starts[:-1]])
        price = torch.from_numpy(self.multiplier.of(limits)).float()[torch.from_numpy(episodes.of_step)]
        logits = self._advantages(episodes, price) / alpha
        masks = episodes.masks
        if self.config.at_end:
            masks = masks_at_end(masks, episodes.observations, self.layout)
        logits = logits.masked_fill(~torch.from_numpy(masks), -torch.inf)
        logprob = logits.log_softmax(-1).gather(1, torch.from_numpy(episodes.actions)[:, None])[:, 0]
        excess = torch.from_numpy(episodes.costs - episodes.allowances).float()
        return torch.from_numpy(episodes.rewards).float() - price * excess - alpha * logprob, price

    def _advantages(self, episodes: Episodes, price: Tensor) -> Tensor:
        """(steps, actions) what the gate thinks of the actions, at prices (steps,)."""
        observations = torch.from_numpy(episodes.observations)
        if isinstance(self.gate, ObservationNetwork):
            outputs = self.gate(observations)
        else:
            position = episodes.observations[:, self.layout["position"].start]
            before = steps_before(np.rint(position * self.layout.cap).astype(np.int64), episodes.starts)
            outputs = self.gate.along(observations, episodes.starts, before)
        return priced(outputs, price) if self.config.siblings else outputs

    @torch.no_grad()
    def _last_values(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """(episodes,) V_R and V_C behind each episode: 0 unless it was cut and its values go on."""
        if not (self.config.bootstrap and episodes.cut.any()):
            return torch.zeros(len(episodes)), torch.zeros(len(episodes))
        last, cut = torch.from_numpy(episodes.last), torch.from_numpy(episodes.cut)
        return self.values.lagged(last)[:, 0] * cut, self.values.cost(last)[:, 0] * cut

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that learning has changed."""
        return {
            "gate": [self.gate.state_dict(), self.averaged.state_dict()],
            "adam": self.gate_adam.state_dict(),
            "values": None if self._values is None else self._values.state(),
            "multiplier": self.multiplier.state(),
            "play": self.policy.generator.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` told."""
        for network, weights in zip((self.gate, self.averaged), state["gate"], strict=True):
            network.load_state_dict(weights)
        self.gate_adam.load_state_dict(state["adam"])
        if self._values is not None:
            self._values.restore(state["values"])
        self.multiplier.restore(state["multiplier"])
        self.policy.generator.bit_generator.state = state["play"]


@torch.no_grad()
def follow(slow: torch.nn.Module, fast: torch.nn.Module, decay: float) -> None:
    """Move the weights of `slow` towards those of `fast`."""
    for average, new in zip(slow.parameters(), fast.parameters(), strict=True):
        average.lerp_(new, 1 - decay)
