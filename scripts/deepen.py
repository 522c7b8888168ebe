"""Write a student with twice the layers that writes exactly as before: one to ask what more capacity would buy.

python -m scripts.deepen --out runs/deeper
python -m scripts.joint --out runs/joint-deeper --student runs/deeper --original tw_env/data/pronounce/student
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from scripts.command import run
from scripts.layers import deepened
from scripts.smollm2_pair import read_model
from tw_env.tasks.shipped import shipped_pair


@dataclass
class Options:
    """Double a student's layers."""

    out: Path
    """Folder of the new student."""
    student: str | None = None
    """Folder or hub id of the student; None takes the one of pronunciation that ships."""


def main(options: Options) -> None:
    """Read, double, write."""
    student = options.student or str(shipped_pair("pronounce").student)
    model = read_model(student, torch.device("cpu"))
    deep = deepened(model)
    deep.save_pretrained(options.out)
    AutoTokenizer.from_pretrained(student, trust_remote_code=False).save_pretrained(options.out)
    print(f"{model.num_parameters():,} weights made {deep.num_parameters():,}, written to {options.out}")


if __name__ == "__main__":
    run(main, Options, __doc__)
