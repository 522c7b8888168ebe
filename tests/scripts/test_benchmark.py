"""A sweep over the tiny pair: the rows, going on where it stopped, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from agents import field
from agents.baselines.calibration import CalibrationConfig
from agents.evaluation import FREE, NEVER
from agents.pcl import PCLConfig
from agents.pcl.recipe import Recipe
from scripts import benchmark, learning_curves, outcomes
from scripts.benchmark import Options
from tests.agents.small import PROMPTS
from tests.letters import names_of
from tests.tiny import tiny_pair
from tw_env.policies import student_alone
from tw_env.rules import parse

COLUMNS = (
    "task actions accept agent kind seed rule quantity limit quality recovered_gap recovered_gap_low "
    "recovered_gap_high calls_per_token spent allowed within_rule prompts training_teacher_tokens "
    "training_env_steps training_seconds asking_auc"
).split()


CUTS = CalibrationConfig(limits=(0.05, 0.2), prompts=40, rounds=4)
EFFORT = field.Effort(
    recipe=Recipe(
        pcl=PCLConfig(iterations=2, episodes=32, batch=32, updates=1, width=16), demonstrations=60, calibration=CUTS
    ),
    logged=240,
    calibration=CUTS,
)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    monkeypatch.setattr(Options, "effort", EFFORT)
    data = tmp_path / "letters.jsonl"
    records = [{"prompt": words, "reference": "a c " + words} for words in PROMPTS]
    data.write_text("\n".join(json.dumps(record) for record in records))
    return Options(
        out=tmp_path / "rows.json", task="text", quick=True, rows=32, prompts=60, workers=1,
        rules=("at most 10% of the tokens", str(NEVER), str(FREE)), games=("SELF/ASK/VERIFY",),
        agents=("student", "teacher", "p-max", "speculative", "oracle"), data=str(data), metric="edit",
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
    for name in ("training_teacher_tokens", "training_env_steps"):
        assert by_agent["p-max"][name] > 0
        assert by_agent["student"][name] == by_agent["oracle"][name] == 0
    assert 0.5 < by_agent["p-max"]["asking_auc"] < 1
    assert by_agent["speculative"]["asking_auc"] is None


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
    assert rows[: len(first) - 1] == first[:-1]
    for row in (rows[len(first) - 1], first[-1]):
        row.pop("training_seconds")  # the clock's
    assert made == ["p-max", "oracle"]
    assert rows[: len(first)] == first
    assert [row["agent"] for row in rows[len(first) :]] == ["oracle"]


def test_learned_agents_run_with_a_seed_and_are_kept(options: Options, tmp_path: Path) -> None:
    chosen = replace(
        options, agents=("pcl", "p-max", "oracle"), rules=("at most 10% of the tokens",),
        policies=tmp_path / "policies",
    )  # fmt: skip
    benchmark.main(chosen)
    rows = json.loads(options.out.read_text())
    assert [(row["agent"], row["kind"], row["seed"]) for row in rows] == [
        ("p-max", "heuristic", 0),
        ("oracle", "oracle", 0),
        ("pcl", "learned", 0),
    ]
    assert all((row["training_teacher_tokens"] > 0) == (row["kind"] != "oracle") for row in rows)
    kept = sorted(path.name for path in chosen.policies.iterdir())
    assert kept == [f"{agent}-self-ask-verify-0" for agent in ("p-max", "pcl")]


def test_every_rollback_threshold_is_a_game_of_its_own_and_is_recorded(options: Options) -> None:
    agents = ("big-little", "big-little-strict", "big-little-loose", "speculative-2", "speculative-sure", "teacher")
    benchmark.main(replace(options, agents=agents, rules=("at most 20% of the tokens", str(FREE))))
    rows = json.loads(options.out.read_text())
    accepts = {row["agent"]: row["accept"] for row in rows}
    assert len({accepts[agent] for agent in agents[:3]}) == 3
    assert accepts["speculative-2"] == accepts["speculative-sure"] == "exact"
    free = {row["agent"]: row for row in rows if row["limit"] is None}
    for agent in ("speculative-2", "speculative-sure"):
        assert free[agent]["quality"] == free["teacher"]["quality"]
        assert free[agent]["calls_per_token"] < 1


def test_the_command_that_made_rows_is_kept_beside_them(options: Options) -> None:
    benchmark.main(replace(options, agents=("student",)), "python -m scripts.benchmark --agents student")
    benchmark.main(replace(options, agents=("student",)), "again, with nothing left to do")
    folder = options.out.with_suffix(".outcomes")
    assert outcomes.recall_commands(folder) == ["python -m scripts.benchmark --agents student"]


def test_outcomes_of_every_prompt_are_kept_beside_the_rows(options: Options) -> None:
    benchmark.main(options)
    folder = options.out.with_suffix(".outcomes")
    ends = outcomes.recall_ends(folder)
    for row in json.loads(options.out.read_text()):
        kept = outcomes.recall(folder, row)
        assert kept.quality.mean() == pytest.approx(row["quality"], abs=1e-6)
        assert kept.calls.sum() / kept.tokens.sum() == row["calls_per_token"]
        assert ends.student.mean() == pytest.approx(row["student_quality"], abs=1e-6)


def test_what_an_agent_tells_while_it_learns_is_logged(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(arena: field.Arena, seed: int, effort: field.Effort, progress: Any) -> Any:
        for number in range(3):
            progress(number / 3, {"return": 0.1 * number})
        return student_alone(arena.test.layout, arena.test.game.spec.actions)

    entry = field.Entry("talker", field.Kind.LEARNED, make, seeded=True)
    monkeypatch.setattr(field, "FIELD", (entry,))
    benchmark.main(replace(options, agents=("talker",)))
    log = options.out.with_suffix(".outcomes") / "talker-self-ask-verify-0" / "log.jsonl"
    curves = learning_curves.read_curves(log)
    np.testing.assert_allclose(curves["return"], [[0, 1, 2], [0, 0.1, 0.2]])


def test_rows_stand_in_the_order_of_the_field_whatever_was_ready_first(options: Options) -> None:
    sweep = benchmark.Sweep(options)
    runs = sweep.runs()
    assert runs[0][0].agent == "p-max", "what takes longest begins first"
    for agent, seed in (("oracle", 0), ("p-max", 1), ("student", 0), ("p-max", 0), ("mine", 0)):
        sweep.add({"actions": "SELF/ASK", "agent": agent, "seed": seed})
    stand = [(row["agent"], row["seed"]) for row in json.loads(options.out.read_text())]
    assert stand == [("student", 0), ("p-max", 0), ("p-max", 1), ("oracle", 0), ("mine", 0)]


@pytest.mark.slow
def test_workers_leave_the_same_rows_as_one_process(options: Options, tmp_path: Path) -> None:
    pair, saved = tiny_pair(), {}
    for name, model in (("student", pair.student), ("teacher", pair.teacher)):
        saved[name] = str(tmp_path / name)  # a registered pair is known to this process only
        model.save_pretrained(saved[name])
        pair.tokenizer.save_pretrained(saved[name])
    alone = replace(options, agents=("student", "p-max", "random"), **saved)
    benchmark.main(alone)
    both = replace(alone, out=tmp_path / "both.json", workers=2)
    benchmark.main(both)
    one, two = (json.loads(path.read_text()) for path in (alone.out, both.out))
    for row in (*one, *two):
        row.pop("training_seconds")
    assert one == two
    assert outcomes.recall(both.out.with_suffix(".outcomes"), two[-1]) is not None


def test_a_file_that_holds_no_rows_is_left_as_it_is(options: Options) -> None:
    options.out.write_text('[{"agent": "pcl"')
    with pytest.raises(ValueError, match="Expected rows as JSON"):
        benchmark.main(options)
    assert options.out.read_text() == '[{"agent": "pcl"'


# ---- sweep files ---------------------------------------------------------------------------------------------


def test_the_command_line_counts_more_than_the_sweep_file(tmp_path: Path) -> None:
    sweep = tmp_path / "a sweep.toml"
    sweep.write_text('out = "rows.json"\nseeds = 5\nagents = ["student", "pcl"]\nquick = true\nrules = ["never"]')
    words = ["--sweep", str(sweep), "--seeds", "2", "--rules", "once", "at most 10% of the tokens"]
    options = tyro.cli(Options, args=benchmark.arguments(words))
    assert options == Options(
        Path("rows.json"), sweep, seeds=2, agents=("student", "pcl"), quick=True,
        rules=("once", "at most 10% of the tokens"),
    )  # fmt: skip
    assert not tyro.cli(Options, args=benchmark.arguments([*words, "--no-quick"])).quick


def test_the_published_sweep_is_read_and_its_rules_too() -> None:
    options = tyro.cli(Options, args=benchmark.arguments(["--sweep", "scripts/sweeps/pronounce.toml"]))
    assert options.seeds >= 5
    limits = [parse(rule).limit for rule in options.rules]
    assert limits[-2:] == [0, math.inf]
    assert limits[:-2] == sorted(limits[:-2])
    benchmark.Sweep(replace(options, out=Path("nowhere.json")))


def test_the_sweep_of_headlines_plays_their_game() -> None:
    options = tyro.cli(Options, args=benchmark.arguments(["--sweep", "scripts/sweeps/summarize.toml"]))
    assert options.setting.id == "tw_env/SummarizeVerify-v0"
    assert set(options.setting.arguments) == {"device"}, "metric, data and pair are the task's own"
    runs = benchmark.Sweep(replace(options, out=Path("nowhere.json"))).runs()
    assert {run.agent for run, _ in runs} == set(options.agents)


@pytest.mark.parametrize(
    ("text", "message"), [("seeds = ", "Expected TOML in"), ("sedes = 3", "Expected options of .* got 'sedes'")]
)
def test_a_sweep_file_with_mistakes_is_refused(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        benchmark.arguments(["--sweep", str(tmp_path / "x.toml")])
    with pytest.raises(FileNotFoundError, match="Expected a sweep file at"):
        benchmark.arguments([f"--sweep={tmp_path / 'none.toml'}"])
    with pytest.raises(SystemExit) as stopped:
        benchmark.command(["--sweep", str(tmp_path / "x.toml")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: Expected")


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
    with pytest.raises(ValueError, match="Expected at least 1 for --seeds, got 0"):
        benchmark.main(replace(options, seeds=0, quick=False))


def test_the_full_field_has_every_kind_and_unlike_names() -> None:
    names = [entry.name for entry in field.FIELD]
    assert len(set(names)) == len(names)
    assert {entry.kind for entry in field.FIELD} == set(field.Kind)


def test_quick_is_small_and_rounds_can_be_chosen(tmp_path: Path) -> None:
    quick, full = (Options(out=tmp_path / "x.json", quick=quick).effort for quick in (True, False))
    assert quick.ppo.steps < full.ppo.steps / 50
    played = [one.recipe.pcl.iterations * one.recipe.pcl.episodes for one in (quick, full)]
    assert played[0] < played[1] / 10
    assert Options(out=tmp_path / "x.json", iterations=7).effort.recipe.pcl.iterations == 7
