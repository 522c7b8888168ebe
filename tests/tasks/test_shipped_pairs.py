"""Pairs that ship with a task: complete, small, and played without being named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tw_env
from agents.evaluation import FREE, NEVER, play
from agents.recording import Recorded
from tw_env.costs import LatencyTable
from tw_env.policies import load, speculative, student_alone, teacher_alone
from tw_env.tasks.shipped import DATA, ShippedPair, shipped_pair

MEGABYTES = 25
TASKS = sorted(folder.parent.name for folder in DATA.glob("*/student"))
NAMES = ["pronounce", "summarize", "translate"]
TEXTS = {
    "This package contains a small editor for text files. It highlights the syntax of many languages.": "text editor",
    "A library for reading and writing compressed archives. It holds the development files.": "archive library",
    "Plays music files of many formats and can read their tags. It comes with a graphical interface.": "music player",
    "This is a dummy package that makes it easier to move to the new version. It can be removed.": "dummy package",
}


@pytest.mark.parametrize("task", TASKS)
def test_a_pair_is_complete_and_small(task: str) -> None:
    pair = shipped_pair(task)
    for folder in (pair.student, pair.teacher):
        assert (folder / "model.safetensors").is_file()
        assert (folder / "tokenizer.json").is_file()
        assert "python -m scripts.prepare" in (folder / "README.md").read_text(encoding="utf-8")
    assert LatencyTable.load(pair.latency).student_ms < LatencyTable.load(pair.latency).teacher_ms
    assert sum(path.stat().st_size for path in pair.folder.rglob("*") if path.is_file()) < MEGABYTES * 2**20


ITALIAN = {
    "Python bindings for the image library": "binding Python per la libreria di immagini",
    "This package contains the documentation.": "Questo pacchetto contiene la documentazione.",
    "small editor for text files": "piccolo editor per file di testo",
    "development files for the graphics library": "file di sviluppo per la libreria grafica",
}


def test_every_task_has_one_and_others_say_so() -> None:
    assert TASKS == NAMES
    assert shipped_pair("text") == shipped_pair(object()) == ShippedPair(DATA / "pronounce")
    with pytest.raises(ValueError, match="no pair ships for the task 'sing'"):
        shipped_pair("sing")


@pytest.mark.parametrize(
    ("id_", "task", "texts"), [("Summarize", "summarize", TEXTS), ("Translate", "translate", ITALIAN)]
)
def test_texts_are_written_by_the_shipped_pair(tmp_path: Path, id_: str, task: str, texts: dict[str, str]) -> None:
    data = tmp_path / "texts.jsonl"
    data.write_text("\n".join(json.dumps({"prompt": text, "reference": line}) for text, line in texts.items()))
    game = tw_env.make_vec(f"tw_env/{id_}Verify-v0", 4, data=str(data), split=None, device="cpu", remember=0)
    env, prompts, rest = Recorded(game), np.arange(len(texts)), (game.layout, game.game.spec.actions)
    alone, taught = play(env, student_alone(*rest), prompts, NEVER), play(env, teacher_alone(*rest), prompts, FREE)
    drafted = play(env, speculative(*rest, 4), prompts, FREE)
    assert all(text.strip() for text in alone.texts + taught.texts)
    assert alone.texts != taught.texts
    assert drafted.texts == taught.texts
    assert drafted.outcomes.calls.sum() < 0.7 * taught.outcomes.calls.sum()
    gated = play(env, load(f"{task}-pcl"), prompts, "ask the teacher for at most 10% of the tokens")
    assert 0 < gated.outcomes.calls.sum() < drafted.outcomes.calls.sum()
    assert set(gated.texts) & (set(taught.texts) - set(alone.texts))
    assert alone.milliseconds is not None
    assert taught.milliseconds is not None
    assert alone.milliseconds.mean() < taught.milliseconds.mean()
