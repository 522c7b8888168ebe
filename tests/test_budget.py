"""A row's account beside its rule: what is allowed, affordable and left, and which rules can't be measured."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tw_env.budget import Budget
from tw_env.costs import CostModel, LatencyTable, Prices
from tw_env.rules import Constraint, Quantity

CAP = 10
COSTS = CostModel(LatencyTable(1.0, 8.0, 0.5), Prices(call=0.1, read=0.01, written=0.0))


def budget(rule: Constraint, hard: bool = False, costs: CostModel = COSTS) -> Budget:
    account = Budget(1, CAP, costs, hard)
    account.reset(np.zeros(1, np.int64), [rule])
    return account


def play(account: Budget, calls: str, unread: int = 1) -> list[tuple[float, float]]:
    """Book one token a step, with a call where `calls` has a c; returns cost and allowance of each."""
    booked = [account.charge(np.array([c == "c"]), np.array([unread]), np.ones(1, np.int64)) for c in calls]
    return [(float(cost[0]), float(allowance[0])) for cost, allowance in booked]


@pytest.mark.parametrize("limit", [0.0, 0.05, 0.1, 0.29, 0.3, 0.7, 1.0])
def test_a_hard_fraction_affords_a_share_of_the_cap_but_at_least_one_call(limit: float) -> None:
    account = budget(Constraint(Quantity.CALLS_PER_TOKEN, limit), hard=True)
    calls = 0
    while account.affordable(np.ones(1, np.int64))[0] and calls < 2 * CAP:
        play(account, "c")
        calls += 1
    wanted = {0.0: 0, 0.05: 1, 0.1: 1, 0.29: 2, 0.3: 3, 0.7: 7, 1.0: 10}[limit]
    assert calls == wanted


def test_never_is_masked_in_a_soft_game_and_other_rules_are_not() -> None:
    one = np.ones(1, np.int64)
    assert not budget(Constraint(Quantity.CALLS_PER_TOKEN, 0.0)).affordable(one)[0]
    account = budget(Constraint(Quantity.CALLS, 1))
    play(account, "ccc")
    assert account.affordable(one)[0]
    assert account.left()[0] == -2


def test_allowances_add_up() -> None:
    account = budget(Constraint(Quantity.CALLS_PER_TOKEN, 0.25))
    assert play(account, "c--c") == [(1.0, 0.25), (0.0, 0.25), (0.0, 0.25), (1.0, 0.25)]
    account.charge(np.array([True]), np.ones(1, np.int64), np.array([-2]))  # a call that drops three tokens
    assert (account.spent[0], account.allowed[0]) == (3.0, 0.5)


def test_absolute_limits_are_allowed_from_the_start() -> None:
    account = budget(Constraint(Quantity.LATENCY_MS, 30.0))
    assert account.allowed[0] == 30.0
    assert play(account, "-c", unread=3) == [(1.0, 0.0), (10.0, 0.0)]
    assert account.milliseconds[0] == 11.0
    assert account.money[0] == pytest.approx(0.13)
    assert account.left()[0] == pytest.approx(19 / 8)


@pytest.mark.parametrize("quantity", list(Quantity))
def test_without_a_limit_all_that_is_spent_is_allowed(quantity: Quantity) -> None:
    account = budget(Constraint(quantity, math.inf), hard=True)
    play(account, "c-c")
    assert account.spent[0] == account.allowed[0] > 0
    assert account.left()[0] == CAP
    assert account.rule[0, -1] == 1.0
    assert account.affordable(np.ones(1, np.int64))[0]


def test_what_is_left_stays_within_the_cap() -> None:
    account = budget(Constraint(Quantity.PRICE, 1e6))
    assert account.left()[0] == CAP
    account = budget(Constraint(Quantity.PRICE, 0.01))
    play(account, "c" * 50, unread=100)
    assert account.left()[0] == -CAP


def test_rules_that_need_a_table_or_prices_say_so() -> None:
    account = Budget(1, CAP, CostModel(), hard=False)
    with pytest.raises(ValueError, match=r"limits time.*expected latency=.*got None"):
        account.check(Constraint(Quantity.LATENCY_MS, 50.0))
    with pytest.raises(ValueError, match=r"limits money.*prices=.*got None"):
        account.check(Constraint(Quantity.PRICE, 1.0))
    account.check(Constraint(Quantity.CALLS, 3))
