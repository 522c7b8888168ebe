"""Every script explains itself: `--help` works and says something of each option."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import tyro

from scripts import (
    ablate,
    assess,
    benchmark,
    debian_data,
    deepen,
    demo,
    distill,
    evaluate,
    generate,
    joint,
    joint_picture,
    latency,
    prepare,
    prepare_smollm2,
    report,
    speed,
    train,
)

OPTIONS = [
    *(pytest.param(script, script.Options, id=script.__name__)
      for script in (
          ablate, assess, benchmark, deepen, demo, distill, evaluate, generate, joint, joint_picture, latency, report,
          speed, train,
      )),
    pytest.param(prepare, prepare.Pronounce, id="scripts.prepare"),
    pytest.param(debian_data, debian_data.Debian, id="scripts.prepare-debian"),
    pytest.param(prepare_smollm2, prepare_smollm2.SmolLM2, id="scripts.prepare-smollm2"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "options"), OPTIONS)
def test_help_is_complete(script, options: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        tyro.cli(options, description=script.__doc__, args=["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    body = [node for part in options.__mro__[:-1] for node in body_of(part)]
    for name in options.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in shown
        at = next(n for n, node in enumerate(body) if isinstance(node, ast.AnnAssign) and node.target.id == name)
        assert isinstance(body[at + 1], ast.Expr), f"{name} has no description"


def body_of(options: type) -> list[ast.stmt]:
    """What stands in a class, in its own file."""
    file = Path(sys.modules[options.__module__].__file__)
    return next(
        node.body
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == options.__name__
    )
