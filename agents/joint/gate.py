"""Path consistency of a student's ask token along its drafts, for `ASK` at any token and for `VERIFY` at the end.

The game is greedy, so that a chain of drafts (`agents.joint.drafts`) holds every state that the gate can come to while
its text still is a beginning of the teacher's, and what each way on is worth. V follows by going back along the chain;
no network stands for it. With it, each choice has a residual of length one,

    C = [r - lambda (c - allowance) + V](call) - [...](go on alone) - alpha logit P(call)

which is what the residuals of the two paths from that state differ in (`agents.pcl.losses`); it is 0 for all states if
and only if the gate is optimal (its logit is then (gain - lambda) / alpha).

`ASK` decides at every token. `VERIFY` decides where the text would end, by the log-odds that any pending place asked:
log P(no call) is the sum of log P(no ask) over the pending places, so a student of one layer, whose last state can't
know how sure it was before, may still aim at whole texts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from agents.joint.drafts import Drafts
from tw_env.actions import Action

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Choices:
    """All choices of the gate in some drafts.

    Attributes:
        logit: (choices,) log-odds of calling, with the student's gradient.
        gain: (choices,) what calling is worth more than going on alone, price included.
        reach: (choices,) how likely the gate comes to each.
        price: (choices,) lambda.
        episode: (choices,) whose each is.
    """

    logit: Tensor
    gain: Tensor
    reach: Tensor
    price: Tensor
    episode: NDArray[np.int64]

    def residual(self, alpha: float) -> Tensor:
        """(choices,) C."""
        return self.gain - alpha * self.logit

    def weights(self, least_reach: float = 0.0) -> Tensor:
        """(choices,) w = reach / (1 + lambda), the reach being at least `least_reach`."""
        return self.reach.clamp(min=least_reach) / (1.0 + self.price)

    def loss(self, alpha: float, least_reach: float = 0.0, span: float = math.inf) -> Tensor:
        """Mean of w C^2 / 2 of what is `unlearnt`.

        A tight rule's price may want log-odds of -40, where -6 ask as good as never, and squares of what is still
        missing would leave a small student no room to tell the other rules apart.
        """
        weights = self.weights(least_reach)
        return 0.5 * (weights * self.unlearnt(alpha, span).square()).sum() / weights.sum()

    def unlearnt(self, alpha: float, span: float = math.inf) -> Tensor:
        """(choices,) C, but 0 where the log-odds lie beyond `span` nats, and want to lie there on the same side."""
        wanted = self.gain / alpha
        learnt = (self.logit.abs() > span) & (wanted.abs() > span) & (wanted.sign() == self.logit.sign())
        return self.residual(alpha).masked_fill(learnt, 0.0)

    def expected_return(self, alpha: float) -> Tensor:
        """Mean of w (P gain + alpha H): the policy gradient on the same states, for comparison."""
        ask = torch.sigmoid(self.logit)
        entropy = functional.softplus(self.logit) - self.logit * ask
        weights = self.weights()
        return (weights * (ask * self.gain + alpha * entropy)).sum() / weights.sum()


@dataclass(frozen=True)
class Played:
    """What the gate's own play comes to, in expectation over its choices; (episodes,) each."""

    quality: FloatArray
    calls: FloatArray
    tokens: FloatArray


def any_ask(log_odds: Tensor, of_draft: Tensor, drafts: int) -> Tensor:
    """(drafts,) log-odds that at least one of the places asked, from log_odds (places,) of each."""
    nats = log_odds.new_zeros(drafts).index_add(0, of_draft, functional.softplus(log_odds))  # -log P(none asked)
    return log_expm1(nats)


def log_expm1(nats: Tensor) -> Tensor:
    """log(exp(x) - 1) for x > 0, without overflow and without losing small ones."""
    return nats + torch.log(-torch.expm1(-nats.clamp(min=1e-30)))


def choices_of(
    drafts: Drafts,
    log_odds: Tensor,
    prices: FloatArray,
    limits: FloatArray,
    call: Action,
    alpha: float,
    levels: FloatArray | None = None,
    hard: bool = False,
) -> tuple[Choices, Played]:
    """The choices in all drafts, and what the gate's play comes to.

    Args:
        log_odds: (steps,) of asking at each written place of `drafts.texts`.
        prices: (episodes,) lambda. limits: (episodes,) calls per token that the rule allows.
        call: `ASK` at any token, or `VERIFY` where the text would end.
        alpha: entropy weight of the gate.
        levels: (episodes,) nats that are added to the log-odds of calling; None adds none.
        hard: it calls wherever the log-odds of calling lie above 0, as in deterministic play, and nowhere else.
    """
    build = _asks if call == Action.ASK else _verifications
    return build(drafts, log_odds, prices, limits, alpha, np.zeros(len(prices)) if levels is None else levels, hard)


