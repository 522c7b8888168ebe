"""`scripts.joint` under `accelerate launch`, where two processes train and one writes; and its rivals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.joint.training_cost import TrainingCost
from scripts.joint_rivals import RivalOptions, distil
from tests.launching import launch
from tw_env.policies import AskToken

SHORT = (
    "--limit 60 --held 20 --device cpu --config.clone 1 --config.pcl 1 --config.texts 8 --config.episodes 8 "
    "--config.limits 0.1"
)


@pytest.mark.slow
def test_two_processes_train_and_the_main_one_writes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    printed = launch(tmp_path / "home", "scripts.joint", "--out", str(out), *SHORT.split())
    assert printed.count("the teacher's texts are written to") == 1
    assert printed.count("policy written to") == 1
    assert AskToken.read(out / "model").kind
    assert (out / "checkpoint.pt").is_file()
    assert len(list((out / "tensorboard").iterdir())) == 1


def test_a_rival_may_be_taken_as_it_is_if_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = RivalOptions(tmp_path, updates=0, student=str(tmp_path))
    assert distil(options) == (tmp_path, TrainingCost())
    assert "no training.json in" in capsys.readouterr().out
    TrainingCost(3.0, 2, teacher_tokens={"words": 9}).save(tmp_path)
    assert distil(options) == (tmp_path, TrainingCost(3.0, 2, teacher_tokens={"words": 9}))
    with pytest.raises(ValueError, match="Expected --student with --updates 0, got none"):
        distil(replace(options, student=None))
