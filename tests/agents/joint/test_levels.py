"""Levels stand beside the words: one a limit, moved by what is missing, none for rules without a number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agents.joint.levels import Levels

LIMITS = (0.2, 0.05, 0.1)


def test_each_limit_has_its_own_and_others_none() -> None:
    levels = Levels(LIMITS, rate=0.5)
    limits = np.array([0.05, 0.05, 0.1, 0.0, math.inf, 0.3])
    levels.update(limits, np.array([2.0, 4.0, -3.0, 9.0, 9.0, 9.0]), np.array([1.0, 2.0, 1.0, 1.0, 1.0, 1.0]))
    assert levels.of(limits).tolist() == [1.0, 1.0, -1.5, 0.0, 0.0, 0.0]
    assert levels.of(np.array([0.2])).tolist() == [0.0], "it saw no episode"
    again = Levels(LIMITS, rate=0.5)
    again.restore(levels.state())
    assert again.numbers() == levels.numbers() == {"level/0.05": 1.0, "level/0.1": -1.5, "level/0.2": 0.0}


def test_a_student_that_does_not_read_its_rule_comes_right_on_average() -> None:
    """Its logit is the same under every limit; what each wants is noisy."""
    levels, generator = Levels(LIMITS, rate=0.1), np.random.default_rng(0)
    wanted = {0.05: -4.0, 0.1: -1.0, 0.2: 2.5}
    for _ in range(400):
        limits = generator.choice(LIMITS, size=12)
        target = np.array([wanted[limit] for limit in limits]) + generator.normal(size=12)
        weights = generator.uniform(0.5, 1.5, size=12)
        levels.update(limits, weights * (target - 0.5 - levels.of(limits)), weights)
    for limit, target in wanted.items():
        assert levels.of(np.array([limit]))[0] == pytest.approx(target - 0.5, abs=0.5)


def test_no_rate_leaves_it_to_the_words() -> None:
    levels = Levels(LIMITS, rate=0.0)
    levels.update(np.array([0.05]), np.array([3.0]), np.array([1.0]))
    assert not levels.value.any()
    assert levels.numbers() == {}
