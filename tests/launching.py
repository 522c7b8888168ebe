"""`accelerate launch` with two processes on the CPU, for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

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
