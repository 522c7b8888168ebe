"""Constrained Path Consistency Learning of a gate; read from top to bottom.

One policy serves all rules: gate and values see the rule in the observation, and a multiplier per limit prices what
they spend. See `agents.pcl.losses` for the residual.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from agents.base import Agent
from agents.checkpoint import drop_checkpoint, load_checkpoint, save_checkpoint
from agents.pcl import losses
from agents.pcl.multiplier import Multiplier
from agents.pcl.replay import Replay
from agents.rollout import Collector, Episodes
from tw_env.decoding.texts import LiveTexts
from tw_env.decoding.tree import RememberedTexts
from tw_env.observations import Feature, Layout
from tw_env.policies import Gate, ObservationNetwork

FloatArray = NDArray[np.float64]
Log = Callable[[int, dict[str, float]], object]
ONLY_LIMIT = 0.5  # stands for the one limit of environments whose observations name no rule


@dataclass(frozen=True)
class PCLConfig:
    """How the gate is trained."""

    iterations: int = 400
    """Rounds of play, multiplier move and updates."""
    episodes: int = 512
    """On-policy episodes a round."""
    updates: int = 8
    """Gradient steps a round."""
    batch: int = 256
    """Episodes a gradient step."""
    replayed: float = 0.5
    """Share of each batch that comes from replay (off-policy), once there is any."""
    demonstrated: float = 0.25
    """Share of each batch that comes from demonstrations, if there are any."""
    capacity: int = 20_000
    """Episodes kept for replay."""
    path_lengths: tuple[int, ...] = (0,)
    """Segment lengths d of the residuals, several at once; 0 goes to the episode's end."""
    alpha: float = 0.01
    """Entropy weight at the start, in the reward's unit."""
    alpha_final: float = 0.003
    """Entropy weight at the end; it falls geometrically."""
    gate_lr: float = 1e-3
    """Adam's step size for the gate; it falls to a tenth."""
    value_lr: float = 2e-3
    """Adam's step size for V_R and V_C; it falls to a tenth."""
    clip: float = 1.0
    """Largest gradient norm, for gate and values apart: the gate's gradient is smaller by about alpha."""
    width: int = 128
    """Units of the hidden layers."""
    initial_rate: float = 0.1
    """P(call) of the untrained gate; near what the rules allow."""
    limits: tuple[float, ...] = (0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
    """Grid of the multiplier, in the observation's unit of the limit."""
    limit: float | None = None
    """The limit on E[sum of costs] in environments whose observations name no rule."""
    multiplier_step: float = 0.02
    """Move of lambda per unit of violation (integral gain)."""
    multiplier_least: float = 0.03
    """Least lambda of a limited rule: where a limit hardly binds, wasted calls would cost nothing otherwise."""
    multiplier_proportional: float = 0.0
    """PID: proportional gain."""
    multiplier_derivative: float = 0.0
    """PID: derivative gain."""
    averaging: float = 0.999
    """Decay of the averaged gate weights; the average is what is learned, since a cut picks out the gate's noise."""
    lag: float = 0.95
    """Decay of the averaged V at the far end of off-policy segments in stochastic environments."""
    stochastic: bool | None = None
    """Whether actions lead to random states; None asks the environment (sampling does, greedy decoding doesn't)."""
    checkpoint_every: int = 50
    """Rounds between checkpoints; unfinished episodes are dropped there, so that resuming changes nothing."""
    seed: int = 0
    """Seed of the environment, of play, of batches and of the initial weights."""


class PCL(Agent):
    """Learns a gate for a vector environment with Discrete actions and `info["cost"]`.

    Example:
        >>> agent = PCL(PCLConfig(iterations=10))  # doctest: +SKIP
        >>> agent.learn(env).policy.predict(observations, deterministic=True)  # doctest: +SKIP
    """

    name = "pcl"

    def __init__(self, config: PCLConfig | None = None) -> None:
        self.config = PCLConfig() if config is None else config
        self.policy: Gate | None = None

    def learn(
        self,
        env: VectorEnv,
        demonstrations: Episodes | None = None,
        folder: Path | None = None,
        resume: bool = False,
        log: Log | None = None,
    ) -> PCL:
        """Train on an environment with SAME_STEP autoreset.

        Args:
            demonstrations: episodes of other policies; they train as off-policy paths only.
            folder: where checkpoints go; None writes none.
            resume: go on from the folder's last checkpoint, if there is one; the result is that of one run.
            log: called with (round, numbers by name).
        """
        self._prepare(env, demonstrations)
        first = 0
        if folder is not None:
            first = load_checkpoint(folder, self._state, self._restore) if resume else drop_checkpoint(folder)
        for iteration in range(first, self.config.iterations):
            if iteration % self.config.checkpoint_every == 0:
                if folder is not None and iteration > first:
                    save_checkpoint(folder, iteration, self._state())
                if self._texts is not None:  # what is read from here on has the same last bits in a resumed run
                    self._texts.forget_prompts()
                self._collector.restart(self.config.seed + 1_000_003 * (1 + iteration))
            numbers = self._round(iteration)
            if log is not None:
                log(iteration, numbers)
        assert self.policy is not None
        self.policy.network = self._averaged
        self.policy.temperature = self._alpha(self.config.iterations)
        return self

    # ---- set-up ------------------------------------------------------------------------------------------------

    def _prepare(self, env: VectorEnv, demonstrations: Episodes | None) -> None:
        config = self.config
        self._layout, actions, sampling = describe(env)
        game = getattr(env, "game", None)
        self._texts: LiveTexts | None = None if game is None else game.texts
        self._stochastic = sampling if config.stochastic is None else config.stochastic
        torch_seed = torch.Generator().manual_seed(config.seed)
        size = int(np.prod(env.single_observation_space.shape or (1,)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=torch_seed)))
            self._gate = ObservationNetwork(size, len(actions), config.width)
            self._value_r = ObservationNetwork(size, 1, config.width)
            self._value_c = ObservationNetwork(size, 1, config.width)
        with torch.no_grad():  # start at P(call) = initial_rate, every kind of call alike
            odds = np.log(config.initial_rate / (1 - config.initial_rate) / (len(actions) - 1))
            self._gate.head.weight *= config.alpha
            self._gate.head.bias[:] = float(config.alpha * odds)
            self._gate.head.bias[0] = 0.0
        self._lagged = copy.deepcopy(self._value_r)
        self._averaged = copy.deepcopy(self._gate)
        self._gate_adam = torch.optim.Adam(self._gate.parameters(), config.gate_lr)
        self._value_adam = torch.optim.Adam([*self._value_r.parameters(), *self._value_c.parameters()], config.value_lr)
        self._multiplier = Multiplier(
            np.array(config.limits if "limit" in self._layout else (ONLY_LIMIT,)),
            step=config.multiplier_step,
            proportional=config.multiplier_proportional,
            derivative=config.multiplier_derivative,
            least=config.multiplier_least,
        )
        self._replay, self._demonstrations = Replay(config.capacity), demonstrations
        self._generator = np.random.default_rng(config.seed)
        self.policy = Gate(self._layout, actions, self._gate, config.alpha)
        self.policy.seed(config.seed)
        self._collector = Collector(env, config.seed)
        first = self._collector.collect(self.policy, config.episodes)
        shown = first if demonstrations is None else Episodes.join([first, demonstrations])
        self._networks = (self._gate, self._value_r, self._value_c, self._lagged, self._averaged)
        for network in self._networks:
            network.standardise.fit(torch.from_numpy(shown.observations))

    def _alpha(self, iteration: int) -> float:
        share = iteration / max(self.config.iterations, 1)
        return self.config.alpha * (self.config.alpha_final / self.config.alpha) ** share

    # ---- a round -----------------------------------------------------------------------------------------------

    def _round(self, iteration: int) -> dict[str, float]:
        config, alpha = self.config, self._alpha(iteration)
        assert self.policy is not None
        self.policy.temperature = alpha
        for adam, rate in ((self._gate_adam, config.gate_lr), (self._value_adam, config.value_lr)):
            adam.param_groups[0]["lr"] = rate * (1 - 0.9 * iteration / max(config.iterations, 1))
        fresh = self._collector.collect(self.policy, config.episodes)
        limits = self._limits(fresh)
        violation = fresh.violation - (config.limit or 0.0)
        self._multiplier.update(limits, violation)
        before = iteration * config.updates
        losses_of_round = [self._update(fresh, alpha, before + more) for more in range(config.updates)]
        self._replay.add(fresh)
        numbers = {
            "return": float(fresh.total(fresh.rewards).mean()),
            "violation": float(violation.mean()),
            "alpha": alpha,
            "lambda/mean": float(self._multiplier.value.mean()),
            **{f"sum/{name}": float(values.mean()) for name, values in fresh.sums.items() if name != "prompt"},
            **{f"loss/{name}": float(np.mean([loss[name] for loss in losses_of_round])) for name in losses_of_round[0]},
            **self._multiplier.numbers(),
        }
        if "calls" in fresh.sums and "tokens" in fresh.sums:
            numbers["calls_per_token"] = float(fresh.sums["calls"].sum() / fresh.sums["tokens"].sum())
        return numbers

    def _limits(self, episodes: Episodes) -> FloatArray:
        """(episodes,) each episode's limit as the multiplier's grid knows it."""
        if "limit" not in self._layout:
            return np.full(len(episodes), ONLY_LIMIT)
        return episodes.observations[episodes.starts[:-1], self._layout["limit"].start].astype(np.float64)

    def _update(self, fresh: Episodes, alpha: float, before: int) -> dict[str, float]:
        """One gradient step of gate, V_R and V_C, after `before` earlier ones."""
        config, generator = self.config, self._generator
        kept = len(self._replay) > 0
        old = round(config.batch * config.replayed) if kept else 0
        shown = round(config.batch * config.demonstrated) if self._demonstrations is not None else 0
        on_policy = fresh.take(generator.integers(len(fresh), size=max(config.batch - old - shown, 1)))
        parts = [(on_policy, True)]
        if old:
            parts.append((self._replay.sample(generator, old), False))
        if shown and self._demonstrations is not None:
            drawn = generator.integers(len(self._demonstrations), size=shown)
            parts.append((self._demonstrations.take(drawn), False))
        total = torch.zeros(())
        numbers: dict[str, float] = {}
        steps = sum(part.steps for part, _ in parts)
        for part, current in parts:
            loss, cost_loss, size = self._loss(part, alpha, current)
            total = total + (loss + cost_loss) * (part.steps / steps)
            name = "on_policy" if current else "off_policy"
            numbers[name] = numbers.get(name, 0.0) + float(loss.detach())
            if current:
                numbers["V_C"], numbers["abs_residual"] = float(cost_loss.detach()), size
        self._gate_adam.zero_grad()
        self._value_adam.zero_grad()
        total.backward()
        for adam in (self._gate_adam, self._value_adam):
            torch.nn.utils.clip_grad_norm_(adam.param_groups[0]["params"], config.clip)
            adam.step()
        _follow(self._lagged, self._value_r, config.lag)
        # Early on the average forgets faster, or a short run would keep its first weights.
        _follow(self._averaged, self._gate, min(config.averaging, (1 + before) / (10 + before)))
        return numbers

    def _loss(self, episodes: Episodes, alpha: float, current: bool) -> tuple[Tensor, Tensor, float]:
        """Path-consistency loss, V_C's loss (on-policy data only) and the mean size of the residual."""
        observations = torch.from_numpy(episodes.observations)
        starts, of_step = torch.from_numpy(episodes.starts), torch.from_numpy(episodes.of_step)
        price = torch.from_numpy(self._multiplier.of(self._limits(episodes))).float()[of_step]  # (steps,)
        excess = torch.from_numpy(episodes.costs - episodes.allowances).float()
        logits = self._gate(observations) / alpha
        logits = logits.masked_fill(~torch.from_numpy(episodes.masks), -torch.inf)
        logprob = logits.log_softmax(-1).gather(1, torch.from_numpy(episodes.actions)[:, None])[:, 0]
        gains = torch.from_numpy(episodes.rewards).float() - price * excess - alpha * logprob
        value_r, value_c = self._value_r(observations)[:, 0], self._value_c(observations)[:, 0]
        values = value_r - price * value_c.detach()
        behind, last = values, self._last_values(episodes, price[starts[:-1]])
        lengths: list[int | None] = [d or None for d in self.config.path_lengths]
        if self._stochastic and not current:
            # A longer off-policy segment would hold later draws of the environment against the gate.
            lengths = [1]
            behind = self._lagged(observations)[:, 0].detach() - price * value_c.detach()
        loss, size = torch.zeros(()), 0.0
        for length in lengths:
            residual = losses.residuals(gains, values, last, starts, of_step, length, behind)
            loss = loss + losses.weighted_loss(residual, price) / len(lengths)
            size += float(residual.detach().abs().mean()) / len(lengths)
        if not current:
            return loss, torch.zeros(()), size
        target = losses.remaining(excess, starts, of_step)
        return loss, 0.5 * (value_c - target).square().mean(), size

    def _last_values(self, episodes: Episodes, price: Tensor) -> Tensor:
        """(episodes,) the value behind each episode: 0 unless it was cut."""
        if not episodes.cut.any():
            return torch.zeros(len(episodes))
        with torch.no_grad():
            last = torch.from_numpy(episodes.last)
            values = self._lagged(last)[:, 0] - price * self._value_c(last)[:, 0]
        return torch.where(torch.from_numpy(episodes.cut), values, torch.zeros(()))

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        assert self.policy is not None
        return {
            "config": {k: v for k, v in asdict(self.config).items() if k != "iterations"},
            "networks": [network.state_dict() for network in self._networks],
            "adam": [self._gate_adam.state_dict(), self._value_adam.state_dict()],
            "multiplier": self._multiplier.state(),
            "replay": [asdict(part) for part in self._replay.parts],
            "memory": self._texts.memory.state() if isinstance(self._texts, RememberedTexts) else None,
            "generators": [self._generator.bit_generator.state, self.policy.generator.bit_generator.state],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        assert self.policy is not None
        for network, weights in zip(self._networks, state["networks"], strict=True):
            network.load_state_dict(weights)
        for adam, numbers in zip((self._gate_adam, self._value_adam), state["adam"], strict=True):
            adam.load_state_dict(numbers)
        self._multiplier.restore(state["multiplier"])
        self._replay.parts = [Episodes(**part) for part in state["replay"]]
        if isinstance(self._texts, RememberedTexts):
            self._texts.memory.restore(state["memory"])
        self._generator.bit_generator.state, self.policy.generator.bit_generator.state = state["generators"]


@torch.no_grad()
def _follow(slow: torch.nn.Module, fast: torch.nn.Module, decay: float) -> None:
    """Move the weights of `slow` towards those of `fast`."""
    for average, new in zip(slow.parameters(), fast.parameters(), strict=True):
        average.lerp_(new, 1 - decay)


def describe(env: VectorEnv) -> tuple[Layout, tuple[Any, ...], bool]:
    """Layout, actions, and whether actions lead to random states; foreign environments have one nameless feature."""
    game = getattr(env, "game", None)
    if game is not None:
        return game.layout, game.spec.actions, game.spec.sampling
    space, actions = env.single_observation_space, env.single_action_space
    if not isinstance(space, Box) or len(space.shape) != 1 or not isinstance(actions, Discrete):
        raise ValueError(f"Expected flat Box observations and Discrete actions, got {space} and {actions}.")
    whole = Feature("observation", space.shape[0], float(space.low.min()), float(space.high.max()), "as given")
    return Layout([whole], cap=1), tuple(range(int(actions.n))), True
