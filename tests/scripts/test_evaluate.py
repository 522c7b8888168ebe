"""Saved policies of any kind are judged under rules in words; bad rules and names are refused before anything loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agents.baselines.ppo_lagrangian import PPOLagrangian, PPOLagrangianConfig
from agents.joint.deployment import MODEL
from scripts.evaluate import Options, environment, evaluate, main, read_policy
from scripts.runs import write_settings
from tests.agents.small import PROMPTS
from tests.asking import POSITIONS, asking_pair
from tests.letters import names_of
from tests.tiny import tiny_pair
from tw_env.actions import Action
from tw_env.costs import LatencyTable
from tw_env.policies import AskToken, ScoreThreshold
from tw_env.policies.cuts import CutTable
from tw_env.rules import RuleError
from tw_env.vector_env import AssistedDecodingVectorEnv

RULES = ("ask for at most 10% of the tokens", "never")


def game_of(data: Path, pair: dict[str, str]) -> AssistedDecodingVectorEnv:
    """Where the policies of these tests come from."""
    return AssistedDecodingVectorEnv(
        16, task="text", data=str(data), actions="SELF/ASK", hidden=True, top_k=3, reward="quality", rule="sample",
        max_new_tokens=12, **pair,
    )  # fmt: skip


def threshold(folder: Path, env: AssistedDecodingVectorEnv) -> str:
    """The folder of a saved threshold."""
    ScoreThreshold(env.layout, env.game.spec.actions, "p_max", CutTable(default=0.5), Action.ASK).save(folder)
    return str(folder)


def saved(tmp_path: Path, data: Path, pair: dict[str, str]) -> tuple[str, str]:
    """Folders of a threshold and of a policy that stable-baselines3 trained."""
    env = game_of(data, pair)
    PPOLagrangian(PPOLagrangianConfig(steps=128, rollout=8, width=8)).learn(env).save(tmp_path / "two")
    return threshold(tmp_path / "one", env), str(tmp_path / "two")


def test_a_row_for_each_policy_and_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, pair = tmp_path / "letters.jsonl", names_of(tiny_pair())
    data.write_text("\n".join(json.dumps({"prompt": p, "reference": "a " + p}) for p in PROMPTS))
    options = Options(
        policy=saved(tmp_path, data, pair), rule=RULES, task="text", data=str(data), metric="edit", prompts=30, rows=8,
        out=tmp_path / "rows.json", **pair,
    )  # fmt: skip
    assert environment(options, read_policy(options.policy[0])).game.cap == 12, "as in the game that it was made for"
    main(options)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["agent"], row["rule"]) for row in rows] == [(p, r) for p in options.policy for r in RULES]
    assert [row["kind"] for row in rows] == ["heuristic", "heuristic", "learned", "learned"]
    assert [row["calls_per_token"] for row in rows if row["rule"] == "never"] == [0.0, 0.0]
    assert rows[0]["calls_per_token"] > 0
    assert {row["actions"] for row in rows} == {"SELF/ASK"}
    shown = capsys.readouterr().out
    assert "30 prompts" in shown
    assert all(rule in shown for rule in RULES)
    assert shown.count("edit of the corpus") == len(rows)
    assert "edit|agg:corpus" in rows[0]["corpus"]["edit"]


def test_rules_on_time_and_money_are_measured_by_the_table_and_the_prices_that_are_given(tmp_path: Path) -> None:
    data, pair = tmp_path / "letters.jsonl", names_of(tiny_pair())
    data.write_text("\n".join(json.dumps({"prompt": p, "reference": "a " + p}) for p in PROMPTS))
    LatencyTable(student_ms=1.0, teacher_ms=10.0, teacher_ms_per_token=0.5).save(tmp_path / "latency.json")
    folder = threshold(tmp_path / "one", game_of(data, pair))
    options = Options(
        policy=(folder,), rule=("at most 30 ms", "spend at most 2 cents per output"), task="text", data=str(data),
        prompts=20, rows=8, latency=str(tmp_path / "latency.json"), prices=(0.01, 0.0, 0.0), **pair,
    )  # fmt: skip
    timed, priced = evaluate(options)
    assert (timed["quantity"], priced["quantity"]) == ("latency_ms", "price")
    assert timed["spent"] == pytest.approx(timed["latency_ms"])
    assert timed["spent"] >= timed["tokens"], "each of the student's steps takes 1 ms"
    assert priced["spent"] == pytest.approx(0.01 * priced["calls_per_token"] * priced["tokens"])
    with pytest.raises(ValueError, match="needs prices"):
        evaluate(replace(options, prices=None))
    with pytest.raises(ValueError, match="needs a latency table"):
        evaluate(replace(options, latency=None))


def joint_run(folder: Path, data: Path, **settings: str | None) -> str:
    """A run as scripts.joint leaves it: a student that asks, its policy, and its settings."""
    pair, model = asking_pair(), folder / MODEL
    pair.student.save_pretrained(model)
    pair.tokenizer.save_pretrained(model)
    teacher = names_of(pair)["teacher"]
    env = game_of(data, {"student": str(model), "teacher": teacher, "device": "cpu"})
    AskToken(env.layout, env.game.spec.actions).save(model)
    write_settings(folder, {"task": "text", "teacher": teacher, "data": str(data), "metric": "edit", **settings})
    return str(folder)


def test_the_gap_of_a_joint_run_is_that_of_its_original_student(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "letters.jsonl"
    data.write_text("\n".join(json.dumps({"prompt": p, "reference": "a " + p}) for p in PROMPTS))
    first = names_of(tiny_pair(positions=POSITIONS, seed=1))["student"]
    named = joint_run(tmp_path / "named", data, student="begun", original=first)
    begun = joint_run(tmp_path / "begun", data, student=first, original=None)
    older = joint_run(tmp_path / "older", data, student=first)
    teacher = names_of(asking_pair())["teacher"]
    pair = {"student": first, "teacher": teacher, "device": "cpu"}
    plain = threshold(tmp_path / "plain", game_of(data, pair))
    options = Options((plain,), RULES[:1], task="text", data=str(data), metric="edit", prompts=20, rows=8, **pair)
    (expected,) = evaluate(options)
    assert expected["original"] is None
    asked = Options((named, begun, older), RULES[:1], prompts=20, rows=8, device="cpu", out=tmp_path / "rows.json")
    main(asked)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["original"] for row in rows] == [first, first, None]
    ends = [(row["student_quality"], row["teacher_quality"]) for row in rows]
    assert ends[0] == ends[1] == (expected["student_quality"], expected["teacher_quality"])
    assert ends[2][0] != ends[0][0], "that of its own student"
    gap = (rows[0]["quality"] - ends[0][0]) / (ends[0][1] - ends[0][0])
    assert rows[0]["recovered_gap"] == pytest.approx(gap)
    assert capsys.readouterr().out.count("original student, from which the gap is recovered") == 2
    (own,) = evaluate(replace(asked, policy=(named,), student=str(tmp_path / "named" / MODEL)))
    assert own["original"] is None, "another student than the run's plays, for all that the options say"


def test_bad_rules_and_names_are_refused_early() -> None:
    with pytest.raises(RuleError, match="lower"):
        main(Options(policy=("nowhere",), rule=("ask at least three times",)))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        main(Options(policy=("nowhere",)))
