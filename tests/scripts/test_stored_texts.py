"""A teacher's texts in a file: written once, with nobody asked again for a part of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.joint.teacher import Teacher
from scripts.stored_texts import stored_texts
from tests.letters import pair_of
from tests.tiny import END

PROMPTS = [(2, 3, 4), (5,), (6, 7), (2,)]
CAP = 6


def test_texts_are_written_once_and_found_by_their_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, teacher = tmp_path / "new" / "stored.safetensors", Teacher(pair_of().teacher, top_k=1)
    written, places = stored_texts(path, teacher, PROMPTS, CAP, [END])
    assert places == [0, 1, 2, 3]
    assert "4/4" in capsys.readouterr().err, "the bar counts every text"
    read = teacher.tokens
    found, places = stored_texts(path, teacher, [[2], [5]], CAP, [END])
    assert (places, teacher.tokens) == ([3, 1], read)
    assert found.texts.outputs == written.texts.outputs
    assert found.take(places).texts.outputs == [written.texts.outputs[3], written.texts.outputs[1]]


def test_a_file_of_other_prompts_is_written_anew(tmp_path: Path) -> None:
    path, teacher = tmp_path / "stored.safetensors", Teacher(pair_of().teacher, top_k=1)
    stored_texts(path, teacher, PROMPTS[:2], CAP, [END])
    found, places = stored_texts(path, teacher, PROMPTS[1:], CAP, [END])
    assert (found.texts.prompts, places) == (PROMPTS[1:], [0, 1, 2])
    assert found.texts.outputs == teacher.write(PROMPTS[1:], CAP, [END]).texts.outputs
