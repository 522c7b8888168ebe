"""Agents against each other: frontiers, the area under them, and paired differences at equal calls per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid
from scipy.stats import permutation_test

from agents.evaluation import Ends, Gap, recovered_gap

FloatArray = NDArray[np.float64]

BOUND = 0.2  # calls per token up to which the area under a frontier is taken


# ---- curves: the recovered gap alone -------------------------------------------------------------------------


def curve(calls: ArrayLike, gap: ArrayLike, at: float | FloatArray) -> FloatArray:
    """The frontier through measured points, read at other calls per token.

    Straight lines join (0, 0), the student alone, and the points in the order of their calls. Beyond the last point
    the curve stays level: what may spend more can always spend less. Of points with equal calls the last one counts.

    Args:
        calls, gap: (points,) calls per token and recovered gap.
    """
    calls, gap = np.asarray(calls, float), np.asarray(gap, float)
    order = np.argsort(calls, kind="stable")
    return np.interp(np.asarray(at, float), np.concatenate([[0.0], calls[order]]), np.concatenate([[0.0], gap[order]]))


def area(calls: ArrayLike, gap: ArrayLike, bound: float = BOUND) -> float:
    """Mean height of `curve` over calls per token from 0 to `bound`, exact by trapezoids; 1 is the whole gap at once.

    Raises:
        ValueError: a bound that is not above 0.
    """
    if bound <= 0:
        raise ValueError(f"Expected a bound above 0 calls per token, got {bound}.")
    calls = np.asarray(calls, float)
    corners = np.unique(np.concatenate([[0.0], calls[(calls > 0) & (calls < bound)], [bound]]))
    return float(trapezoid(curve(calls, gap, corners), corners) / bound)


def distance(calls: float, gap: float, references: Sequence[tuple[ArrayLike, ArrayLike]]) -> float | None:
    """How far a point lies below the best of several frontiers at the same calls per token; negative if above.

    Args:
        references: (calls, gap) of each frontier. None is returned without any.
    """
    if not references:
        return None
    return max(float(curve(*reference, calls)) for reference in references) - gap


def pooled_gap(quality: FloatArray, ends: Ends, resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> Gap:
    """Recovered gap of several seeds together; the interval holds the chance of prompts and that of seeds.

    Seeds and prompts are both drawn anew, each prompt with the same seeds (pigeonhole bootstrap, Owen 2007, Annals of
    Applied Statistics 1:386). With one seed it is the paired bootstrap of `agents.evaluation.recovered_gap`.

    Args:
        quality: (seeds, prompts), prompts in the order of `ends`.

    Raises:
        ValueError: another number of prompts than the ends have.
    """
    single = recovered_gap(quality.mean(axis=0), ends, resamples, confidence, seed)
    seeds, prompts = quality.shape
    if seeds == 1 or single.value is None:
        return single
    generator = np.random.default_rng(seed)
    gained, whole = quality - ends.student, ends.teacher - ends.student
    drawn = np.empty(resamples)
    for number in range(resamples):
        chosen = generator.integers(prompts, size=prompts)
        runs = generator.integers(seeds, size=seeds)
        below = whole[chosen].mean()
        drawn[number] = gained[:, chosen].mean(axis=1)[runs].mean() / (below if abs(below) > 1e-12 else 1e-12)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Gap(single.value, float(low), float(high))


# ---- paired: outcomes of every prompt ------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One agent under one rule: calls per token, and the quality of every prompt (prompts,), seeds averaged."""

    calls: float
    quality: FloatArray


@dataclass(frozen=True)
class Frontier:
    """Points of one agent from cheap to dear, the student alone first.

    Attributes:
        calls: (points,) rising. quality: (points, prompts).
    """

    calls: FloatArray
    quality: FloatArray

    @classmethod
    def through(cls, points: Sequence[Point], student: FloatArray) -> Frontier:
        """Join these points and the student alone (prompts,), which calls nobody."""
        ordered = sorted(points, key=lambda point: point.calls)
        calls = np.array([0.0, *(point.calls for point in ordered)])
        return cls(calls, np.stack([student, *(point.quality for point in ordered)]))

    def at(self, calls: float) -> FloatArray:
        """(prompts,) quality at these calls per token, between the two neighbouring points, level beyond the last.

        It is the expected quality of drawing one of the two rules for each prompt, with the odds that spend just
        these calls.
        """
        after = int(np.searchsorted(self.calls, calls, side="right"))
        if after == len(self.calls):
            return self.quality[-1]
        low, high = self.calls[after - 1], self.calls[after]
        share = (calls - low) / (high - low)
        return (1 - share) * self.quality[after - 1] + share * self.quality[after]


@dataclass(frozen=True)
class Difference:
    """A point against another agent's frontier at the point's own calls per token.

    Attributes:
        calls: per token, where they are compared. gap: difference in recovered gap with its 95% interval.
        p_value: two-sided, that the prompts show no difference. reached: whether the other agent spends as much
            under any of its rules; where not, it is taken at its last point.
    """

    calls: float
    gap: Gap
    p_value: float
    reached: bool


def compare(point: Point, other: Frontier, ends: Ends, resamples: int = 1000, seed: int = 0) -> Difference:
    """Is an agent better than another on the same prompts, at equal calls per token?

    The interval is a paired percentile bootstrap over prompts (Efron and Tibshirani 1993, chapter 13) of
    sum(own - other's quality) / sum(teacher - student). The p-value flips the signs of the prompts' differences
    (Fisher 1935). Calls per token, and hence the two neighbouring points, are taken as given.

    Raises:
        ValueError: arrays of different lengths.
    """
    if len(point.quality) != other.quality.shape[1]:
        raise ValueError(
            f"Expected the same prompts for both agents; got {len(point.quality)} and {other.quality.shape[1]} of them."
        )
    gained = point.quality - other.at(point.calls)
    gap = recovered_gap(ends.student + gained, ends, resamples, seed=seed)
    return Difference(point.calls, gap, sign_flips(gained, resamples, seed), bool(point.calls <= other.calls[-1]))


def sign_flips(gained: FloatArray, resamples: int = 1000, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference (prompts,) when each sign could as well be the other one."""
    gained = gained[gained != 0]  # a flip changes nothing there
    if not gained.size:
        return 1.0
    tested = permutation_test(
        (gained,), np.mean, permutation_type="samples", vectorized=True, n_resamples=resamples, batch=100,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(tested.pvalue)
