"""What a multiplier does over a run: time to feasibility, overshoot, oscillation; from the numbers of a log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Dynamics:
    """How a multiplier brought the violation of one limit down. Violations are smoothed, see `dynamics`.

    Attributes:
        feasible_after: rounds until the violation was at most the tolerance; None if it never was.
        overshoot: the largest violation after that, 0 if there was none; None without feasibility.
        oscillation: changes of side per 100 rounds after that, each from beyond the tolerance on one side of 0 to
            beyond it on the other, so that noise within the tolerance counts for nothing; None without feasibility.
        swing: of lambda after that: its range between one change of side and the next, averaged; None without
            feasibility.
        violation: the mean over the last fifth of the rounds, not smoothed.
        multiplier: lambda's mean over the last fifth of the rounds.
    """

    feasible_after: int | None
    overshoot: float | None
    oscillation: float | None
    swing: float | None
    violation: float
    multiplier: float


def dynamics(violation: FloatArray, multiplier: FloatArray, tolerance: float, window: int = 10) -> Dynamics:
    """Measure a run.

    Args:
        violation: (rounds,) mean of spent - allowed a round, in the rule's unit of cost; nan where no episode ended.
        multiplier: (rounds,) lambda.
        tolerance: how much violation counts as none; choose it above the noise of a round's mean.
        window: rounds that are averaged: that of round t and the ones before.

    Raises:
        ValueError: arrays of different or zero length, a window below 1, a negative tolerance.
    """
    rounds = len(violation)
    if rounds == 0 or rounds != len(multiplier) or window < 1 or tolerance < 0:
        raise ValueError(
            f"Expected violation and multiplier of the same rounds, a window of at least 1 and a tolerance of at least "
            f"0; got {rounds} and {len(multiplier)} rounds, window {window}, tolerance {tolerance}."
        )
    smooth = smoothed(violation, window)
    last = slice(-max(rounds // 5, 1), None)
    ending = float(np.nanmean(violation[last])), float(multiplier[last].mean())
    keeps = np.flatnonzero(smooth <= tolerance)
    if not keeps.size:
        return Dynamics(None, None, None, None, *ending)
    first = int(keeps[0])
    later, prices = smooth[first:], multiplier[first:]
    changes = changes_of_side(later, tolerance)
    pieces = np.split(prices, changes)
    return Dynamics(
        feasible_after=first + 1,
        overshoot=max(float(np.nanmax(later)), 0.0),
        oscillation=100 * len(changes) / len(later),
        swing=float(np.mean([piece.max() - piece.min() for piece in pieces])),
        violation=ending[0],
        multiplier=ending[1],
    )


def smoothed(values: FloatArray, window: int) -> FloatArray:
    """(rounds,) means over each round and up to window - 1 before it, without nan; nan where there is nothing else.

    The first window - 1 rounds are nan, too: a mean over fewer rounds would be feasible by chance.
    """
    known = ~np.isnan(values)
    sums = np.convolve(np.where(known, values, 0.0), np.ones(window))[: len(values)]
    counts = np.convolve(known, np.ones(window))[: len(values)]
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    means[: min(window, len(values)) - 1] = np.nan
    return means


def changes_of_side(values: FloatArray, tolerance: float) -> NDArray[np.int64]:
    """Where values that were last beyond the tolerance on one side of 0 are beyond it on the other."""
    beyond = np.flatnonzero(np.abs(np.nan_to_num(values)) > tolerance)
    sides = np.sign(values[beyond])
    return beyond[1:][sides[1:] != sides[:-1]]


def of_log(rounds: Iterable[Mapping[str, float]], tolerance: float, window: int = 10) -> dict[str, Dynamics]:
    """By limit, from the numbers that `PCL.learn` logs each round (`lambda/<limit>` and `violation/<limit>`).

    Raises:
        ValueError: rounds without those numbers.
    """
    rounds = list(rounds)
    lambdas = [name for name in (rounds[0] if rounds else {}) if name.startswith("lambda/") and name != "lambda/mean"]
    found = {}
    for name in lambdas:
        limit = name.removeprefix("lambda/")
        violation = np.array([numbers.get(f"violation/{limit}", np.nan) for numbers in rounds], np.float64)
        if not np.isnan(violation).all():
            prices = np.array([numbers[name] for numbers in rounds], np.float64)
            found[limit] = dynamics(violation, prices, tolerance, window)
    if not found:
        raise ValueError("Expected rounds with lambda/<limit> and violation/<limit>, as PCL.learn logs them; got none.")
    return found


def read_log(path: Path) -> list[dict[str, float]]:
    """The rounds in a `log.jsonl` that `scripts.train` wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()]
