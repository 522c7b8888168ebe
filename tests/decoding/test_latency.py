"""The latency table: sensible numbers for a pair, an exact fit, and sizes that can't be timed refused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.families import source_pair
from tests.tiny import tiny_pair
from tw_env.costs import LatencyTable
from tw_env.decoding import latency
from tw_env.decoding.latency import _fit, measure


def test_a_pair_is_measured(tmp_path) -> None:
    table = measure(tiny_pair(), prompt=4, unread=(1, 8), rounds=3)
    assert 0 < table.student_ms < 1000
    assert 0 < table.teacher_ms < 1000
    assert table.teacher_ms_per_token >= 0
    assert table.student_prompt_ms == table.teacher_prompt_ms == 0  # read by the decoder itself
    table.save(tmp_path / "latency.json")
    assert LatencyTable.load(tmp_path / "latency.json") == table


def test_an_encoders_price_leaves_out_what_its_prompts_tokens_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = source_pair("t5")
    monkeypatch.setattr(latency, "_timer", lambda model, prompt, size, use, clock: lambda: 0.004 + 0.0005 * (size - 1))
    encoders = {pair.student: 0.003, pair.teacher: 0.01}  # seconds
    monkeypatch.setattr(latency, "_encoder_timer", lambda model, prompt, clock: lambda: encoders[model])
    table = measure(pair, prompt=6, unread=(1, 4), rounds=2)
    assert (table.teacher_ms, table.teacher_ms_per_token) == (pytest.approx(4.0), pytest.approx(0.5))
    assert (table.student_prompt_ms, table.teacher_prompt_ms) == (pytest.approx(3.0), pytest.approx(10.0 - 6 * 0.5))


def test_encoders_have_a_price_of_their_own() -> None:
    table = measure(source_pair("t5"), prompt=4, unread=(1, 4), rounds=3)
    assert 0 < table.student_prompt_ms < 1000
    assert 0 <= table.teacher_prompt_ms < 1000


def test_a_table_is_read_off_the_clock_that_is_named() -> None:
    seconds = iter(range(10_000))
    table = measure(source_pair("t5"), prompt=4, unread=(1, 4), rounds=3, clock=lambda: float(next(seconds)))
    assert (table.student_ms, table.teacher_ms, table.student_prompt_ms) == pytest.approx((1000.0, 1000.0, 1000.0))


def test_the_line_goes_through_exact_points_and_never_falls() -> None:
    sizes = np.array([1.0, 2.0, 4.0, 8.0])
    slope, first = _fit(sizes, 5.0 + 0.25 * (sizes - 1))
    assert (slope, first) == (pytest.approx(0.25), pytest.approx(5.0))
    slope, first = _fit(sizes, 5.0 - 0.25 * (sizes - 1))
    assert slope == 0.0
    assert first == pytest.approx((5.0 - 0.25 * (sizes - 1)).mean())


@pytest.mark.parametrize("unread", [(1,), (0, 2), (3, 3)])
def test_too_few_sizes_are_refused(unread: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least two different numbers of unread tokens"):
        measure(tiny_pair(), unread=unread)


def test_texts_longer_than_the_models_are_refused() -> None:
    with pytest.raises(ValueError, match="within the 64 positions of llama; what is timed has 60 tokens"):
        measure(tiny_pair(), prompt=60, unread=(1, 8))
