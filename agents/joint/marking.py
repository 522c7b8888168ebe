"""What each token of an update counts, and where behaviour cloning asks."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.joint.gate import any_ask
from agents.joint.reading import Texts
from agents.joint.wording import FREE
from tw_env.actions import Action

LEAST_ALONE = 0.1  # least weight of a text that is verified anyway, if `write_alone` holds


def alone(log_odds: Tensor, texts: Texts) -> Tensor:
    """(steps,) the probability that nobody is asked in a step's text, from log-odds (steps,) of asking."""
    of_step = texts.of_step.to(log_odds.device)
    return torch.sigmoid(-any_ask(log_odds, of_step, len(texts))).clamp(min=LEAST_ALONE)[of_step]


def marked(nats: Tensor, of_step: Tensor, limits: Tensor, action: Action) -> Tensor:
    """(steps,) 1 where behaviour cloning asks: where the student finds the teacher's token most surprising.

    So large a share of the places as each text's rule allows, by their rank among all places of all texts; for `VERIFY`
    no more places than there are texts, unless there is no limit.

    Args:
        nats: (steps,) of the teacher's tokens. of_step: (steps,) index of the text of each. limits: (texts,).
    """
    rank = torch.empty_like(nats)
    rank[nats.argsort(descending=True)] = torch.arange(len(nats)).to(nats)
    limit = limits[of_step]
    if action == Action.VERIFY:
        limit = torch.where(limit < FREE, limit.clamp(max=len(of_step.unique()) / len(nats)), limit)
    return (rank + 0.5 < limit * len(nats)).to(nats)
