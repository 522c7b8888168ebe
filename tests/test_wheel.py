"""The wheel holds `tw_env` alone; it and its declared dependencies are all that playing needs."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Runs with the installed wheel, far from the clone. None in sys.modules makes a module look as if it weren't
# installed.
PROBE = """
import importlib.util, json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
for name in ("agents", "scripts", "tests"):
    assert importlib.util.find_spec(name) is None, f"{name} can be imported"

import gymnasium, tw_env
assert "torch" not in sys.modules, "import tw_env is light: it leaves torch alone"
print("PLACE", tw_env.__file__)

env = gymnasium.make("tw_env/Pronounce-v0", rule="ask the teacher for at most 20% of the tokens")
observation, info = env.reset(seed=0)
steps, done = 0, False
while not done:
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample(info["action_mask"]))
    steps, done = steps + 1, terminated or truncated
print("STEPS", steps)

from tw_env import policies

policy = policies.load("pronounce-pcl")
env = gymnasium.make("tw_env/PronounceVerify-v0", rule="ask the teacher for at most 20% of the tokens")
observation, info = env.reset(seed=0)
state, done = None, False
while not done:
    action, state = policy.predict(observation, state, action_masks=info["action_mask"])
    observation, reward, terminated, truncated, info = env.step(int(action))
    done = terminated or truncated
print("SPENT", info["spent"])
"""


def run(*command: object, cwd: Path) -> str:
    """Standard output of a command that has to succeed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "COV_"))}
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(words)[:100]} failed:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def modules(*extras: str) -> set[str]:
    """Top-level modules of the requirements of `extras`, of the project itself if there are none."""
    wanted = [PROJECT["optional-dependencies"][extra] for extra in extras] if extras else [PROJECT["dependencies"]]
    names = {re.match(r"[\w-]+", requirement)[0] for group in wanted for requirement in group}
    return {name.lower().replace("-", "_") for name in names}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline from a copy: a build/ left in the clone would leak into later builds."""
    copy, out = tmp_path_factory.mktemp("a clone with spaces"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("tw_env", "agents", "scripts", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, copy, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_tw_env_with_its_data_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"tw_env"}
    files = {
        f"tw_env/{path.relative_to(ROOT / 'tw_env').as_posix()}"
        for path in (ROOT / "tw_env").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= names, f"missing from the wheel: {sorted(files - names)}"
    for needed in (
        "py.typed",
        "data/sample/sample.jsonl",
        "data/sample/NOTICE",
        "data/pronounce/NOTICE",
        "data/pronounce/student/model.safetensors",
        "data/pronounce/teacher/model.safetensors",
    ):
        assert f"tw_env/{needed}" in names
    assert any(re.fullmatch(r"tw_env/policies/shipped/[^/]+/[^/]+\.safetensors", name) for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_a_fresh_environment_steps_the_env_and_plays_a_shipped_policy(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "fresh environment"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=tmp_path)
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # The dependencies are those of this environment: a path line in a .pth file adds their folder and
    # downloads nothing. The .pth files in that folder, an editable install's for one, are not read.
    (site,) = home.glob("**/site-packages")
    origins = [importlib.util.find_spec(name).origin for name in sorted(modules())]
    folders = dict.fromkeys(str(Path(origin).parents[1]) for origin in origins)
    (site / "dependencies.pth").write_text("\n".join(folders) + "\n", encoding="utf-8")
    # tqdm comes with transformers, setuptools with torch
    optional = modules("metrics", "data", "agents", "contrib", "prepare", "dev") - modules() - {"tqdm", "setuptools"}
    assert {"stable_baselines3", "sacrebleu", "rouge_score", "pytest"} <= optional
    output = run(python, "-c", PROBE, json.dumps(sorted(optional)), cwd=tmp_path)
    place, steps, spent = (line.split(" ", 1)[1] for line in output.splitlines()[-3:])
    assert Path(place).is_relative_to(site)
    assert int(steps) >= 1
    assert float(spent) >= 0.0
