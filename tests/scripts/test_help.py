"""Every script explains itself: `--help` works and says something of each option."""

from __future__ import annotations

from pathlib import Path

import pytest
import tyro

from scripts import assess, benchmark, evaluate


@pytest.mark.parametrize("script", [assess, benchmark, evaluate])
def test_help_is_complete(script, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        tyro.cli(script.Options, description=script.__doc__, args=["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    source = Path(script.__file__).read_text()
    for name in script.Options.__dataclass_fields__:
        assert "--" + name.replace("_", "-") in shown
        after = source.split(f"\n    {name}: ", 1)[1].split("\n", 2)[1]
        assert after.strip().startswith('"""'), f"{name} has no description"
