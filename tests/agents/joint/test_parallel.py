"""An update split over processes and parts is the update of one, and mixed precision learns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from agents.joint.config import JointConfig
from agents.joint.parallel import Passes, Precision, Processes
from agents.joint.trainer import Joint
from tests.agents.joint.launched import CASES, FAST, weights
from tests.agents.joint.test_trainer import data, student
from tests.launching import furthest, launch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left: the weights of each case, by process."""
    folder = tmp_path_factory.mktemp("launched")
    launch(folder / "home", "tests.agents.joint.launched", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", ["verify", "ask"])
def test_two_processes_give_what_one_gives(launched: Path, case: str) -> None:
    first, second = (load_file(launched / f"{case}-{index}.safetensors") for index in range(2))
    assert furthest(first, second) == 0.0
    assert furthest(first, weights(replace(CASES[case], accumulate=1))) < 1e-5
    assert furthest(first, weights(replace(CASES[case], learning_rate=1e-9))) > 1e-3  # it had learnt something


@pytest.mark.slow
def test_two_processes_resume_to_the_same_weights(launched: Path) -> None:
    whole = load_file(launched / "verify-0.safetensors")
    for index in range(2):
        assert furthest(whole, load_file(launched / f"resumed-{index}.safetensors")) == 0.0


@pytest.mark.slow
def test_two_processes_agree_in_half_precision(launched: Path) -> None:
    first, second = (load_file(launched / f"bf16-{index}.safetensors") for index in range(2))
    assert furthest(first, second) == 0.0
    assert 0.0 < furthest(first, weights(replace(CASES["bf16"], precision="no"))) < 0.05


@pytest.mark.parametrize(
    "config",
    [
        replace(FAST, texts=11, episodes=7, write_alone=True, extremes=0.3),
        replace(FAST, call="ASK"),
        replace(FAST, call="ASK", objective="expected_return", muon=False),
    ],
)
def test_parts_add_up_to_the_whole(config: JointConfig) -> None:
    whole = weights(config)
    assert furthest(whole, weights(replace(config, accumulate=4))) < 1e-5
    assert furthest(whole, weights(replace(config, learning_rate=1e-9))) > 1e-3


def test_parts_report_the_numbers_of_the_whole() -> None:
    told: dict[int, list[dict[str, float]]] = {1: [], 3: []}
    for accumulate, numbers in told.items():
        config = replace(FAST, accumulate=accumulate, extremes=0.3)
        Joint(*student(), data(), config).run(lambda _, each, numbers=numbers: numbers.append(each))
    for one, other in zip(*told.values(), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns(precision: Any) -> None:
    told: list[dict[str, float]] = []
    config = replace(FAST, start=16, precision=precision, learning_rate=1e-2)
    model = Joint(*student(), data(), config).run(lambda _, numbers: told.append(numbers))
    assert all(math.isfinite(value) for numbers in told for value in numbers.values())
    assert told[-1]["nats"] < 0.8 * told[0]["nats"]
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    joint = Joint(*student(), data(), config)
    loss, _ = joint._writing.loss(np.random.default_rng(0), config.stage(0))
    assert loss(0).dtype == torch.float32


def test_a_run_may_go_on_in_more_parts(tmp_path: Path) -> None:
    whole = weights(FAST)
    weights(FAST, tmp_path, until=4)
    assert furthest(whole, weights(replace(FAST, accumulate=2), tmp_path)) < 1e-5


def test_half_precision_resumes_and_refuses_another(tmp_path: Path) -> None:
    config = replace(FAST, precision="fp16")
    whole = weights(config)
    weights(config, tmp_path, until=4)
    assert furthest(whole, weights(config, tmp_path)) == 0.0
    with pytest.raises(ValueError, match="precision differ"):
        weights(replace(config, precision="no"), tmp_path)


def test_precision_is_what_accelerate_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Precision(None, CPU).kind == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert Precision(None, CPU).kind == "bf16"
    assert Precision("no", CPU).kind == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ValueError, match="no, bf16, fp16, got 'fp8'"):
        Precision(None, CPU)


def test_an_overflow_takes_no_step_and_a_smaller_scale() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer, precision = torch.optim.SGD([weight], 1.0), Precision("fp16", CPU)
    precision.backward((weight * 1e38).sum())
    assert not precision.clip(iter([weight]), [optimizer], 10.0)
    optimizer.zero_grad()
    precision.backward((weight * 3.0).sum())
    assert precision.clip(iter([weight]), [optimizer], 10.0)
    assert weight.grad is not None
    assert weight.grad.tolist() == pytest.approx([3.0, 3.0])
    assert precision.state()["scale"] == Precision("fp16", CPU).state()["scale"] / 2


def test_stretches_cover_all_texts_once() -> None:
    processes = Processes(cpu=True)
    assert (processes.index, processes.count, processes.main, processes.device) == (0, 1, True, "cpu")
    processes.count, found = 3, []
    for processes.index in range(3):
        found += [list(range(11))[part] for part in processes.slices(11, 2)]
    assert [i for part in found for i in part] == list(range(11))
    assert {len(part) for part in found} == {1, 2}
    with pytest.raises(ValueError, match=r"at least 6 texts, episodes or prompts .* got 5"):
        processes.slices(5, 2)


def test_one_part_is_read_once_and_several_twice() -> None:
    weight, read = torch.ones((), requires_grad=True), []

    def run(part: int) -> torch.Tensor:
        read.append(part)
        return weight * part

    one = Passes(run, 1)
    assert one(0).requires_grad
    assert read == [0]
    several = Passes(run, 2)
    assert not several.seen[1].requires_grad
    assert several(1).requires_grad
    assert read == [0, 0, 1, 1]


def test_more_parts_than_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 8 parts"):
        replace(FAST, accumulate=9)
