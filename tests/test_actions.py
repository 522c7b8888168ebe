"""Action sets from names, and what is refused."""

import pytest

from tw_env.actions import Action, parse_actions


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("SELF/ASK", (Action.SELF, Action.ASK)),
        ("self, verify", (Action.SELF, Action.VERIFY)),
        (["SELF", "ASK", "VERIFY"], tuple(Action)),
        ((Action.SELF, "verify", Action.ASK), (Action.SELF, Action.VERIFY, Action.ASK)),
    ],
)
def test_parse(given: object, expected: tuple[Action, ...]) -> None:
    assert parse_actions(given) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["SELF", "ASK/SELF", "SELF/SELF", "SELF/ASK/ASK", "", [], "SELF/HELP"])
def test_refused(given: object) -> None:
    with pytest.raises(ValueError, match="Expected") as error:
        parse_actions(given)  # type: ignore[arg-type]
    assert repr(given) in str(error.value)
