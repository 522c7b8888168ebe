"""Assessing a pair: the numbers agree with the game's, and the verdict with the numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.assessment import Assessment, Point, assess
from agents.evaluation import FREE, play
from scripts.assess import Options, main, verdict
from tests.agents.small import PROMPTS, small_game
from tests.letters import Letters, Watched, always, first_texts, names_of, pair_of
from tests.tiny import tiny_pair
from tw_env.policies import speculative

ALL = np.arange(len(PROMPTS))


@pytest.fixture(scope="module")
def found() -> Assessment:
    return assess(small_game(rows=40), ALL, points=4)


def test_it_knows_how_often_the_two_models_differ(found: Assessment) -> None:
    env = Watched(
        len(PROMPTS), task=Letters(PROMPTS), actions="SELF/ASK/VERIFY", reward="quality", rule="as often as you like",
        **names_of(pair_of()),
    )  # fmt: skip
    alone, _ = first_texts(env, always(0), options={"prompts": ALL})
    taught, _ = first_texts(env, always(1), options={"prompts": ALL})
    differ = np.mean([a != b for a, b in zip(alone, taught, strict=True)])
    assert found.outputs_differ == pytest.approx(differ)
    assert 0 < found.tokens_differ < found.outputs_differ < 1


def test_frontiers_go_from_few_calls_to_many(found: Assessment) -> None:
    for points in (found.asking, found.verifying, found.oracle):
        rates = [point.calls_per_token for point in points]
        assert rates == sorted(rates)
        assert rates[0] < rates[-1] <= 1
    assert found.teacher.calls_per_token == 1.0
    assert found.student.calls_per_token == 0.0
    assert found.drafted.quality == pytest.approx(found.teacher.quality)
    # The oracle leaves out repairs that make a text worse, so it may even pass the teacher.
    assert found.oracle[-1].quality >= max(point.quality for point in found.asking) - 1e-9
    env = small_game()
    drafted = play(env, speculative(env.layout, env.game.spec.actions), ALL, FREE).outcomes
    assert found.drafted.calls_per_token == pytest.approx(drafted.calls.sum() / drafted.tokens.sum())


def test_the_verdict_follows_the_numbers(found: Assessment) -> None:
    def at(name: str, calls: float, quality: float, ms: float) -> Point:
        return Point(name, calls, quality, ms)

    case = replace(
        found, student=at("student alone", 0, 0.5, 5), teacher=at("teacher alone", 1, 0.8, 100),
        drafted=at("speculative decoding", 0.25, 0.8, 40), asking=[at("ASK", 0.3, 0.78, 45)],
        verifying=[at("VERIFY", 0.1, 0.6, 12), at("VERIFY late", 0.2, 0.79, 25)], oracle=[at("oracle", 0.05, 0.8, 10)],
    )  # fmt: skip
    words = verdict(case)
    assert "+0.300 in quality" in words
    assert "(VERIFY late) recovers 97% of it at 0.200" in words, "what was measured, not what was asked for"
    assert "20% of its calls are saved" in words
    assert "would recover 100% at 0.050" in words
    assert "4.0 times as fast" in words
    assert "would not pay" in verdict(replace(case, teacher=at("teacher alone", 1, 0.505, 100)))
    assert "no gain at batch 1" in verdict(replace(case, teacher=at("teacher alone", 1, 0.8, 20)))
    assert "No threshold" in verdict(replace(case, verifying=[], asking=[at("ASK", 0.3, 0.6, 45)]))


def test_the_script_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "letters.jsonl"
    data.write_text("\n".join(json.dumps({"prompt": p, "reference": "a " + p}) for p in PROMPTS[:60]))
    main(
        Options(
            data=str(data), metric="edit", points=3, max_new_tokens=10, threads=0, out=tmp_path / "out.json",
            **names_of(tiny_pair()),
        )
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert "60 prompts, metric edit" in shown
    for words in ("student alone", "teacher alone", "speculative decoding", "ASK if p_max", "oracle ASK", "ms/output"):
        assert words in shown
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["latency"]["student_ms"] > 0
    assert len(record["asking"]) == 3


def test_a_task_brings_its_own_data_and_models(capsys: pytest.CaptureFixture[str]) -> None:
    main(Options(task="pronounce", split="dev", prompts=12, points=2, threads=0, device="cpu"))
    assert "12 prompts, metric exact" in capsys.readouterr().out
