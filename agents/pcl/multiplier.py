"""The price of a call for every rule: a Lagrange multiplier on a grid of limits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class Multiplier:
    """lambda per limit, interpolated between grid points, moved by a PID step (Stooke et al. 2020, arXiv 2007.03964).

    Units: reward per unit of cost. It moves against the mean violation, spent - allowed, of finished on-policy
    episodes; a grid point that saw none stays where it is. Plain dual ascent is `proportional = derivative = 0`.

    Args:
        limits: (points,) the grid, rising, in the observation's unit (a share in [0, 1]).
        step: lambda's move per unit of violation (the integral gain).
        proportional, derivative: gains on the violation itself and on its rise.
        least, largest: clamps. A price above 0 tells good calls from wasted ones even where the limit does not bind.
        initial: where every point starts, if above `least`; near 0, since a high start teaches the gate to never ask.
    """

    def __init__(
        self,
        limits: FloatArray,
        step: float = 0.05,
        proportional: float = 0.0,
        derivative: float = 0.0,
        least: float = 0.0,
        largest: float = 5.0,
        initial: float = 0.0,
    ) -> None:
        self.limits = np.asarray(limits, np.float64)
        if self.limits.ndim != 1 or not len(self.limits) or np.any(np.diff(self.limits) <= 0):
            raise ValueError(f"Expected a rising grid of limits, got {limits!r}.")
        self.step, self.proportional, self.derivative = step, proportional, derivative
        self.least, self.largest = least, largest
        self.integral = np.full(len(self.limits), max(float(initial), least))
        self.previous = np.zeros(len(self.limits))
        self.seen = np.zeros(len(self.limits), bool)  # which points had episodes in the last update
        self.value = self.integral.copy()

    def weights(self, limits: FloatArray) -> FloatArray:
        """(n, points) linear interpolation weights of limits (n,) on the logarithm of the grid."""
        grid, at = np.log(self.limits), np.log(np.clip(limits, self.limits[0], self.limits[-1]))
        right = np.clip(np.searchsorted(grid, at, side="right"), 1, max(len(grid) - 1, 1))
        weights = np.zeros((len(at), len(grid)))
        if len(grid) == 1:
            weights[:, 0] = 1.0
            return weights
        share = (at - grid[right - 1]) / (grid[right] - grid[right - 1])
        rows = np.arange(len(at))
        weights[rows, right - 1] = 1.0 - share
        weights[rows, right] = share
        return weights

    def of(self, limits: FloatArray) -> FloatArray:
        """(n,) lambda for these limits; 0 where there is no limit (1), since nothing is to be saved."""
        return np.where(limits >= 1.0, 0.0, self.weights(limits) @ self.value)

    def update(self, limits: FloatArray, violation: FloatArray) -> None:
        """Move after finished on-policy episodes with these limits (n,) and violations (n,)."""
        bound = limits < 1.0
        self.seen = np.zeros(len(self.limits), bool)
        if not bound.any():
            return
        weights = self.weights(limits[bound])
        mass = weights.sum(axis=0)
        self.seen = seen = mass > 0
        mean = np.where(seen, weights.T @ violation[bound] / np.maximum(mass, 1e-9), 0.0)
        # A point with little evidence moves little: its mean is noise.
        trust = np.minimum(mass / np.maximum(mass[seen].mean(), 1e-9), 1.0)
        self.integral = np.clip(self.integral + self.step * trust * mean, self.least, self.largest)
        rise = np.maximum(mean - self.previous, 0.0)
        extra = self.proportional * mean + self.derivative * rise
        self.value = np.where(seen, np.clip(self.integral + extra, self.least, self.largest), self.value)
        self.previous = np.where(seen, mean, self.previous)

    def numbers(self) -> dict[str, float]:
        """For a log: lambda by limit, and the mean violation of those that the last update saw."""
        moved = [(f"{limit:g}", index) for index, limit in enumerate(self.limits) if self.seen[index]]
        return {
            **{f"lambda/{limit:g}": float(value) for limit, value in zip(self.limits, self.value, strict=True)},
            **{f"violation/{limit}": float(self.previous[index]) for limit, index in moved},
        }

    def state(self) -> dict[str, Any]:
        return {"integral": self.integral, "previous": self.previous, "value": self.value}

    def restore(self, state: dict[str, Any]) -> None:
        self.integral, self.previous, self.value = (np.array(state[k]) for k in ("integral", "previous", "value"))
