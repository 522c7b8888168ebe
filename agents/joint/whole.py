"""The whole residual of joint training: what a student writes and when it asks, learnt from one path consistency.

Maximise E[sum over own tokens of log p_T(y) - log p_S(y)] + alpha * entropy of the gate, under a rule on calls. It
bounds minus the divergence of the written texts from the teacher's. Every stretch t..t+d of a walk then satisfies

    C = -V(s_t) + V(s_{t+d}) + sum_i [(log p_T(y_i) - log p_S(y_i)) [own] - lambda (c_i - allowance_i)
        - alpha log P(gate's choice_i)] = 0

("Knowledge Distillation with Training Wheels", arXiv 2502.17717; Nachum et al. 2017, arXiv 1702.08892), with log p_S
once and the gradient through p_S and the gate. Tokens of the student are its actions, so stretches of them may be long
and come from older walks. Behind a call stands a token that the teacher drew: a stretch ends there, at a value without
gradient, or the spread of what may follow would bend the gate.

V = V_R - lambda V_C: what is still to be spent is fitted by itself on fresh walks, so lambda may move.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from agents.joint.config import JointConfig, JointData
from agents.joint.gate import Played
from agents.joint.lesson import Lesson
from agents.joint.losses import path_loss, path_residuals, reach, token_gains
from agents.joint.prices import CallPrices, Numbers
from agents.joint.reading import all_states, scores
from agents.joint.student import token_nats
from agents.joint.told import ToldStudent
from agents.joint.training_cost import PLAY
from agents.joint.values import ValueHead
from agents.joint.walks import Walks, joined, walk
from agents.joint.wording import FREE
from agents.pcl.losses import remaining
from tw_env.vector_env import AssistedDecodingVectorEnv

LENGTHS: tuple[int | None, ...] = (1, 4, None)  # d of the stretches, several at once; None goes to their end


def gains_of(
    logprobs: Tensor, teacher: Tensor, log_odds: Tensor, asked: Tensor, prices: Tensor, limits: Tensor, alpha: float
) -> Tensor:
    """(steps,) what each step of a walk gains, with the gradient of the student and its gate.

    Args:
        logprobs: (steps,) log p_S of the written tokens, over the vocabulary without ask tokens. teacher: (steps,) log
            p_T of them. log_odds: (steps,) of asking. asked: (steps,) whether it asked.
        prices, limits: (steps,) lambda, and the calls that each token allows.
        alpha: entropy weight of the gate, in nats.
    """
    own = torch.where(asked, 0.0, token_gains(logprobs, teacher))
    choice = functional.logsigmoid(torch.where(asked, log_odds, -log_odds))
    return own - prices * (asked.to(own) - limits) - alpha * choice


def stretches(starts: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """(stretches + 1,) and (steps,): where walks are cut behind every call, and the stretch of each step."""
    begins = torch.zeros(len(asked), dtype=torch.bool, device=asked.device)
    begins[starts[:-1]] = True
    begins[1:] |= asked[:-1]
    return torch.cat([begins.nonzero()[:, 0], starts[-1:]]), begins.long().cumsum(0) - 1


def whole_residuals(gains: Tensor, values: Tensor, starts: Tensor, asked: Tensor) -> Mapping[int | None, Tensor]:
    """(steps,) residuals C of the stretches that begin at each step, by length.

    Args:
        gains: (steps,) see `gains_of`. values: (steps,) V. starts: (walks + 1,). asked: (steps,).
    """
    cuts, of_step = stretches(starts, asked)
    behind = torch.cat([values.detach(), values.new_zeros(1)])[cuts[1:]]
    ends = torch.isin(cuts[1:], starts[1:])  # nothing follows the end of a walk
    return path_residuals(gains, values, cuts, of_step, LENGTHS, values_last=torch.where(ends, 0.0, behind))


class WholePlay:
    """Plays the game with the current student and turns fresh and recent walks into one loss.

    Args:
        told: the student; `env` plays the same model. env: of SELF/ASK in sampling with the reward `kl`, whose prompts
            are those of `data.asking`, in this order.

    Raises:
        ValueError: too few prompts in `env`.
    """

    def __init__(self, told: ToldStudent, data: JointData, config: JointConfig, env: AssistedDecodingVectorEnv) -> None:
        if len(env.task.prompts) < len(data.asking):
            raise ValueError(
                f"Expected an environment with the {len(data.asking)} prompts that asking is learnt on, got one of "
                f"{len(env.task.prompts)}."
            )
        self._told, self._data, self._config, self._env = told, data, config, env
        width, device = told.model.get_input_embeddings().embedding_dim, told.model.device
        self._earned, self._spent = (ValueHead(width, seed=config.seed + k).to(device) for k in range(2))
        heads = [*self._earned.parameters(), *self._spent.parameters()]
        self._optimizer = torch.optim.Adam(heads, config.value_lr)
        self._recent: deque[Walks] = deque(maxlen=max(config.replay, 1))
        self._read_tokens = 0  # by the teacher, for the last update's fresh walks

    @property
    def read(self) -> dict[str, int]:
        """What the teacher read for the last update's fresh walks."""
        return {PLAY: self._read_tokens}

    def lesson(self, generator: np.random.Generator, update: int, prices: CallPrices) -> Lesson:
        """The whole residual's loss along sampled texts, which decide at every token; moves the prices."""
        alpha = self._config.alpha_at(update)
        fresh, limits, played = self.play(generator)
        walks = self.with_recent(fresh, generator)
        loss, numbers = self.loss(walks, len(fresh), prices.of(walks.limits.double().numpy()), alpha)
        numbers |= {"gate": float(loss.detach()), "alpha": alpha} | prices.charge(limits, played)
        everywhere = torch.ones(len(fresh.texts.tokens), dtype=torch.bool)
        return Lesson(lambda part: loss, numbers, (fresh.texts, everywhere), int((~fresh.asked).sum()))

    def play(self, generator: np.random.Generator) -> tuple[Walks, NDArray[np.float64], Played]:
        """Fresh walks, (walks,) their limits, and what they came to."""
        places = generator.choice(len(self._data.asking), size=self._config.episodes)
        limits, words = self._told.wording.draw(generator, len(places))
        encoded = [self._data.prompts[i] for i in self._data.asking[places]]
        before = self._env.game.texts.teacher_tokens
        with torch.no_grad():
            walks, outcomes = walk(self._env, places, encoded, limits, words, int(generator.integers(2**31)))
        self._read_tokens = self._env.game.texts.teacher_tokens - before
        return walks, limits, Played(self._data.scale * outcomes.quality, outcomes.calls, outcomes.tokens)

    def with_recent(self, fresh: Walks, generator: np.random.Generator) -> Walks:
        """Fresh walks and as many of an earlier update; the fresh ones are remembered."""
        older = [self._recent[int(generator.integers(len(self._recent)))]] if self._recent else []
        if self._config.replay:
            self._recent.append(fresh)
        return joined([fresh, *older])

    def loss(self, walks: Walks, fresh: int, prices: NDArray[np.float64], alpha: float) -> tuple[Tensor, Numbers]:
        """Mean of w C^2 / (2 d), w = 1 / (1 + lambda), with the student's gradient; V learns beside it.

        Args:
            fresh: how many walks, the first ones, the current student played. prices: (walks,) lambda.
        """
        model, texts = self._told.model, walks.texts
        starts, of_step, asked, teacher = (
            one.to(model.device) for one in (texts.starts, texts.of_step, walks.asked, walks.teacher)
        )
        allowed = torch.where(walks.limits == FREE, 0.0, walks.limits).to(model.device)[of_step]
        price = torch.from_numpy(prices).float().to(model.device)[of_step]
        with self._told.precision.autocast():
            hidden = all_states(model, texts)
            found = scores(model, hidden)
        nats, log_odds = token_nats(found, texts.tokens.to(model.device), self._told.ask, self._told.doubt)
        logprobs = -nats
        gains = gains_of(logprobs, teacher, log_odds, asked, price, allowed, alpha)
        hidden = hidden.detach().float()
        weights = 1.0 / (1.0 + price)

        def along(gains: Tensor) -> tuple[Mapping[int | None, Tensor], Tensor, Tensor]:
            spent = self._spent(hidden)
            values = self._earned(hidden) - price * spent.detach()
            return whole_residuals(gains, values, starts, asked), values, spent

        with torch.no_grad():
            values = along(gains.detach())[1]
        residuals = whole_residuals(gains, values, starts, asked)
        cuts, in_cut = stretches(starts, asked)
        loss = path_loss(residuals, cuts, in_cut, weights)
        still = remaining(asked.to(gains) - allowed, starts, of_step)  # calls beyond what is allowed, to the end
        here = of_step < fresh
        for _ in range(self._config.value_steps):
            found_, _, spent = along(gains.detach())
            fit = path_loss(found_, cuts, in_cut, weights) + 0.5 * (spent - still)[here].square().mean()
            self._optimizer.zero_grad()
            fit.backward()
            self._optimizer.step()
        own = here & ~asked
        earned = remaining(torch.where(asked, 0.0, teacher - logprobs.detach()), starts, of_step)
        numbers = {
            "kl/walks": float((logprobs.detach() - teacher)[own].mean()) if own.any() else 0.0,
            "value/mean": float(values[here].mean()),
            "value/return": float((earned - price * still)[here].mean()),  # without the gate's entropy
        }
        for length, residual in residuals.items():
            squares = residual.detach().square() / reach(cuts, in_cut, length)
            numbers[f"residual/{length or 'end'}"] = float(squares.mean().sqrt())
        return loss, numbers

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "earned": self._earned.state_dict(), "spent": self._spent.state_dict(),
            "optimizer": self._optimizer.state_dict(), "recent": [walks.state() for walks in self._recent],
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` kept."""
        self._earned.load_state_dict(state["earned"])
        self._spent.load_state_dict(state["spent"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._recent.clear()
        self._recent.extend(Walks.restored(one) for one in state["recent"])
