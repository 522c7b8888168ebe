"""How every script begins: options from the command line, and a user's mistake told in one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

OptionsT = TypeVar("OptionsT")

MISTAKE = 2  # exit status, as for options that can't be read
TRACEBACK = "TRAINING_WHEELS_TRACEBACK"  # environment variable: where an error was raised is shown, too
MISTAKES = (ValueError, OSError, ImportError)  # a setting out of range, a missing file, an extra not installed


def run(
    main: Callable[[OptionsT], object],
    options: type[OptionsT] | Mapping[str, type[OptionsT]],
    description: str | None,
    args: Sequence[str] | None = None,
) -> None:
    """Parse the options, run `main` on them, and turn what a user did wrong into `error: message`.

    Args:
        options: a dataclass, or several by the name of the subcommand that each stands for.
        description: for `--help`, the script's docstring; commands in it keep their lines.
        args: the command line without the program's name; None takes the process's own.

    Raises:
        SystemExit: status 2 after an error that the user can mend, which stands on stderr; 0 after `--help`.
        Exception: any other error is the program's own and keeps its traceback.
    """
    shown: Any = {"description": description and _separate(description), "args": args, "prog": program()}
    try:
        if isinstance(options, Mapping):
            parsed = tyro.extras.subcommand_cli_from_dict(dict(options), **shown)
        else:
            parsed = tyro.cli(options, **shown)
        main(parsed)
    except MISTAKES as error:
        if os.environ.get(TRACEBACK):
            raise
        print(f"error: {error}", file=sys.stderr)
        print(f"(set {TRACEBACK}=1 to see where it was raised)", file=sys.stderr)
        raise SystemExit(MISTAKE) from None


def program() -> str | None:
    """How the running script is called, `python -m scripts.NAME`; None where that isn't known."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec is not None and spec.name.startswith("scripts.") else None


def _separate(description: str) -> str:
    """The description with its commands indented, since unindented lines are shown as one paragraph."""
    return re.sub(r"^(?=(python -m|make|accelerate launch|torchrun) )", "    ", description, flags=re.MULTILINE)
