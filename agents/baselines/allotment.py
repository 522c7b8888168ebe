"""Which prompts the calls go to: the best choice of one plan per prompt under a rule on all of them together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from agents.baselines.reach import Point, Reach
from tw_env.rules import Constraint, Quantity

ROUNDING = 1e-9  # sums of many weights


@dataclass(frozen=True)
class Allotment:
    """One point for every prompt.

    Attributes:
        chosen: in the order of the prompts.
        quality: mean over the prompts.
        bound: mean quality that no choice among these points can exceed, were they even mixed by lot.
    """

    chosen: list[Point]
    quality: float
    bound: float


@dataclass(frozen=True)
class _Raise:
    """From one point of a prompt's hull to the next: what it gains and what it weighs."""

    gain: float
    weight: float
    prompt: int
    point: Point


def allot(found: Sequence[Reach], constraint: Constraint, most_calls: float = math.inf) -> Allotment:
    """Choose a point for each prompt so that the summed quality is highest and the rule is kept by all together.

    The rule says sum(spent - allowed) <= 0. So a point weighs calls - limit * tokens for a rule on calls per token and
    calls - limit for one on calls. One choice out of each set under one summed weight is the multiple-choice knapsack
    problem; its linear relaxation is solved exactly by climbing the concave hulls of the sets, steepest step first
    (Sinha and Zoltners 1979, "The Multiple-Choice Knapsack Problem"). Only the first step that doesn't fit would be
    taken in part there, so what is chosen here falls short of the best choice by less than one step of one prompt.

    Args:
        most_calls: calls that one output can afford (a hard rule).

    Raises:
        ValueError: a rule on time or money, whose costs depend on more than calls and tokens.
    """
    options = [[point for point in reach.points if point.calls <= most_calls] for reach in found]
    if math.isinf(constraint.limit):
        chosen = [max(points, key=lambda point: (point.quality, -point.calls)) for points in options]
        quality = math.fsum(point.quality for point in chosen) / max(len(chosen), 1)
        return Allotment(chosen, quality, quality)
    chosen, raises = [], []
    for prompt, points in enumerate(options):
        hull = _hull([(weight(point, constraint), point) for point in points])
        chosen.append(hull[0][1])
        raises += [
            _Raise(after.quality - before.quality, heavy - light, prompt, after)
            for (light, before), (heavy, after) in pairwise(hull)
        ]
    left = -math.fsum(weight(point, constraint) for point in chosen)
    part = 0.0  # of the quality that the first step that doesn't fit would add, taken as far as it fits
    full: set[int] = set()
    for step in sorted(raises, key=lambda step: -step.gain / step.weight):
        if step.prompt in full:
            continue
        if step.weight <= left + ROUNDING:
            chosen[step.prompt] = step.point
            left -= step.weight
            part -= step.gain if full else 0.0
        else:
            if not full:
                part = step.gain * max(left, 0.0) / step.weight
            full.add(step.prompt)
    total, count = math.fsum(point.quality for point in chosen), max(len(chosen), 1)
    return Allotment(chosen, total / count, (total + part) / count)


def weight(point: Point, constraint: Constraint) -> float:
    """What a plan spends beyond what it is allowed, in calls."""
    if constraint.quantity == Quantity.CALLS_PER_TOKEN:
        return point.calls - constraint.limit * point.tokens
    if constraint.quantity == Quantity.CALLS:
        return point.calls - constraint.limit
    raise ValueError(
        f"Expected a rule on calls or calls per token, got {str(constraint)!r}: what a plan costs in "
        f"{constraint.quantity} depends on more than its calls and tokens."
    )


def _hull(points: list[tuple[float, Point]]) -> list[tuple[float, Point]]:
    """The upper concave hull of (weight, quality), from the lightest point to the best one."""
    hull: list[tuple[float, Point]] = []
    for heavy, point in sorted(points, key=lambda pair: (pair[0], -pair[1].quality, pair[1].calls)):
        if hull and point.quality <= hull[-1][1].quality:
            continue
        while len(hull) > 1:
            (first, low), (second, middle) = hull[-2:]
            if (middle.quality - low.quality) * (heavy - first) > (point.quality - low.quality) * (second - first):
                break
            hull.pop()
        hull.append((heavy, point))
    return hull
