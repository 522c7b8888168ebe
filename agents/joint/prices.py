"""What a call costs in joint training: a price for every limit, moved by what play spends beyond it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.joint import diagnostics
from agents.joint.config import JointConfig
from agents.joint.gate import Played
from agents.joint.wording import FREE, NEVER
from agents.pcl.multiplier import Multiplier

FloatArray = NDArray[np.float64]
Numbers = dict[str, float]


def spendable_of(limits: FloatArray) -> FloatArray:
    """(n,) calls that a written token allows: none is counted where there is no limit, and none costs anything."""
    return np.where(limits == FREE, 0.0, limits)


class CallPrices:
    """Lambda for the limits of training and all between them, for "never", and for no limit at all.

    Args:
        scale: what a unit of the metric is worth, see `agents.joint.config.JointData`.

    Attributes:
        multiplier: lambda for every limit that is trained on.
    """

    def __init__(self, config: JointConfig, scale: float) -> None:
        self._largest, self._scale = config.price_largest, scale
        limits = np.array(sorted(config.limits))
        self.multiplier = Multiplier(
            limits, step=config.price_step, least=config.price_least, largest=config.price_largest
        )
        first = np.clip(config.price * np.sqrt(0.1 / limits), config.price_least, config.price_largest)
        self.multiplier.integral, self.multiplier.value = first, first.copy()

    def of(self, limits: FloatArray) -> FloatArray:
        """(n,) lambda: the largest for "never", none without a limit."""
        inside = self.multiplier.of(np.clip(limits, 1e-6, 1.0))
        return np.where(limits == NEVER, self._largest, inside)

    def charge(self, limits: FloatArray, played: Played) -> Numbers:
        """Move the prices by what play under these limits (episodes,) spent, and say what it came to."""
        bound = (limits > NEVER) & (limits < FREE)
        violation = played.calls - spendable_of(limits) * played.tokens
        self.multiplier.update(limits[bound], violation[bound])
        numbers = {"quality": float(played.quality.mean()) / self._scale}
        if bound.any():
            numbers["calls_per_token"] = float(played.calls[bound].sum() / played.tokens[bound].sum())
        return numbers | diagnostics.ask_rates(limits, played) | self.multiplier.numbers()
