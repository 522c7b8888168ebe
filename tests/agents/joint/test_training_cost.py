"""What training took: sums over runs, a data set's texts written once, kept beside the model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from agents.joint.reading import Texts
from agents.joint.training_cost import PLAY, TrainingCost, fingerprint

START = TrainingCost(10.0, 100, 0, {"words": 500})
PCL = TrainingCost(5.0, 20, 300, {"words": 800, "others": 7})


def test_runs_are_summed_and_texts_of_a_data_set_are_written_once() -> None:
    assert TrainingCost(15.0, 120, 300, {"words": 800, "others": 7}) == START + PCL
    assert (START + PCL).fields() == {
        "training_teacher_tokens": 807, "training_env_steps": 300, "training_seconds": 15.0,
    }  # fmt: skip


def test_play_is_paid_each_time() -> None:
    played = SimpleNamespace(teacher_tokens=40, env_steps=60)
    twice = PCL.with_play(played, 1.0).with_play(played, 1.0)
    assert twice == TrainingCost(7.0, 20, 420, {**PCL.teacher_tokens, PLAY: 80})


def test_a_chain_of_runs_is_read_back_as_its_sum(tmp_path: Path) -> None:
    assert TrainingCost.read(tmp_path) is None
    assert TrainingCost.read(None) is None
    folders = [tmp_path / name for name in "abc"]
    before = None
    for folder in folders:
        folder.mkdir()
        START.save(folder, before)
        before = TrainingCost.read(folder)
    assert before == TrainingCost(30.0, 300, 0, {"words": 500})


def test_a_fingerprint_is_of_the_texts_alone() -> None:
    texts = Texts([[1, 2], [3]], [[4], [5, 6]])
    assert fingerprint(texts) == fingerprint(Texts([(1, 2), (3,)], [(4,), (5, 6)]))
    others = Texts([[1, 2], [3]], [[4, 5], [6]]), Texts([[1], [2, 3]], [[4], [5, 6]])
    assert len({fingerprint(one) for one in (texts, *others)}) == 3
