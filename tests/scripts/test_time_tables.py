"""Whose time the shipped latency table models: the shipped pair's, and that of students with the same layers."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from agents.joint.student import asking_student
from scripts import generate
from scripts.time_tables import time_table
from tests.letters import names_of, pair_of
from tw_env.decoding.loading import load_model, load_tokenizer
from tw_env.tasks import pronounce


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The shipped student with ask tokens, as joint training begins with it."""
    folder = tmp_path_factory.mktemp("joint")
    name = str(pronounce.STUDENT)
    for part in asking_student(load_model(name), load_tokenizer(name), reasons=4):
        part.save_pretrained(folder)
    return str(folder)


def test_a_student_with_the_shipped_ones_layers_is_timed_by_its_table(joint: str) -> None:
    table = time_table("pronounce", joint, None)
    assert table is not None
    assert table.path == str(pronounce.LATENCY)
    assert "rule that it reads and its ask tokens are left out" in table.note
    assert time_table("pronounce", joint, str(pronounce.TEACHER)) == table
    assert time_table("text", joint, None) == table


def test_nobody_elses_time_is_made_up(joint: str, tmp_path: Path) -> None:
    names = names_of(pair_of())
    assert time_table("pronounce", names["student"], names["teacher"]) is None
    assert time_table("pronounce", joint, names["teacher"]) is None
    assert time_table("summarize", joint, None) is None
    assert time_table("sing", joint, joint) is None
    deep = copy.deepcopy(load_model(joint))
    deep.config.num_hidden_layers += 1
    deep.config.save_pretrained(tmp_path)
    assert time_table("pronounce", str(tmp_path), None) is None
    named = time_table("pronounce", names["student"], names["teacher"], "mine.json")
    assert named is not None
    assert named.note == "ms are modelled at batch 1, by mine.json"


def test_its_texts_tell_their_time_and_that_it_is_modelled(joint: str, capsys: pytest.CaptureFixture[str]) -> None:
    generate.main(generate.Options(policy=joint, prompt=("hello",), device="cpu"))
    shown = capsys.readouterr().out.splitlines()
    assert " ms" in next(line for line in shown if "calls per token" in line)
    assert shown[-1].startswith("ms are modelled at batch 1, by the latency table of the shipped pair: this student")
