"""Distillation of the tests' student, for `accelerate launch`: what one process gives, several should give, too.

Usage: `-m tests.agents.joint.launched_distillation FOLDER`. Each process leaves its weights of each case in FOLDER.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from agents.joint.distillation_config import DistillationConfig
from agents.joint.objective import Loss
from tests.agents.joint.test_distillation import CONFIG, PROMPTS, distil
from tests.launching import write_cases

STOP = 4  # updates before the run is resumed
# The last batch of an epoch has one prompt, so that the main process has nothing to learn from.
ODD = replace(CONFIG, batch=5)
assert len(PROMPTS) % ODD.batch == 1
assert len(PROMPTS) // ODD.batch < CONFIG.updates
CASES: dict[str, DistillationConfig] = {
    "supervised": replace(ODD, loss=Loss.SUPERVISED),
    "reverse_kl": replace(ODD, loss=Loss.REVERSE_KL),
    "jsd": replace(CONFIG, loss=Loss.JSD, accumulate=2),
    "pcl": replace(ODD, loss=Loss.PCL),
    "pcl_group": replace(ODD, loss=Loss.PCL_GROUP, batch=20),
    "pcl_expected": replace(ODD, loss=Loss.PCL_EXPECTED, accumulate=2),
    "fp16": replace(ODD, loss=Loss.PCL, precision="fp16"),
    "bf16": replace(ODD, loss=Loss.PCL, precision="bf16"),
}


def weights(
    config: DistillationConfig, folder: Path | None = None, until: int | None = None
) -> dict[str, torch.Tensor]:
    """The average's, V's, and the teacher's tokens: all that an update moves."""
    run = distil(config, folder, until)
    found = {name: weight.detach().clone() for name, weight in run.averaged().named_parameters()}
    value = {f"value.{name}": weight.detach().clone() for name, weight in run.value.named_parameters()}
    return found | value | {"tokens": torch.tensor(float(run.teacher_tokens))}


if __name__ == "__main__":
    write_cases(Path(sys.argv[1]), CASES, weights, "pcl", STOP)
