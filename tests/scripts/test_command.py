"""Scripts tell a user's mistake in one line and status 2, and keep the traceback of their own errors."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts import assess, demo, evaluate, prepare, report, speed, train
from scripts.command import MISTAKE, TRACEBACK, run


@dataclass
class Options:
    """Settings of nothing."""

    number: int = 1
    """Any number."""


def broken(error: Exception):
    def main(options: Options) -> None:
        raise error

    return main


def test_main_gets_the_parsed_options() -> None:
    seen: list[Options] = []
    run(seen.append, Options, None, ["--number", "3"])
    run(seen.append, {"first": Options}, None, ["first"])
    assert seen == [Options(3), Options(1)]


@pytest.mark.parametrize("error", [ValueError("Expected a, got b."), FileNotFoundError("no file"), ImportError("none")])
def test_a_mistake_is_one_line_and_a_status(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(broken(error), Options, None, [])
    assert stopped.value.code == MISTAKE == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {error}\n")
    assert "Traceback" not in shown.err
    assert not shown.out


def test_the_programs_own_errors_and_those_that_one_asks_to_see_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        run(broken(KeyError("bug")), Options, None, [])
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(ValueError, match="Expected a"):
        run(broken(ValueError("Expected a")), Options, None, [])


def test_help_stays_complete(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(print, Options, "What it does.", ["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("What it does.", "--number", "Any number."))


def test_help_keeps_the_lines_of_commands_and_says_how_the_script_is_called(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", report.__spec__)
    with pytest.raises(SystemExit):
        run(print, report.Options, report.__doc__, ["--help"])
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert shown[0].startswith("usage: python -m scripts.report ")
    assert {line for line in report.__doc__.splitlines() if line.startswith("python -m")} <= set(shown)


@pytest.mark.parametrize("script", [assess, demo, evaluate, prepare, speed, train])
def test_every_script_begins_like_this(script) -> None:
    assert Path(script.__file__).read_text().rstrip().splitlines()[-1].startswith("    run(")


@pytest.mark.parametrize(
    ("main", "options", "args", "message"),
    [
        (evaluate.main, evaluate.Options, ["--policy", "x", "--rule", "ask at least once"], "lower"),
        (evaluate.main, evaluate.Options, ["--policy", "nowhere"], "nowhere"),
        (assess.main, assess.Options, ["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (speed.main, speed.Options, ["--device", "abacus"], "abacus"),
        (prepare.Pronounce.run, {"pronounce": prepare.Pronounce}, ["pronounce", "--device", "abacus"], "abacus"),
    ],
)
def test_real_mistakes(main, options, args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(main, options, None, args)
    assert stopped.value.code == MISTAKE
    last = capsys.readouterr().err.splitlines()
    assert any(line.startswith("error: ") for line in last)
    assert message in "\n".join(last)
