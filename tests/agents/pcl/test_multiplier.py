"""The multiplier: interpolation, direction, evidence."""

from __future__ import annotations

import numpy as np
import pytest

from agents.pcl.multiplier import Multiplier

GRID = np.array([0.05, 0.1, 0.4])


def test_a_value_between_grid_points_lies_between_theirs() -> None:
    multiplier = Multiplier(GRID)
    multiplier.value = np.array([3.0, 2.0, 1.0])
    assert multiplier.of(np.array([0.05, 0.1, 0.4])).tolist() == pytest.approx([3.0, 2.0, 1.0])
    assert multiplier.of(np.array([0.2])).item() == pytest.approx(1.5)  # half-way between .1 and .4 on a log scale
    assert multiplier.of(np.array([0.001, 0.9])).tolist() == pytest.approx([3.0, 1.0])


def test_no_limit_has_no_price_and_moves_nothing() -> None:
    multiplier = Multiplier(GRID, initial=1.0)
    multiplier.update(np.ones(4), np.full(4, 10.0))
    assert multiplier.of(np.array([1.0])).item() == 0.0
    assert multiplier.value.tolist() == [1.0, 1.0, 1.0]


def test_it_rises_with_violation_falls_with_slack_and_stays_without_episodes() -> None:
    multiplier = Multiplier(GRID, step=0.1, initial=1.0)
    multiplier.update(np.array([0.05, 0.05, 0.1, 0.1]), np.array([2.0, 0.0, -1.0, -1.0]))
    assert multiplier.value.tolist() == pytest.approx([1.1, 0.9, 1.0])


def test_it_is_clamped() -> None:
    multiplier = Multiplier(GRID, step=1.0, largest=2.0)
    for _ in range(5):
        multiplier.update(np.array([0.05, 0.1]), np.array([5.0, -5.0]))
    assert multiplier.value.tolist() == [2.0, 0.0, 0.0]


def test_the_proportional_part_answers_at_once_and_leaves_with_the_violation() -> None:
    multiplier = Multiplier(np.array([0.1]), step=0.1, proportional=1.0)
    multiplier.update(np.array([0.1]), np.array([1.0]))
    assert multiplier.value.item() == pytest.approx(1.1)
    multiplier.update(np.array([0.1]), np.array([0.0]))
    assert multiplier.value.item() == pytest.approx(0.1)


def test_a_grid_must_rise() -> None:
    with pytest.raises(ValueError, match="rising grid"):
        Multiplier(np.array([0.1, 0.1]))
