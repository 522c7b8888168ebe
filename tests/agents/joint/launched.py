"""Joint training of the tests' student, for `accelerate launch`: what one process gives, several should give, too.

Usage: `-m tests.agents.joint.launched FOLDER`. The main process leaves the weights of each case in FOLDER.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from agents.joint.config import JointConfig
from agents.joint.drift import gradients
from agents.joint.parallel import Processes
from agents.joint.trainer import Joint
from tests.agents.joint.test_trainer import SHORT, data, student
from tests.launching import write_cases

STOP = 4  # updates before the run is resumed
FAST = replace(SHORT, warmup=1)
CASES: dict[str, JointConfig] = {
    "verify": replace(FAST, write_alone=True, extremes=0.3, texts=11, episodes=7),
    "ask": replace(FAST, call="ASK", accumulate=2),
    "bf16": replace(FAST, precision="bf16"),
}


def weights(config: JointConfig, folder: Path | None = None, until: int | None = None) -> dict[str, torch.Tensor]:
    """The average's, and lambda: all that an update moves."""
    joint = Joint(*student(), data(), config, folder)
    model = joint.run(until=until)
    found = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    return found | {"multiplier": torch.from_numpy(joint.prices.multiplier.value)}


def check(processes: Processes) -> None:
    """What processes tell each other; each of the two brings its index + 1."""
    number = processes.index + 1.0
    weight = nn.Parameter(torch.full((2,), number))
    weight.grad = torch.full((2,), number)
    layer = nn.Linear(1, 1)
    layer.weight.grad = torch.full((1, 1), number)
    summed, nothing = gradients(layer, processes)
    assert (summed, nothing) == (torch.full((1, 1), 3.0), None)
    assert layer.weight.grad.item() == number, "its own stays"
    processes.add_gradients(iter([weight]))
    processes.agree(iter([weight]))
    assert weight.grad.tolist() == [3.0, 3.0]
    assert weight.tolist() == [1.0, 1.0]
    alone, nobodys = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    alone.grad = None if processes.main else torch.full((2,), number)
    processes.add_gradients(iter([alone, nobodys]))
    assert alone.grad is not None, "the other one's"
    assert alone.grad.tolist() == [2.0, 2.0]
    assert nobodys.grad is None
    assert processes.gathered(["second"] * processes.index) == ["second"]
    assert processes.told(number) == 1.0
    assert processes.joined(np.full(int(number), number)).tolist() == [1.0, 2.0, 2.0]
    assert processes.shares([number, number]) == [number / 6, number / 6]
    assert processes.slices(5) == [slice(0, 2), slice(2, 5)][processes.index : processes.index + 1]


def main(out: Path) -> None:
    check(Processes(cpu=True))
    write_cases(out, CASES, weights, "verify", STOP)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
