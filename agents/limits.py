"""What rules limit that a policy learns to keep, and how their limits and costs are told to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.rollout import Episodes
from tw_env.rules import Constraint, Quantity
from tw_env.schedule import read_rules

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Limited:
    """Soft limits on one quantity.

    Whatever it is, costs are told in calls, so that one multiplier's steps and clamps fit all: a millisecond counts as
    its share of the time of a call that reads one token.

    Attributes:
        quantity: what is limited.
        limits: in the quantity's unit, rising; those that are played and learned, none for any share of the tokens.
        unit: what a call that reads one token costs, in the quantity's unit.
        cap: on new tokens.
    """

    quantity: Quantity = Quantity.CALLS_PER_TOKEN
    limits: tuple[float, ...] = ()
    unit: float = 1.0
    cap: int = 1

    @property
    def share(self) -> bool:
        """Whether what is allowed grows with the text."""
        return self.quantity == Quantity.CALLS_PER_TOKEN

    def constraint(self, limit: float) -> Constraint:
        """At most so much of the quantity."""
        return Constraint(self.quantity, limit)

    def seen(self, limits: FloatArray) -> FloatArray:
        """What observations show of limits (n,), see `Layout["limit"]`."""
        return limits if self.share else np.minimum(limits / (self.cap * self.unit), 1.0)

    def in_calls(self, episodes: Episodes) -> Episodes:
        """Episodes that were played under such limits, what they spent and were allowed told in calls."""
        if self.unit == 1.0:
            return episodes
        return replace(
            episodes,
            costs=episodes.costs / self.unit,
            allowances=episodes.allowances / self.unit,
            before=episodes.before / self.unit,
        )


SHARES = Limited()  # any share of the tokens


def limited(env: Any, quantity: Quantity, limits: Sequence[float] = ()) -> Limited:
    """Limits in a game.

    Raises:
        ValueError: the quantity can't be measured there, see `tw_env.budget.Budget.check`.
    """
    budget = env.unwrapped.game.budget
    for limit in limits:
        budget.check(Constraint(quantity, limit))
    return Limited(quantity, tuple(sorted(set(limits))), budget.call_cost(quantity), int(env.unwrapped.game.cap))


def soft_limits(env: Any) -> Limited | None:
    """The limits of a game's rules if all are soft, on one quantity, and can bind; None otherwise, and elsewhere.

    An absolute limit binds above 0, which allows no call at all, and below what a call at every token costs.
    """
    settings = getattr(env.unwrapped, "settings", None)
    if settings is None or settings.hard:
        return None
    rules = [rule.constraint for rule in read_rules(settings.rule)]
    quantities = {rule.quantity for rule in rules} or {Quantity.CALLS_PER_TOKEN}
    if len(quantities) > 1 or any(rule.hard or math.isinf(rule.limit) for rule in rules):
        return None
    found = limited(env, quantities.pop(), [rule.limit for rule in rules])
    seen = found.seen(np.array(found.limits))
    return found if found.share or ((seen > 0) & (seen < 1)).all() else None
