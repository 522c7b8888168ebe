"""An update of distillation split over processes and parts is the update of one, and mixed precision learns."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from agents.joint.distillation import Distillation
from agents.joint.distillation_config import DistillationConfig
from agents.joint.objective import Loss
from agents.joint.parallel import Processes
from agents.joint.teacher import Teacher
from tests.agents.joint.launched_distillation import CASES, ODD, STOP, weights
from tests.agents.joint.test_distillation import CONFIG, PAIR, data_of
from tests.launching import furthest, launch

HALF = ("bf16", "fp16")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left: the weights of each case, by process."""
    folder = tmp_path_factory.mktemp("launched")
    launch(folder / "home", "tests.agents.joint.launched_distillation", str(folder))
    return folder


def numbers(config: DistillationConfig) -> list[dict[str, float]]:
    told: list[dict[str, float]] = []
    teacher = Teacher(PAIR.teacher, top_k=None)
    run = Distillation(copy.deepcopy(PAIR.student), data_of(teacher), config, teacher)
    assert {weight.dtype for weight in run.run(lambda _, each: told.append(each)).parameters()} == {torch.float32}
    return told


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in HALF])
def test_two_processes_give_what_one_gives(launched: Path, case: str) -> None:
    first, second = (load_file(launched / f"{case}-{index}.safetensors") for index in range(2))
    assert furthest(first, second) == 0.0
    assert furthest(first, weights(replace(CASES[case], accumulate=1))) < 1e-5
    assert furthest(first, weights(replace(CASES[case], learning_rate=1e-9))) > 1e-3  # it had learnt something


@pytest.mark.slow
def test_two_processes_resume_to_the_same_weights(launched: Path) -> None:
    whole = load_file(launched / "pcl-0.safetensors")
    for index in range(2):
        assert furthest(whole, load_file(launched / f"resumed-{index}.safetensors")) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("case", HALF)
def test_two_processes_agree_in_half_precision(launched: Path, case: str) -> None:
    first, second = (load_file(launched / f"{case}-{index}.safetensors") for index in range(2))
    assert furthest(first, second) == 0.0
    assert furthest(first, weights(CASES[case])) < 0.05
    assert furthest(first, weights(replace(CASES[case], precision="no"))) > 0.0


@pytest.mark.parametrize("loss", list(Loss))
def test_parts_add_up_to_the_whole(loss: Loss) -> None:
    config = replace(ODD, loss=loss, batch=5 * replace(ODD, loss=loss).texts_per_prompt)
    whole = weights(config)
    assert furthest(whole, weights(replace(config, accumulate=3))) < 1e-5
    assert furthest(whole, weights(replace(config, learning_rate=1e-9))) > 1e-3


@pytest.mark.parametrize("loss", [Loss.JSD, Loss.PCL, Loss.PCL_GROUP])
def test_parts_report_the_numbers_of_the_whole(loss: Loss) -> None:
    config = replace(CONFIG, loss=loss)
    for one, other in zip(numbers(config), numbers(replace(config, accumulate=3)), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("precision", HALF)
def test_half_precision_learns(precision: Any) -> None:
    told = numbers(replace(CONFIG, loss=Loss.PCL, updates=60, batch=24, learning_rate=0.03, precision=precision))
    assert all(math.isfinite(value) for each in told for value in each.values())
    start, end = (sum(each["kl/other"] for each in part) for part in (told[:3], told[-3:]))  # an epoch each
    assert end < 0.7 * start


def test_a_run_may_go_on_in_more_parts(tmp_path: Path) -> None:
    whole = weights(CASES["pcl"])
    weights(CASES["pcl"], tmp_path, until=STOP)
    assert furthest(whole, weights(replace(CASES["pcl"], accumulate=2), tmp_path)) < 1e-5


def test_half_precision_resumes_and_refuses_another(tmp_path: Path) -> None:
    whole = weights(CASES["fp16"])
    weights(CASES["fp16"], tmp_path, until=STOP)
    assert furthest(whole, weights(CASES["fp16"], tmp_path)) == 0.0
    with pytest.raises(ValueError, match="precision differ"):
        weights(replace(CASES["fp16"], precision="no"), tmp_path)


def test_an_overflow_leaves_student_and_value_as_they_were() -> None:
    teacher = Teacher(PAIR.teacher, top_k=None)
    config = replace(CASES["fp16"], updates=1, ema_decay=0.0)
    run = Distillation(copy.deepcopy(PAIR.student), data_of(teacher), config, teacher)
    before = copy.deepcopy(run.value.state_dict())
    run._precision.restore({**run._precision.state(), "scale": 1e38})
    averaged = run.run()
    for one, other in zip(averaged.parameters(), PAIR.student.parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(weight, before[name]) for name, weight in run.value.state_dict().items())
    assert run._precision.scale < 1e38


def test_more_parts_than_prompts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="1 to 3 parts, a prompt with its texts in each, got 4"):
        weights(replace(CONFIG, loss=Loss.PCL_GROUP, accumulate=4))
    many = Processes(cpu=True)
    many.count = 4
    monkeypatch.setattr("agents.joint.distillation.Processes", lambda cpu: many)
    with pytest.raises(ValueError, match=r"at least 16 texts, episodes or prompts .* got 12"):
        weights(replace(CONFIG, accumulate=4))
