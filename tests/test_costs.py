"""Latency tables and prices: the formulas, files, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from tw_env.costs import CostModel, LatencyTable, Prices

TABLE = LatencyTable(student_ms=2.0, teacher_ms=10.0, teacher_ms_per_token=0.5)


def test_a_decision_pays_the_students_pass_and_a_call_what_it_reads() -> None:
    called, unread = np.array([False, True, True]), np.array([4, 1, 5])
    np.testing.assert_allclose(CostModel(TABLE).milliseconds(called, unread), [2.0, 12.0, 14.0])
    prices = Prices(call=1.0, read=0.1, written=0.01)
    np.testing.assert_allclose(CostModel(prices=prices).money(called, unread), [0.0, 1.11, 1.51])


def test_an_encoder_is_paid_once_by_each_model() -> None:
    table = LatencyTable(2.0, 10.0, 0.5, student_prompt_ms=3.0, teacher_prompt_ms=7.0)
    called, unread = np.array([False, True, True, True]), np.ones(4, np.int64)
    first, uncalled = np.array([True, True, False, False]), np.array([True, True, True, False])
    taken = CostModel(table).milliseconds(called, unread, first, uncalled)
    np.testing.assert_allclose(taken, [5.0, 22.0, 19.0, 12.0])


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "latency.json")
    assert LatencyTable.load(tmp_path / "latency.json") == TABLE
    assert LatencyTable.load({"student_ms": 2, "teacher_ms": 10, "teacher_ms_per_token": 0.5}) == TABLE
    assert LatencyTable.load(TABLE) is TABLE
    encoders = LatencyTable(2.0, 10.0, 0.5, student_prompt_ms=3.0, teacher_prompt_ms=7.0)
    encoders.save(tmp_path / "latency.json")
    assert LatencyTable.load(tmp_path / "latency.json") == encoders


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_impossible_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="Expected teacher_ms to be a finite number"):
        LatencyTable(1.0, value, 1.0)
    with pytest.raises(ValueError, match="Expected the price per read to be a finite number"):
        Prices(read=value)


def test_incomplete_and_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"latency table with student_ms, .*; got \{'student_ms': 1.0\}"):
        LatencyTable.load({"student_ms": 1.0})
    with pytest.raises(ValueError, match=r"prices named call, read, written, got token"):
        Prices.load({"token": 1.0})
