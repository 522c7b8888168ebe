"""A cut for every rule: where a score starts to call the teacher."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tw_env.budget import QUANTITIES
from tw_env.observations import Layout

NEVER, ALWAYS = 1e9, -1e9  # cuts above and below every score


@dataclass(frozen=True)
class CutTable:
    """One number, or one per limit with straight lines between.

    Attributes:
        limits: by quantity, the observed limits (`Layout["limit"]`) in rising order.
        cuts: by quantity, the cut that keeps each of them.
        default: the one number, where there are no limits.
        elsewhere: the cut of rules that the table has none for, those without a limit and those on another quantity;
            None always calls without a limit, and refuses other quantities.
    """

    limits: dict[str, list[float]] = field(default_factory=dict)
    cuts: dict[str, list[float]] = field(default_factory=dict)
    default: float = NEVER
    elsewhere: float | None = None

    def of(self, observations: NDArray[np.float32], layout: Layout) -> NDArray[np.float64]:
        """(rows,) the cut of each row's rule. In a table, a limit of 0 never calls.

        Raises:
            ValueError: a limit on a quantity that the table has no cuts for, neither of its own nor `elsewhere`.
        """
        if not self.limits:
            return np.full(len(observations), self.default)
        limit = observations[:, layout["limit"].start].astype(np.float64)
        quantity = observations[:, layout["quantity"]].argmax(axis=1)
        free = ALWAYS if self.elsewhere is None else self.elsewhere
        cut = np.full(len(observations), free)
        for number in np.unique(quantity[(limit > 0) & (limit < 1)]):
            name, rows = QUANTITIES[number].value, quantity == number
            if name not in self.limits and self.elsewhere is not None:
                continue
            if name not in self.limits:
                raise ValueError(
                    f"Expected a limit on {', '.join(self.limits)}, for which this policy's cuts were calibrated; got "
                    f"one on {name}. Word the rule by one of those, or use a policy with cuts for {name}."
                )
            cut[rows] = np.interp(limit[rows], self.limits[name], self.cuts[name])
        return np.where(limit <= 0, NEVER, np.where(limit >= 1, free, cut))

    def record(self) -> dict[str, Any]:
        """As plain numbers and words, for a file."""
        return asdict(self)
