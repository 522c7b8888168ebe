"""`accelerate launch` with two processes on the CPU, for tests, and what they are compared by."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from agents.joint.parallel import Processes

ROOT = Path(__file__).parents[1]
SECONDS = 300  # on a busy machine; a launch takes ten on a free one
# `--multi_gpu` is what starts several processes; where PyTorch finds no GPU they work on the CPU, with gloo.
LAUNCH = (
    "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no --main_process_port 0 -m"
)


def launch(home: Path, *command: str) -> str:
    """Run a module in two processes and return what they printed; `home` is an empty folder for accelerate's settings.

    Raises:
        AssertionError: it failed, or warned of something; or it took too long, and was ended with all its processes.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    own = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, *LAUNCH.split(), *command]
    with subprocess.Popen(
        words,
        cwd=ROOT,
        env=kept | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as running:
        try:
            printed, _ = running.communicate(timeout=SECONDS)
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    assert running.returncode == 0, printed
    assert "Warning" not in printed, printed
    return printed


def write_cases(
    out: Path, cases: Mapping[str, Any], weights: Callable[..., dict[str, Tensor]], resumed: str, stop: int
) -> None:
    """In each of two processes: write the weights of every case to `CASE-INDEX.safetensors`.

    Args:
        weights: of a case's settings; also given a folder for its checkpoint and, to break off, `until`.
        resumed: a case that is broken off at update `stop` and taken up again, as "resumed".
    """
    processes = Processes(cpu=True)
    assert processes.count == 2
    for name, config in cases.items():
        found = {name: weights(config)}
        if name == resumed:
            weights(config, out / name, until=stop)
            found["resumed"] = weights(config, out / name)
        for each, tensors in found.items():
            save_file(tensors, out / f"{each}-{processes.index}.safetensors")
    processes.part()


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference of any number of two sets of weights."""
    return max(float((one[name] - other[name]).abs().max()) for name in one | other)
