"""Rows come to standings and paired tests: seeds pooled, the right reference, nothing without kept outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.evaluation import Ends
from agents.rollout import Outcomes
from scripts import outcomes
from scripts.summary import paired, pooled, standings, summarise
from scripts.tables import differences, table
from scripts.tables import standings as standings_table

GAME, PROMPTS = "SELF/ASK/VERIFY", 600
LUCK = np.random.default_rng(0).random(PROMPTS)


def right(share: float) -> np.ndarray:
    """(prompts,) of a policy that recovers this share of a gap from .4 to .8."""
    return (0.4 + 0.4 * share > LUCK).astype(float)


def keep(folder: Path, agent: str, kind: str, points: dict[float, float], seed: int = 0) -> list[dict[str, Any]]:
    """Rows by limit and recovered share that spend just what is allowed, with outcomes beside them."""
    rows = []
    for limit, share in points.items():
        tokens = np.full(PROMPTS, 10.0)
        calls = np.zeros(PROMPTS)
        calls[: round(limit * PROMPTS)] = 10.0
        row = {
            "task": "letters", "actions": GAME, "accept": "exact", "agent": agent, "kind": kind, "seed": seed,
            "rule": f"at most {100 * limit:g}% of the tokens", "quantity": "calls_per_token", "limit": limit,
            "quality": right(share).mean(), "recovered_gap": share, "recovered_gap_low": share - 0.3,
            "recovered_gap_high": share + 0.3, "calls_per_token": calls.sum() / tokens.sum(), "within_rule": 0.9,
            "prompts": PROMPTS, "training_env_steps": 1000, "training_teacher_tokens": 50, "training_seconds": 2.0,
            "asking_auc": 0.7,
        }  # fmt: skip
        outcomes.keep(folder, row, Outcomes(right(share), calls, tokens, calls, calls, calls, np.arange(PROMPTS)))
        rows.append(row)
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    outcomes.keep_ends(tmp_path, Ends(right(0), right(1)))
    return tmp_path


def test_seeds_become_one_row_with_the_interval_of_their_prompts(folder: Path) -> None:
    rows = [row for seed in range(3) for row in keep(folder, "pcl", "learned", {0.1: 0.5}, seed)]
    (row,) = pooled(rows, folder)
    assert row["seeds"] == 3
    assert row["recovered_gap"] == pytest.approx(0.5, abs=0.06)
    assert row["recovered_gap_high"] - row["recovered_gap_low"] < 0.3, "narrower than what each row said"
    assert pooled(rows, folder / "nowhere") == rows


def test_the_reference_is_what_keeps_rules_and_else_the_oracle(folder: Path) -> None:
    rows = keep(folder, "pcl", "learned", {0.05: 0.3, 0.1: 0.6})
    oracle = [row | {"limit": None, "rule": "free"} for row in keep(folder, "oracle", "oracle", {0.1: 1.0})]
    found, reference = standings([*rows, *oracle], [*rows, *oracle], GAME)
    assert reference == ["oracle"]
    ours = next(one for one in found if one.agent == "pcl")
    assert list(ours.distance.values()) == pytest.approx([0.2, 0.4])
    assert ours.mean_distance == pytest.approx(0.3)
    assert ours.area == pytest.approx((0.05 * 0.15 + 0.05 * 0.45 + 0.1 * 0.6) / 0.2)
    assert (ours.env_steps, ours.teacher_tokens, ours.seconds) == (1000, 50, 2.0)
    best = keep(folder, "optimum", "oracle", {0.05: 0.7, 0.1: 0.8})
    found, reference = standings([*rows, *oracle, *best], [*rows, *oracle, *best], GAME)
    assert reference == ["optimum"]
    distances = {one.agent: list(one.distance.values()) for one in found}
    assert distances["pcl"] == pytest.approx([0.4, 0.2])
    assert distances["optimum"] == []


def test_ours_is_tested_against_all_that_take_rules(folder: Path) -> None:
    rows = [
        *keep(folder, "pcl", "learned", {0.05: 0.5, 0.1: 0.8}),
        *keep(folder, "p-max", "heuristic", {0.05: 0.2, 0.1: 0.8}),
        *keep(folder, "speculative", "fixed", {0.2: 1.0}),
    ]
    found = paired(rows, folder)
    assert set(found) == {"p-max"}
    tight, loose = found["p-max"].values()
    assert tight.gap.low > 0.2
    assert loose.gap.value == 0
    (game,) = summarise(rows, pooled(rows, folder), folder)
    shown = differences(game, rows)
    assert shown.count('<td class="best">') == 1
    assert "p = 1.000" in shown
    assert standings_table(game).count("<tr class=") == 2


def test_without_outcomes_there_is_no_paired_test(folder: Path) -> None:
    rows = [*keep(folder, "pcl", "learned", {0.1: 0.8}), *keep(folder, "p-max", "heuristic", {0.05: 0.2, 0.1: 0.8})]
    outcomes.file_of(folder, rows[-1]).unlink()
    assert paired(rows, folder) == {}
    assert paired(rows, folder / "nowhere") == {}


def test_never_and_always_are_not_averaged_in_the_table(folder: Path) -> None:
    (row,) = keep(folder, "p-max", "heuristic", {0.1: 0.5})
    never = row | {"rule": "never", "limit": 0.0, "recovered_gap": 0.0, "calls_per_token": 0.0}
    free = row | {"rule": "free", "limit": None, "recovered_gap": 1.0, "calls_per_token": 1.0}
    assert "100.0% calls" in table([row, never, free], GAME)
    assert "0.0% calls" in table([row, never], GAME)
