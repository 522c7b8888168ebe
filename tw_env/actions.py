"""The actions of the game: who writes the next token."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class Action(IntEnum):
    """Who writes the next token, and whether the teacher checks what the student wrote before.

    `SELF`: the student writes it. `ASK`: the teacher writes it; pending tokens stay. `VERIFY`: the teacher keeps
    the longest prefix of the pending tokens that it accepts, drops the rest, and writes the next token.
    """

    SELF = 0
    ASK = 1
    VERIFY = 2


class Writer(IntEnum):
    """Whose token stands at a place of the text."""

    STUDENT = 0
    ACCEPTED = 1  # written by the student, read and accepted by the teacher
    TEACHER = 2


def parse_actions(actions: str | Iterable[str | Action]) -> tuple[Action, ...]:
    """The action set of an environment, in the order of its `Discrete` space.

    Args:
        actions: names ("SELF", "ASK", "VERIFY") in a list, or in one string joined by "/" or ",".

    Raises:
        ValueError: unknown or repeated names, no `SELF`, or nothing but `SELF`.
    """
    listed = actions.replace(",", "/").split("/") if isinstance(actions, str) else actions
    names = list(listed) if isinstance(listed, Iterable) else [listed]
    known = {action.name: action for action in Action}
    chosen = []
    for name in names:
        key = name.name if isinstance(name, Action) else str(name).strip().upper()
        if key not in known:
            raise ValueError(f"Expected actions out of {', '.join(known)}, got {name!r} in {actions!r}.")
        chosen.append(known[key])
    if chosen[:1] != [Action.SELF] or len(set(chosen)) != len(chosen) or len(chosen) < 2:
        raise ValueError(
            f"Expected SELF first, then ASK, VERIFY or both, each once; got {actions!r}. "
            "Write for example actions='SELF/VERIFY'."
        )
    return tuple(chosen)
