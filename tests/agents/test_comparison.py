"""Frontiers against each other: areas and distances by hand, and paired differences that know what is chance."""

from __future__ import annotations

import numpy as np
import pytest

from agents.comparison import Frontier, Point, area, compare, curve, distance, pooled_gap, sign_flips
from agents.evaluation import Ends, Gap, recovered_gap

PROMPTS = 3000


def writes(share: float, luck: np.ndarray) -> np.ndarray:
    """(prompts,) right where the student is (.4), or where luck falls within a share of what the teacher adds (.3)."""
    return (luck < 0.4 + 0.3 * share).astype(float)


@pytest.fixture
def luck() -> np.ndarray:
    return np.random.default_rng(1).random(PROMPTS)


@pytest.fixture
def ends(luck: np.ndarray) -> Ends:
    return Ends(writes(0, luck), writes(1, luck))


# ---- curves --------------------------------------------------------------------------------------------------


def test_the_curve_starts_at_the_student_and_stays_level_beyond_the_last_point() -> None:
    np.testing.assert_allclose(curve([0.2, 0.1], [1.0, 0.6], [0.0, 0.05, 0.15, 0.2, 0.9]), [0, 0.3, 0.8, 1, 1])


@pytest.mark.parametrize(
    ("calls", "gap", "mean_height"),
    [
        ([0.1], [1.0], 0.75),  # a triangle to 0.1, then level
        ([0.2], [1.0], 0.5),
        ([0.4], [1.0], 0.25),  # reaches half of the gap at the bound
        ([0.3, 0.1], [0.9, 0.6], 0.4875),  # (0.6 / 2 + (0.6 + 0.75) / 2) / 2
        ([0.0, 0.1], [0.0, 1.0], 0.75),  # a rule under which nothing is spent is the student
    ],
)
def test_the_area_is_the_curves_mean_height_up_to_the_bound(
    calls: list[float], gap: list[float], mean_height: float
) -> None:
    assert area(calls, gap, bound=0.2) == pytest.approx(mean_height)


def test_an_area_needs_a_bound() -> None:
    with pytest.raises(ValueError, match="a bound above 0"):
        area([0.1], [1.0], bound=0.0)


def test_the_distance_is_to_the_best_reference_at_the_same_calls() -> None:
    references = [([0.1], [1.0]), ([0.02, 0.2], [0.5, 0.6])]
    assert distance(0.05, 0.3, references) == pytest.approx(0.5 + 0.1 / 6 - 0.3)
    assert distance(0.1, 0.7, references) == pytest.approx(0.3)
    assert distance(0.1, 1.1, references) == pytest.approx(-0.1)
    assert distance(0.1, 0.7, []) is None


# ---- seeds ---------------------------------------------------------------------------------------------------


def test_one_seed_has_the_interval_of_its_prompts(luck: np.ndarray, ends: Ends) -> None:
    quality = writes(0.5, luck)
    assert pooled_gap(quality[None], ends) == recovered_gap(quality, ends)


def test_seeds_that_agree_add_nothing_and_seeds_that_differ_widen_the_interval(luck: np.ndarray, ends: Ends) -> None:
    same = pooled_gap(np.stack([writes(0.5, luck)] * 5), ends)
    unlike = pooled_gap(np.stack([writes(share, luck) for share in (0.1, 0.3, 0.5, 0.7, 0.9)]), ends)
    one = recovered_gap(writes(0.5, luck), ends)
    assert same.high - same.low == pytest.approx(one.high - one.low, rel=0.1)
    assert unlike.value == pytest.approx(same.value, abs=0.02)
    spread = np.std([0.1, 0.3, 0.5, 0.7, 0.9]) / np.sqrt(5)
    assert unlike.high - unlike.low == pytest.approx(2 * 1.96 * spread, rel=0.15)


# ---- paired --------------------------------------------------------------------------------------------------


def test_between_two_rules_a_frontier_is_their_mixture_at_the_same_calls(luck: np.ndarray) -> None:
    cheap, dear = writes(0.4, luck), writes(0.8, luck)
    frontier = Frontier.through([Point(0.2, dear), Point(0.1, cheap)], writes(0, luck))
    np.testing.assert_allclose(frontier.at(0.125), 0.75 * cheap + 0.25 * dear)
    np.testing.assert_allclose(frontier.at(0.05), 0.5 * writes(0, luck) + 0.5 * cheap)
    np.testing.assert_allclose(frontier.at(0.2), dear)
    np.testing.assert_allclose(frontier.at(0.7), dear)


def test_an_agent_on_the_others_line_does_not_differ_from_it(luck: np.ndarray, ends: Ends) -> None:
    other = Frontier.through([Point(0.1, writes(0.4, luck)), Point(0.2, writes(0.8, luck))], ends.student)
    found = compare(Point(0.1, writes(0.4, luck)), other, ends)
    assert (found.gap, found.p_value, found.reached) == (Gap(0.0, 0.0, 0.0), 1.0, True)
    between = compare(Point(0.15, writes(0.6, luck)), other, ends)
    assert between.gap.low < 0 < between.gap.high
    assert between.p_value > 0.05


def test_the_same_quality_for_fewer_calls_is_better_and_the_reverse_worse(luck: np.ndarray, ends: Ends) -> None:
    points = {calls: Point(calls, writes(0.6, luck)) for calls in (0.1, 0.2)}
    cheap, dear = (Frontier.through([point], ends.student) for point in points.values())
    better, worse = compare(points[0.1], dear, ends), compare(points[0.2], cheap, ends)
    assert better.gap.value == pytest.approx(0.3, abs=0.02)
    assert 0 < better.gap.low < better.gap.value < better.gap.high
    assert better.p_value < 0.01
    assert worse.gap.value == pytest.approx(0.0)
    assert not worse.reached


def test_pairing_finds_what_unpaired_intervals_hide(luck: np.ndarray, ends: Ends) -> None:
    ours, theirs = writes(0.53, luck), writes(0.5, luck)
    apart = recovered_gap(ours, ends), recovered_gap(theirs, ends)
    assert apart[0].low < apart[1].high
    found = compare(Point(0.1, ours), Frontier.through([Point(0.1, theirs)], ends.student), ends)
    assert found.gap.low > 0


def test_other_prompts_are_refused(luck: np.ndarray, ends: Ends) -> None:
    with pytest.raises(ValueError, match="the same prompts for both agents"):
        compare(Point(0.1, luck[1:]), Frontier.through([], ends.student), ends)


def test_flipped_signs_give_the_binomial_p_value_of_few_prompts() -> None:
    assert sign_flips(np.array([1.0, 1, 1, 1, 1, 0, 0])) == pytest.approx(2 / 2**5)
    assert sign_flips(np.zeros(9)) == 1.0
    chance = [sign_flips(np.random.default_rng(n).standard_normal(200), 200) for n in range(100)]
    assert 0.01 <= np.mean(np.array(chance) < 0.1) <= 0.2