def _verifications(
    drafts: Drafts,
    log_odds: Tensor,
    prices: FloatArray,
    limits: FloatArray,
    alpha: float,
    levels: FloatArray,
    hard: bool,
) -> tuple[Choices, Played]:
    of_step, starts = drafts.texts.of_step.numpy(), drafts.texts.starts.numpy()
    places = np.arange(len(of_step)) - starts[of_step]
    pending = torch.from_numpy(np.flatnonzero(places >= drafts.first[of_step])).to(log_odds.device)
    of_draft = torch.from_numpy(of_step).to(log_odds.device)[pending]
    logit = any_ask(log_odds[pending], of_draft, len(drafts.episode))
    logit = logit + torch.from_numpy(levels[drafts.episode]).to(logit)
    ask = _probabilities(logit, hard)
    bonus = prices * limits  # what a written token adds to what is allowed
    chain, lengths = drafts.chain, drafts.lengths
    gain, reach = np.zeros(len(ask)), np.ones(len(ask))
    value = drafts.final_quality + bonus * drafts.final_length  # of having called in the last draft
    quality, tokens = drafts.final_quality.copy(), drafts.final_length.astype(float)
    calls = np.zeros(len(value))
    for number in reversed(range(int(drafts.number.max()) + 1)):
        at = np.flatnonzero(drafts.number == number)
        who, p = drafts.episode[at], ask[at]
        alone = drafts.quality[at] + bonus[who] * lengths[at]
        gain[at] = value[who] - prices[who] - alone
        value[who] = p * (value[who] - prices[who]) + (1 - p) * alone + alpha * _entropy(p)
        quality[who] = p * quality[who] + (1 - p) * drafts.quality[at]
        tokens[who] = p * tokens[who] + (1 - p) * lengths[at]
        calls[who] = p * (1 + calls[who])
    for number in range(1, int(drafts.number.max()) + 1):
        at = np.flatnonzero(drafts.number == number)
        reach[at] = reach[at - 1] * ask[at - 1]
    assert len(chain) == len(prices) + 1
    return _as_tensors(logit, gain, reach, prices, drafts.episode), Played(quality, calls, tokens)


def _asks(
    drafts: Drafts,
    log_odds: Tensor,
    prices: FloatArray,
    limits: FloatArray,
    alpha: float,
    levels: FloatArray,
    hard: bool,
) -> tuple[Choices, Played]:
    of_step, starts = drafts.texts.of_step.numpy(), drafts.texts.starts.numpy()
    place, episode = np.arange(len(of_step)) - starts[of_step], drafts.episode[of_step]
    fresh = place >= drafts.first[of_step]  # earlier places stand in an earlier draft
    behind = place > drafts.kept[of_step]  # something went wrong before: nothing is won by asking now
    log_odds = log_odds + torch.from_numpy(levels[episode]).to(log_odds)
    ask = _probabilities(log_odds, hard)
    wasted, undecided = np.zeros(len(drafts.episode)), np.zeros(len(drafts.episode))
    np.add.at(wasted, of_step[behind], ask[behind])
    np.add.at(undecided, of_step[behind], _entropy(ask[behind]))
    bonus = prices * limits
    gain, reach = np.zeros(len(ask)), np.zeros(len(ask))
    value = drafts.final_quality + bonus * drafts.final_length
    quality, tokens, calls = drafts.final_quality.copy(), drafts.final_length.astype(float), np.zeros(len(bonus))
    lost = drafts.quality + bonus[drafts.episode] * drafts.lengths - prices[drafts.episode] * wasted + alpha * undecided
    on_track = fresh & ~behind
    for index in range(int(place.max()), -1, -1):  # the same place of all texts, from the last one back
        at = np.flatnonzero(on_track & (place == index))
        who, draft, p = episode[at], of_step[at], ask[at]
        wrong = (drafts.kept[draft] == index) & ~drafts.agrees[draft]  # going on alone leaves the teacher's text
        alone = np.where(wrong, lost[draft], value[who])
        gain[at] = value[who] - prices[who] - alone
        quality[who] = np.where(wrong, p * quality[who] + (1 - p) * drafts.quality[draft], quality[who])
        tokens[who] = np.where(wrong, p * tokens[who] + (1 - p) * drafts.lengths[draft], tokens[who])
        calls[who] = p * (1 + calls[who]) + (1 - p) * np.where(wrong, wasted[draft], calls[who])
        value[who] = p * (value[who] - prices[who]) + (1 - p) * alone + alpha * _entropy(p)
    gain[behind] = -prices[episode[behind]]
    reach[:] = _reach_of_asks(drafts, ask, of_step, place)
    chosen = np.flatnonzero(fresh)
    logit = log_odds[torch.from_numpy(chosen).to(log_odds.device)]
    choices = _as_tensors(logit, gain[chosen], reach[chosen], prices, episode[chosen])
    return choices, Played(quality, calls, tokens)


def _reach_of_asks(drafts: Drafts, ask: FloatArray, of_step: NDArray[np.int64], place: NDArray[np.int64]) -> FloatArray:
    """(steps,) how likely the gate comes to each place: it asked at all mistakes before, and not at the one behind."""
    last = drafts.texts.starts.numpy()[:-1] + np.minimum(drafts.kept, drafts.lengths - 1)  # step of each mistake
    at_mistake = ask[last]
    come = np.ones(len(drafts.episode))
    for number in range(1, int(drafts.number.max()) + 1):
        at = np.flatnonzero(drafts.number == number)
        come[at] = come[at - 1] * at_mistake[at - 1]
    behind = place > drafts.kept[of_step]
    return come[of_step] * np.where(behind, 1 - at_mistake[of_step], 1.0)


def _probabilities(log_odds: Tensor, hard: bool) -> FloatArray:
    """(choices,) of calling."""
    log_odds = log_odds.detach().double()
    return ((log_odds > 0).double() if hard else torch.sigmoid(log_odds)).cpu().numpy()


def _entropy(ask: FloatArray) -> FloatArray:
    """Nats of a choice with these probabilities."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.nan_to_num(ask * np.log(ask)) - np.nan_to_num((1 - ask) * np.log1p(-ask))


def _as_tensors(
    logit: Tensor, gain: FloatArray, reach: FloatArray, prices: FloatArray, episode: NDArray[np.int64]
) -> Choices:
    gain_, reach_, price = (torch.from_numpy(array).to(logit) for array in (gain, reach, prices[episode]))
    return Choices(logit, gain_, reach_, price, episode)
