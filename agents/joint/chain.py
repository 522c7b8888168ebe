"""Where the choices of the gate lead along chains of drafts: V_R and V_C of each, and paths that are drawn there.

`agents.joint.gate` needs no more than what calling is worth beyond going on alone. The log wants to know what a whole
path comes to, so this file says for every choice which one follows, and goes back from the ends:

    V_R(s) = E[quality + alpha * entropy of the choices still to come]      V_C(s) = E[calls - limit * tokens to come]

and V = V_R - lambda V_C. All texts are greedy, so only the choices are random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.joint.drafts import Drafts
from tw_env.actions import Action

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Chain:
    """Choices in the order of `agents.joint.gate.Choices`; column 0 is going on alone, column 1 calling.

    Attributes:
        episode: (choices,) the episode of each. first: (episodes,) the first choice of each.
        following: (choices, 2) the next choice, always a later one; -1 where the episode ends.
        quality, tokens: (choices, 2) of the text that it ends with there, 0 where it goes on.
    """

    episode: IntArray
    first: IntArray
    following: IntArray
    quality: FloatArray
    tokens: FloatArray

    @property
    def ends(self) -> NDArray[np.bool_]:
        """(choices, 2) whether the episode ends."""
        return self.following < 0


@dataclass(frozen=True)
class Path:
    """One drawn path of each episode, laid end to end.

    Attributes:
        choice: (steps,) which choice. called: (steps,) 1 where it was to call, else 0.
        starts: (episodes + 1,) first step of each episode, and the number of steps.
    """

    choice: IntArray
    called: IntArray
    starts: IntArray


def chain_of(drafts: Drafts, call: Action) -> Chain:
    """The choices in some drafts: at any token for `ASK`, where the text would end for `VERIFY`."""
    return _asks(drafts) if call == Action.ASK else _verifications(drafts)


def _verifications(drafts: Drafts) -> Chain:
    count, episode = len(drafts.episode), drafts.episode
    last = drafts.chain[1:] - 1  # the draft of each episode behind which the teacher's text stands
    following = np.stack([np.full(count, -1), np.arange(1, count + 1)], axis=1)
    following[last, 1] = -1
    quality, tokens = np.zeros((count, 2)), np.zeros((count, 2))
    quality[:, 0], tokens[:, 0] = drafts.quality, drafts.lengths
    quality[last, 1], tokens[last, 1] = drafts.final_quality, drafts.final_length
    return Chain(episode, drafts.chain[:-1], following, quality, tokens)


def _asks(drafts: Drafts) -> Chain:
    draft, starts = drafts.texts.of_step.numpy(), drafts.texts.starts.numpy()
    place = np.arange(len(draft)) - starts[draft]
    fresh = place >= drafts.first[draft]
    draft, place = draft[fresh], place[fresh]
    count, episode = len(draft), drafts.episode[draft]
    begin = np.searchsorted(draft, np.arange(len(drafts.episode)))  # first choice of each draft
    wrong = (place == drafts.kept[draft]) & ~drafts.agrees[draft]  # going on alone leaves the teacher's text
    lost = wrong | (place > drafts.kept[draft])
    at_end = place == drafts.lengths[draft] - 1
    following = np.where(at_end, -1, np.arange(1, count + 1))[:, None].repeat(2, axis=1)
    repaired = np.append(begin, -1)[draft + 1]  # where the next draft takes over
    repaired[np.isin(draft, drafts.chain[1:] - 1)] = -1  # there is none: the teacher's text ends
    following[wrong, 1] = repaired[wrong]
    right = np.stack([~lost, ~lost | wrong], axis=1)  # whether it is the teacher's text so far, by the choice
    quality = np.where(right, drafts.final_quality[episode][:, None], drafts.quality[draft][:, None])
    tokens = np.where(right, drafts.final_length[episode][:, None], drafts.lengths[draft][:, None])
    ends = following < 0
    return Chain(episode, begin[drafts.chain[:-1]], following, quality * ends, tokens * ends)


def log_choice(logit: FloatArray) -> FloatArray:
    """(choices, 2) log-probabilities of going on alone and of calling, from the gate's logits (choices,)."""
    return -np.logaddexp(0.0, np.stack([logit, -logit], axis=1))


def values_of(chain: Chain, logit: FloatArray, limits: FloatArray, alpha: float) -> tuple[FloatArray, FloatArray]:
    """V_R and V_C, (choices,) each, in units of the metric and in calls.

    Args:
        logit: (choices,) of the gate. limits: (episodes,) calls per token. alpha: entropy weight.
    """
    logs = log_choice(logit)
    chances = np.exp(logs)
    place = np.arange(len(logit)) - chain.first[chain.episode]
    order = np.argsort(place, kind="stable")
    rewards, costs = np.zeros(len(logit)), np.zeros(len(logit))
    allowed = limits[chain.episode][:, None] * chain.tokens
    for at in reversed(np.split(order, np.cumsum(np.bincount(place))[:-1])):  # same place of all episodes
        goes_on = ~chain.ends[at]
        reward = chain.quality[at] + goes_on * rewards[chain.following[at]] - alpha * logs[at]
        cost = np.array([0.0, 1.0]) - allowed[at] + goes_on * costs[chain.following[at]]
        rewards[at], costs[at] = (chances[at] * reward).sum(1), (chances[at] * cost).sum(1)
    return rewards, costs


def drawn_path(chain: Chain, logit: FloatArray, generator: np.random.Generator) -> Path:
    """Let the gate play: one path of each episode, choices drawn with its own probabilities."""
    ask = np.exp(log_choice(logit)[:, 1])
    at, who = chain.first, np.arange(len(chain.first))
    steps = []
    while len(who):
        called = (generator.random(len(who)) < ask[at]).astype(np.int64)
        steps.append((who, at, called))
        at = chain.following[at, called]
        who, at = who[at >= 0], at[at >= 0]
    episode, choice, called = (np.concatenate(column) for column in zip(*steps, strict=True))
    order = np.argsort(episode, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(episode, minlength=len(chain.first)))])
    return Path(choice[order], called[order], starts)
