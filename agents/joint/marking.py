"""What each token of an update counts, and where behaviour cloning asks."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.joint.gate import any_ask
from agents.joint.reading import Texts
from agents.joint.wording import FREE, NEVER
from tw_env.actions import Action

LEAST_ALONE = 0.1  # least weight of a text that is verified anyway, if `write_alone` holds


def alone(log_odds: Tensor, texts: Texts) -> Tensor:
    """(steps,) the probability that nobody is asked in a step's text, from log-odds (steps,) of asking."""
    of_step = texts.of_step.to(log_odds.device)
    return torch.sigmoid(-any_ask(log_odds, of_step, len(texts))).clamp(min=LEAST_ALONE)[of_step]


def marked(nats: Tensor, of_step: Tensor, limits: Tensor, action: Action) -> Tensor:
    """(steps,) 1 where behaviour cloning asks: where the student finds the teacher's token most surprising.

    So many places as each text's rule allows, of all places that share its limit; for `VERIFY` a text counts as marked
    at its most surprising place.
    """
    marks = torch.zeros_like(nats)
    for limit in limits.unique():
        at = (limits[of_step] == limit).nonzero()[:, 0]
        if limit <= NEVER:
            continue
        if action == Action.VERIFY and limit < FREE:
            texts = len(of_step[at].unique())
            wanted = min(round(float(limit) * len(at)), texts)
        else:
            wanted = round(min(float(limit), 1.0) * len(at))
        marks[at[nats[at].topk(min(wanted, len(at))).indices]] = 1.0
    return marks
