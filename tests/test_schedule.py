"""Which prompt and rule comes next: drawn from a row's generator, or in the order of reset's options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tw_env.rules import Constraint, Quantity, parse
from tw_env.schedule import Schedule

PROMPTS = [[1], [2], [3, 4]]
RULES = ["never ask", "at most 2 calls"]


def generators(rows: int = 1) -> list[np.random.Generator]:
    return [np.random.default_rng(row) for row in range(rows)]


def test_draws_come_from_each_rows_own_generator() -> None:
    schedule = Schedule(PROMPTS, RULES)
    together = schedule.next(generators(3))
    apart = [schedule.next([generator]) for generator in generators(3)]
    assert together.prompts.tolist() == [int(one.prompts[0]) for one in apart]
    assert together.rules == [one.rules[0] for one in apart]
    assert together.prompt_ids == [PROMPTS[index] for index in together.prompts]
    assert together.student_ids is None


def test_what_follows_a_list_may_be_one_text_under_the_rule_never() -> None:
    schedule = Schedule(PROMPTS, "at most 3 calls")
    schedule.follow({"prompts": [2, 1], "rules": "at most 2 calls", "afterwards": 0})
    first = schedule.next(generators(4))
    assert first.prompts.tolist() == [2, 1, 0, 0]
    assert [rule.limit for rule in first.rules] == [2, 2, 0, 0]
    assert schedule.next(generators(4)).prompts.tolist() == [0] * 4
    schedule.follow({"prompts": [0]})
    after = schedule.next(generators(4))
    assert [rule.limit for rule in after.rules] == [3] * 4, "until the next reset"
    with pytest.raises(ValueError, match="prompt indices from 0"):
        schedule.follow({"afterwards": len(PROMPTS)})


def test_options_are_followed_and_then_draws_go_on() -> None:
    schedule = Schedule(PROMPTS, "at most 2 calls")
    schedule.follow({"prompts": [2, 0, 1], "rules": ["never ask", "at most 1 call", "at most 10% of the tokens"]})
    rows = generators(2)
    prompts, _, rules, _ = schedule.next(rows)
    assert (prompts.tolist(), rules) == ([2, 0], [parse("never ask"), parse("at most 1 call")])
    prompts, _, rules, _ = schedule.next(rows)
    assert (prompts[0], rules[0]) == (1, parse("at most 10% of the tokens"))
    assert (prompts[1], rules[1]) == (np.random.default_rng(1).integers(3), parse("at most 2 calls"))


def test_one_rule_serves_all_prompts_and_sampled_rules_repeat() -> None:
    schedule = Schedule(PROMPTS, "sample")
    schedule.follow({"prompts": [0, 1], "rules": Constraint(Quantity.CALLS, 5)})
    assert schedule.next(generators(2)).rules == [Constraint(Quantity.CALLS, 5)] * 2
    assert schedule.next(generators(2)).rules == schedule.next(generators(2)).rules


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": [0]}, "'prompts', 'rules', 'words' and 'afterwards', got prompt"),
        ({"prompts": [3]}, "indices from 0 to 2, got 3"),
        ({"prompts": [-1]}, "indices from 0 to 2, got -1"),
        ({"prompts": [0, 1, 2], "rules": RULES}, "each of the 3 prompts, got 2"),
        ({"rules": "never ask"}, "'prompts' beside 'rules', got none"),
        ({"prompts": [0], "rules": "be nice"}, "be nice"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(PROMPTS, RULES).follow(options)


def test_no_rule_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one rule, got an empty list"):
        Schedule(PROMPTS, [])
