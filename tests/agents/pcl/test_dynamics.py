"""Oscillation, overshoot and time to feasibility of curves whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agents.pcl import PCL
from agents.pcl.dynamics import changes_of_side, dynamics, of_log, read_log, smoothed
from tests.agents.pcl.test_agent import SMALL
from tests.bandit import Bandit


def test_a_falling_violation_is_feasible_when_its_mean_is() -> None:
    violation = np.linspace(1.0, -1.0, 201)  # 0 at index 100
    found = dynamics(violation, np.arange(201.0), tolerance=0.0, window=1)
    assert found.feasible_after == 101
    assert (found.overshoot, found.oscillation) == (0.0, 0.0)
    assert found.swing == 100.0
    # A mean over the last 11 rounds is 5 rounds late.
    assert dynamics(violation, np.arange(201.0), tolerance=0.0, window=11).feasible_after == 106
    assert found.violation == pytest.approx(violation[-40:].mean())


def test_a_wave_has_its_amplitude_and_its_frequency() -> None:
    rounds = np.arange(400)
    violation = 0.5 * np.sin(2 * np.pi * (rounds + 0.5) / 40)
    lambdas = 1.0 - 0.2 * np.cos(2 * np.pi * rounds / 40)
    found = dynamics(violation, lambdas, tolerance=0.1, window=1)
    assert found.overshoot == pytest.approx(0.5, abs=0.01)
    assert found.oscillation == pytest.approx(5.0, abs=0.3)  # twice a period of 40 rounds
    assert found.swing == pytest.approx(0.4, abs=0.05)
    # Waves within the tolerance are noise.
    assert dynamics(violation, lambdas, tolerance=0.6, window=1).oscillation == 0.0


def test_what_never_keeps_the_limit_says_so() -> None:
    found = dynamics(np.ones(30), np.zeros(30), tolerance=0.5)
    assert (found.feasible_after, found.overshoot, found.oscillation, found.swing) == (None, None, None, None)
    assert found.violation == 1.0
    with pytest.raises(ValueError, match="got 3 and 2 rounds"):
        dynamics(np.ones(3), np.ones(2), 0.1)


def test_smoothing_leaves_out_rounds_without_episodes() -> None:
    got = smoothed(np.array([1.0, np.nan, 3.0, np.nan, np.nan]), 2)
    assert np.isnan(got).tolist() == [True, False, False, False, True]
    assert got[1:4].tolist() == [1.0, 3.0, 3.0]
    assert changes_of_side(np.array([1.0, -0.05, 0.05, -1.0, np.nan, 1.0]), 0.1).tolist() == [3, 5]


def test_the_log_of_a_run_has_what_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with path.open("w") as file:
        PCL(SMALL).learn(Bandit(16), log=lambda i, numbers: file.write(json.dumps({"round": i, **numbers}) + "\n"))
    found = of_log(read_log(path), tolerance=0.2, window=3)
    assert list(found) == ["0.5"]  # stands for the only limit
    assert found["0.5"].multiplier > 0
    with pytest.raises(ValueError, match="violation/<limit>"):
        of_log([{"return": 1.0}], 0.1)
