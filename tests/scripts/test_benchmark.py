"""A sweep over the tiny pair: the rows, going on where it stopped, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agents import field
from agents.baselines.calibration import CalibrationConfig
from agents.baselines.ppo_lagrangian import PPOLagrangianConfig
from agents.pcl import PCLConfig
from agents.pcl.recipe import Recipe
from scripts import benchmark
from scripts.benchmark import Options
from tests.agents.small import PROMPTS
from tests.letters import names_of
from tests.tiny import tiny_pair

COLUMNS = (
    "task actions accept agent kind seed rule quantity limit quality recovered_gap recovered_gap_low "
    "recovered_gap_high calls_per_token spent allowed within_rule prompts training_teacher_tokens"
).split()


CUTS = CalibrationConfig(limits=(0.05, 0.2), prompts=40, rounds=4)
EFFORT = field.Effort(
    recipe=Recipe(
        pcl=PCLConfig(iterations=2, episodes=32, batch=32, updates=1, width=16), demonstrations=60, calibration=CUTS
    ),
    ppo=PPOLagrangianConfig(steps=512, rollout=8, batch=128, epochs=1, width=16),
    calibration=CUTS,
)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    monkeypatch.setattr(Options, "effort", EFFORT)
    data = tmp_path / "letters.jsonl"
    records = [{"prompt": words, "reference": "a c " + words} for words in PROMPTS]
    data.write_text("\n".join(json.dumps(record) for record in records))
    return Options(
        out=tmp_path / "rows.json", task="text", quick=True, rows=32, prompts=60, threads=0,
        rules=("at most 10% of the tokens", benchmark.NEVER, benchmark.FREE), games=("SELF/ASK/VERIFY",),
        agents=("student", "teacher", "p-max", "speculative", "oracle"), data=str(data),
        **names_of(tiny_pair()),
    )  # fmt: skip


def test_rows_have_the_agreed_fields(options: Options) -> None:
    benchmark.main(options)
    rows = json.loads(options.out.read_text())
    assert all(set(COLUMNS) <= set(row) for row in rows)
    found = {(row["agent"], row["kind"], row["limit"]) for row in rows}
    assert found == {
        ("student", "fixed", 0.0),
        ("teacher", "fixed", None),
        ("p-max", "heuristic", 0.1),
        ("p-max", "heuristic", 0.0),
        ("p-max", "heuristic", None),
        ("speculative", "fixed", None),
        ("oracle", "oracle", None),
    }
    by_agent = {row["agent"]: row for row in rows}
    assert by_agent["teacher"]["calls_per_token"] == 1.0
    assert by_agent["oracle"]["quality"] == by_agent["speculative"]["quality"] == by_agent["teacher"]["quality"]
    assert by_agent["oracle"]["calls_per_token"] < by_agent["speculative"]["calls_per_token"]
    assert by_agent["p-max"]["training_teacher_tokens"] > 0


def test_a_rerun_measures_only_what_is_missing(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(options, agents=("student", "p-max"))
    benchmark.main(few)
    first = json.loads(options.out.read_text())
    made: list[str] = []

    def counted(entry: field.Entry) -> field.Entry:
        def make(*arguments: object) -> object:
            made.append(entry.name)
            return entry.make(*arguments)

        return replace(entry, make=make)

    monkeypatch.setattr(field, "FIELD", tuple(counted(entry) for entry in field.FIELD))
    options.out.write_text(json.dumps(first[:-1]))  # as if killed before the last row
    benchmark.main(replace(few, agents=("student", "p-max", "oracle")))
    rows = json.loads(options.out.read_text())
    assert made == ["p-max", "oracle"]
    assert rows[: len(first)] == first
    assert [row["agent"] for row in rows[len(first) :]] == ["oracle"]


def test_learned_agents_run_with_a_seed_and_are_kept(options: Options, tmp_path: Path) -> None:
    chosen = replace(
        options, agents=("pcl", "ppo-lagrangian"), rules=("at most 10% of the tokens",), policies=tmp_path / "policies"
    )
    benchmark.main(chosen)
    rows = json.loads(options.out.read_text())
    assert [(row["agent"], row["kind"], row["seed"]) for row in rows] == [
        ("pcl", "learned", 0),
        ("ppo-lagrangian", "learned", 0),
    ]
    assert all(row["training_teacher_tokens"] > 0 for row in rows)
    kept = sorted(path.name for path in chosen.policies.iterdir())
    assert kept == ["pcl-self-ask-verify-0", "ppo-lagrangian-self-ask-verify-0"]


def test_rows_of_other_prompts_are_not_mixed_in(options: Options) -> None:
    few = replace(options, agents=("student",))
    benchmark.main(few)
    with pytest.raises(ValueError, match="Expected rows of the same prompts and pair"):
        benchmark.main(replace(few, prompts=30))


def test_unknown_agents_and_games_are_refused(options: Options) -> None:
    with pytest.raises(ValueError, match="Expected agents out of student, teacher"):
        benchmark.main(replace(options, agents=("nobody",)))
    with pytest.raises(ValueError, match="Expected games out of"):
        benchmark.main(replace(options, games=("SELF/LOOK",)))


def test_the_full_field_has_every_kind_and_unlike_names() -> None:
    names = [entry.name for entry in field.FIELD]
    assert len(set(names)) == len(names)
    assert {entry.kind for entry in field.FIELD} == set(field.Kind)


def test_quick_is_small_and_rounds_can_be_chosen(tmp_path: Path) -> None:
    quick, full = (Options(out=tmp_path / "x.json", quick=quick).effort for quick in (True, False))
    assert quick.ppo.steps < full.ppo.steps / 50
    assert quick.recipe.pcl.iterations < full.recipe.pcl.iterations / 10
    assert Options(out=tmp_path / "x.json", iterations=7).effort.recipe.pcl.iterations == 7
