"""A checkpoint of joint training is all that another process needs, and `tw_env` all that it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.joint.config import JointConfig
from scripts import generate, joint
from tests.launching import ROOT
from tw_env.generate import assisted
from tw_env.tasks import pronounce

WORDS = ("hello", "pneumonia", "wheel", "teacher", "laugh", "a")
RULE = "ask the teacher for at most 10% of the tokens"

# None in sys.modules makes a module look as if it weren't installed.
FRESH = """
import json, sys
for name in ("agents", "scripts", "tests"):
    sys.modules[name] = None
from transformers import AutoModelForCausalLM, AutoTokenizer
from tw_env.generate import assisted
from tw_env.tasks import pronounce

folder, rule, *words = sys.argv[1:]
student = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
inputs = tokenizer([pronounce.prompt(word) for word in words], padding=True, return_tensors="pt")
out = student.generate(
    **inputs, custom_generate=assisted, teacher=pronounce.TEACHER, rule=rule, max_new_tokens=24,
    return_dict_in_generate=True,
)
print(json.dumps([out.sequences.tolist(), out.calls.tolist()]))
"""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two updates on the shipped pair."""
    folder = tmp_path_factory.mktemp("checkpoint") / "run"
    config = JointConfig(clone=1, pcl=1, texts=8, episodes=8, limits=(0.1,))
    shared = {"limit": 60, "held": 20, "half": True, "teacher_log": False, "play_rows": 32, "device": "cpu"}
    joint.main(joint.Options(folder, config=config, **shared))
    return folder


def here(model: Path, rule: str) -> list[list[int]]:
    """Sequences and calls, written in this process, which trained."""
    student = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    inputs = tokenizer([pronounce.prompt(word) for word in WORDS], padding=True, return_tensors="pt")
    out = student.generate(
        **inputs, custom_generate=assisted, teacher=pronounce.TEACHER, rule=rule, max_new_tokens=24,
        return_dict_in_generate=True,
    )  # fmt: skip
    return [out.sequences.tolist(), out.calls.tolist()]


def test_another_process_writes_the_same_with_tw_env_alone(run_folder: Path, tmp_path: Path) -> None:
    model = run_folder / joint.MODEL
    mine = here(model, RULE)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(model), RULE, *WORDS], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == mine
    assert mine != here(model, "as often as you like"), "it reads its rule"
    assert sum(mine[1]) > 0


def test_half_the_space_is_taken_and_single_precision_loaded(run_folder: Path) -> None:
    model = run_folder / joint.MODEL
    assert {weights.dtype for weights in load_file(model / "model.safetensors").values()} == {torch.float16}
    assert AutoModelForCausalLM.from_pretrained(model).dtype == torch.float32


def test_its_folder_is_all_that_generate_is_told(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate.main(generate.Options(policy=str(run_folder), prompt=WORDS, rule=RULE, device="cpu"))
    shown = capsys.readouterr().out
    assert f"rule '{RULE}'" in shown
    assert " ms a text" in shown
    assert "modelled" in shown.splitlines()[-1]
