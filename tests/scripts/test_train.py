"""Training from the command line: killed and resumed it ends with the same policy, and says how to judge it."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import tyro
from safetensors.numpy import load_file

import tw_env.decoding.tree
from agents.baselines.calibration import CalibrationConfig
from agents.pcl import PCLConfig
from agents.pcl.recipe import Recipe
from scripts import evaluate, train
from scripts.runs import settled
from scripts.train import Options, main
from tests.agents.small import PROMPTS
from tests.letters import names_of
from tests.tiny import tiny_pair
from tw_env.costs import LatencyTable
from tw_env.policies import Gate, load

CUTS = CalibrationConfig(limits=(0.05, 0.2), prompts=40, rounds=4)
PCL = PCLConfig(iterations=6, episodes=16, batch=16, updates=1, width=16, checkpoint_every=2)


@pytest.fixture
def options(tmp_path: Path) -> Options:
    data = tmp_path / "my letters.jsonl"
    records = [{"prompt": words, "reference": "a c " + words} for words in PROMPTS]
    data.write_text("\n".join(json.dumps(record) for record in records))
    return Options(
        tmp_path / "whole", env="tw_env/TextVerify-v0", data=str(data), metric="edit", rows=16,
        recipe=Recipe(pcl=PCL, demonstrations=60, calibration=CUTS), **names_of(tiny_pair()),
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_with_the_policy_of_an_unbroken_one(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = replace(options, out=options.out.with_name("cut"))
    tw_env.decoding.tree._memories.clear()  # as in a new process
    main(options)
    add, rounds, last = train.SummaryWriter.add_scalar, [], 3

    def watched(writer: object, name: str, value: float, step: int) -> None:
        if step == last:
            raise KeyboardInterrupt
        rounds.append(step)
        add(writer, name, value, step)

    monkeypatch.setattr(train.SummaryWriter, "add_scalar", watched)
    tw_env.decoding.tree._memories.clear()
    with pytest.raises(KeyboardInterrupt):
        main(cut)
    rounds, last = [], PCL.iterations
    tw_env.decoding.tree._memories.clear()
    main(replace(cut, resume=True))
    assert rounds[0] == 2, "the checkpoint before the kill"
    for name, weights in load_file(options.out / "policy" / "policy.safetensors").items():
        assert (weights == load_file(cut.out / "policy" / "policy.safetensors")[name]).all(), name
    for name in ("policy/policy.json", "log.jsonl"):
        assert (options.out / name).read_text() == (cut.out / name).read_text()
    # The last line is a command that judges the policy on the same pair and data.
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:3] == ["python", "-m", "scripts.evaluate"]
    told = tyro.cli(evaluate.Options, args=words[3:])
    assert (told.policy, told.task, told.data) == ((str(cut.out / "policy"),), "text", options.data)
    assert (told.student, told.teacher, told.metric) == (options.student, options.teacher, "edit")


def test_resuming_in_another_game_is_refused(options: Options, capsys: pytest.CaptureFixture[str]) -> None:
    short = replace(options, recipe=replace(options.recipe, pcl=replace(PCL, iterations=1)), resume=True)
    main(short)
    assert f"no checkpoint.pt in {options.out}, nothing to go on from" in capsys.readouterr().out
    with pytest.raises(ValueError, match="rows 16 before, 8 now"):
        main(replace(options, rows=8, resume=True))
    with pytest.raises(ValueError, match="demonstrations 60 before, 30 now"):
        main(replace(options, recipe=replace(options.recipe, demonstrations=30), resume=True))


def test_rules_that_one_gate_cannot_learn_are_refused(options: Options) -> None:
    for rule in (
        ("at most two calls", "at most 5% of the tokens"),
        ("at most 9999 calls",),
        ("strictly at most two calls",),
    ):
        with pytest.raises(ValueError, match=r"Expected --rule to be soft limits on one quantity.*at most"):
            main(replace(options, rule=rule))
    assert not (options.out / "settings.json").exists()


def test_a_gate_for_rules_on_time_is_learned_and_judged_by_its_table(
    options: Options, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LatencyTable(1.0, 10.0, 0.5).save(tmp_path / "table.json")
    rules = ("at most 30 ms per output", "at most 60 ms per output")
    main(replace(options, rule=rules, latency=str(tmp_path / "table.json")))
    policy = load(options.out / "policy")
    assert isinstance(policy, Gate)
    assert set(policy.cut.limits) == {"latency_ms"}
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])[3:]
    assert command[command.index("--rule") + 1 :][:2] == list(rules)
    known = settled(evaluate.Options((str(options.out),)), options.out)
    assert known.latency == str(tmp_path / "table.json"), "a run tells by which table its limits are meant"
