"""What a run's folder tells of its policy, pair and task, and what options make of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scripts import evaluate, generate, joint, train
from scripts.runs import asking_folder, policy_folder, record, settled, told, write_settings
from tw_env.tasks.shipped import shipped_pair


def joint_run(folder: Path, **options: str) -> Path:
    """A folder as scripts.joint leaves it, of which nothing is loaded."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "policy.json").write_text("{}")
    (folder / "model" / "config.json").write_text(json.dumps({"ask_token_ids": [7]}))
    write_settings(folder, record(joint.Options(folder, **options)))
    return folder


@pytest.mark.parametrize("inside", [".", "model"])
def test_a_joint_run_tells_its_student_and_all_that_it_was_given(tmp_path: Path, inside: str) -> None:
    teacher, data = tmp_path / "big", tmp_path / "mine.jsonl"
    teacher.mkdir()
    data.write_text("")
    run = joint_run(
        tmp_path / "run", task="text", student="someone/small", teacher=str(teacher), data=str(data), metric="edit",
        template="say {text}",
    )  # fmt: skip
    name = str(run / inside)
    model = run / "model"
    assert policy_folder(name) == asking_folder(name) == model
    options = settled(evaluate.Options((name,)), name)
    assert (options.task, options.student, options.teacher) == ("text", str(model), str(teacher))
    assert (options.data, options.metric, options.template) == (str(data), "edit", "say {text}")
    spoken = settled(generate.Options(policy=name, template="{text}!"), name)
    assert (spoken.task, spoken.student, spoken.template) == ("text", str(model), "{text}!"), "what is given goes first"
    other = settled(evaluate.Options((name,), task="summarize"), name)
    assert (other.task, other.teacher) == ("summarize", str(teacher))
    assert other.data is other.metric is other.template is None, "those of another task"


def test_a_gate_is_judged_and_deployed_as_it_was_asked(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.json").write_text("{}")
    learnt = train.Options(tmp_path, env="tw_env/TranslateVerify-v0", data="de-en", chat=True, split="validation")
    write_settings(tmp_path, record(learnt))
    assert train.environment_arguments(learnt).items() >= {"chat": True, "split": "validation"}.items()
    assert "--chat" in train.evaluation_of(learnt)
    for options in (evaluate.Options((str(tmp_path),)), generate.Options(policy=str(tmp_path))):
        told_by_run = settled(options, tmp_path)
        assert (told_by_run.data, told_by_run.chat) == ("de-en", True)
        assert settled(replace(options, chat=False), tmp_path).chat is False


def test_a_joint_run_of_a_shipped_pair_keeps_its_teacher(tmp_path: Path) -> None:
    run = joint_run(tmp_path / "run", task="summarize")
    options = settled(generate.Options(policy=str(run)), str(run))
    assert (options.task, options.student) == ("summarize", str(run / "model"))
    assert options.teacher == str(shipped_pair("summarize").teacher)
    (run / "settings.json").unlink()
    assert settled(generate.Options(), run).teacher == str(shipped_pair("pronounce").teacher)


def test_a_run_of_a_gate_tells_the_task_of_its_environment(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.json").write_text("{}")
    for env, task in (("tw_env/SummarizeVerify-v0", "summarize"), ("tw_env/Text-v0", "text"), ("mine/Text-v0", None)):
        write_settings(tmp_path, record(train.Options(tmp_path, env=env)))
        assert told(tmp_path / "policy").get("task") == told(tmp_path).get("task") == task
        assert settled(evaluate.Options(()), tmp_path).task == (task or "pronounce")
    assert policy_folder(tmp_path) == policy_folder(tmp_path / "policy") == tmp_path / "policy"
    assert settled(evaluate.Options(()), tmp_path).teacher is None, "the pair that ships"


def test_places_are_found_from_anywhere_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    kept = record(train.Options(Path("run"), student="small", teacher="someone/big", data="en-it"))
    assert (kept["student"], kept["teacher"], kept["data"]) == (str(tmp_path / "small"), "someone/big", "en-it")


def test_what_is_no_run_tells_nothing() -> None:
    assert told("pronounce-pcl") == {}
    assert policy_folder("pronounce-pcl") is asking_folder("speculative") is None
    assert settled(generate.Options(), None).task == "pronounce"
