"""The trained student that lies beside the measured rows plays as they say."""

from __future__ import annotations

import pytest

from scripts.evaluate import Options, evaluate
from tests.launching import ROOT

STUDENT = ROOT / "results" / "students" / "verify-0"
RULES = (
    "never ask",
    "ask the teacher for at most 5% of the tokens",
    "at most 10% of the tokens",
    "as often as you like",
)


def test_it_reads_its_rule_and_is_worth_its_calls() -> None:
    rows = evaluate(Options((str(STUDENT),), RULES, prompts=300, rows=64, device="cpu"))
    calls = [row["calls_per_token"] for row in rows]
    gaps = [row["recovered_gap"] for row in rows]
    assert calls[0] == 0
    assert 0.02 < calls[1] < 0.08
    assert calls == sorted(calls)
    assert gaps[:3] == sorted(gaps[:3])  # the last two are a word apart
    assert gaps[1] > 6 * calls[1], "asking at random recovers three times the calls"
    assert gaps[-1] == pytest.approx(1.0, abs=0.03)
    assert rows[0]["original"] is not None, "the gap is that of the pair that training began with"
