"""The rows' rules while they play: what is spent, what is allowed, what can still be afforded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tw_env.costs import CostModel
from tw_env.rules import Constraint, Quantity

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

QUANTITIES = tuple(Quantity)
CALLS, FRACTION, LATENCY, PRICE = range(4)  # places in QUANTITIES
RULE_SIZE = len(QUANTITIES) + 1


class Budget:
    """Arrays over rows: each row's constraint and its account.

    The constraint is E[spent - allowed] <= 0. For a fraction, `allowed` is limit x written tokens (so a step's
    allowance is negative when tokens are dropped); for the absolute quantities it is the limit, from the reset on.
    Without a limit, whatever is spent is allowed, so that every sum stays finite.
    """

    def __init__(self, rows: int, cap: int, costs: CostModel, hard: bool) -> None:
        self.rows, self.cap, self.costs, self._always_hard = rows, cap, costs, hard
        free = Constraint(Quantity.CALLS_PER_TOKEN, np.inf)
        self.constraints: list[Constraint] = [free] * rows
        self.spent = np.zeros(rows)
        self.allowed = np.zeros(rows)
        self.calls = np.zeros(rows)
        self.milliseconds = np.zeros(rows)
        self.money = np.zeros(rows)
        self._first = np.ones(rows, bool)  # nothing is decided yet
        self.masked = False  # whether any row's rule can forbid a call
        # What follows from each rule that was ever set, and where a rule's numbers stand.
        self._places: dict[Constraint, int] = {}
        self._numbers, self._flags, self._rules = np.empty((5, 0)), np.empty((2, 0), bool), np.empty((0, RULE_SIZE))
        self._row_numbers, self._row_flags = np.zeros((5, rows)), np.zeros((2, rows), bool)
        self.quantity, self._rate, self._most_calls, self._unit, _ = self._row_numbers
        self._free, self._hard = self._row_flags
        self._rule = np.zeros((rows, RULE_SIZE), np.float32)
        self._only_calls, self._any_free = True, True
        self._nothing = np.zeros(rows)
        self.reset(np.arange(rows), self.constraints)
        assert QUANTITIES == (Quantity.CALLS, Quantity.CALLS_PER_TOKEN, Quantity.LATENCY_MS, Quantity.PRICE)

    def check(self, constraint: Constraint) -> None:
        """Raises ValueError if this rule's quantity can't be measured here."""
        if constraint.quantity == Quantity.LATENCY_MS and self.costs.latency is None:
            raise ValueError(
                f"The rule {str(constraint)!r} limits time, which needs a latency table: expected latency=..., "
                "got None. Measure one with tw_env.decoding.latency.measure(pair)."
            )
        if constraint.quantity == Quantity.PRICE and self.costs.prices is None:
            raise ValueError(
                f"The rule {str(constraint)!r} limits money, which needs prices: expected "
                "prices={'call': ..., 'read': ..., 'written': ...}, got None."
            )

    def reset(self, rows: IntArray, constraints: Sequence[Constraint]) -> None:
        """Begin new accounts under these rules.

        Raises:
            ValueError: as `check`; nothing has changed then.
        """
        places = np.array([self._place_of(constraint) for constraint in constraints], np.int64)
        for row, constraint in zip(rows.tolist(), constraints, strict=True):
            self.constraints[row] = constraint
        self._row_numbers[:, rows] = self._numbers[:, places]
        self._row_flags[:, rows] = self._flags[:, places]
        self._rule[rows] = self._rules[places]
        for account in (self.spent, self.calls, self.milliseconds, self.money):
            account[rows] = 0.0
        self._first[rows] = True
        self.allowed[rows] = self._row_numbers[-1, rows]
        self.masked = bool(self._hard.any())
        self._only_calls = bool((self.quantity <= FRACTION).all())
        self._any_free = bool(self._free.any())

    def _place_of(self, constraint: Constraint) -> int:
        """Where a rule's numbers stand; they are worked out when it is first seen."""
        place = self._places.get(constraint)
        if place is None:
            self._learn(constraint)
            place = self._places[constraint] = len(self._places)
        return place

    def _learn(self, constraint: Constraint) -> None:
        self.check(constraint)
        quantity, limit = QUANTITIES.index(constraint.quantity), constraint.limit
        free = bool(np.isinf(limit))
        hard = (self._always_hard or constraint.hard or limit == 0) and not free
        fraction = quantity == FRACTION and not free
        most_calls = np.inf
        if quantity == CALLS or limit == 0:
            most_calls = np.floor(limit)
        elif fraction:
            most_calls = max(1, np.floor(limit * self.cap + 1e-9))
        unit = self.call_cost(constraint.quantity)
        allowed = 0.0 if quantity == FRACTION or free else limit
        numbers = quantity, limit if fraction else 0.0, most_calls, unit, allowed
        relative = min(limit / (1.0 if quantity == FRACTION else self.cap * unit), 1.0)
        self._numbers = np.column_stack([self._numbers, numbers])
        self._flags = np.column_stack([self._flags, (free, hard)])
        self._rules = np.vstack([self._rules, [*(np.arange(len(QUANTITIES)) == quantity), relative]])

    def call_cost(self, quantity: Quantity) -> float:
        """What a call that reads one token costs, in the quantity's unit."""
        one, yes = np.ones(1, np.int64), np.ones(1, bool)
        if quantity == Quantity.LATENCY_MS and self.costs.latency is not None:
            return max(float(self.costs.latency.call(one)[0]), 1e-9)
        if quantity == Quantity.PRICE and self.costs.prices is not None:
            return max(float(self.costs.money(yes, one)[0]), 1e-9)
        return 1.0

    def _spend(self, called: BoolArray, unread: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(rows,) cost in each row's own quantity, milliseconds and money of one decision."""
        cost, nothing = called.astype(np.float64), self._nothing
        time = nothing
        if self.costs.latency is not None:
            time = self.costs.milliseconds(called, unread, self._first, self.calls == 0)
        money = nothing if self.costs.prices is None else self.costs.money(called, unread)
        if not self._only_calls:
            cost = np.where(self.quantity == LATENCY, time, np.where(self.quantity == PRICE, money, cost))
        return cost, time, money

    def charge(self, called: BoolArray, unread: IntArray, grown: IntArray) -> tuple[FloatArray, FloatArray]:
        """Book one decision of every row.

        Args:
            called: (rows,) whether the teacher was called. unread: tokens that it had not read before.
            grown: change of the number of written tokens.

        Returns:
            cost and allowance of the step, (rows,) each.
        """
        cost, time, money = self._spend(called, unread)
        allowance = self._rate * grown
        if self._any_free:
            allowance = np.where(self._free, cost, allowance)
        for account, booked in (
            (self.spent, cost), (self.allowed, allowance), (self.calls, called),
            (self.milliseconds, time), (self.money, money),
        ):  # fmt: skip
            if booked is not self._nothing:
                account += booked
        self._first[:] = False
        return cost, allowance

    def affordable(self, unread: IntArray) -> BoolArray:
        """(rows,) whether a call now would respect the rule; always true for rules that bind in expectation only."""
        fits = self.calls + 1 <= self._most_calls
        if not self._only_calls:
            after = self.spent + self._spend(np.ones(self.rows, bool), unread)[0]
            absolute = (self.quantity >= LATENCY) & ~self._free
            fits &= np.where(absolute, after <= self.allowed + 1e-9, True)
        return fits | ~self._hard

    @property
    def rule(self) -> NDArray[np.float32]:
        """(rows, quantities + 1) the quantity, one-hot, and the limit relative to a call at every token, in [0, 1]."""
        return self._rule

    def left(self) -> FloatArray:
        """(rows,) allowed - spent, in calls that read one token each, within [-cap, cap]; cap without a limit."""
        left = np.minimum(np.maximum((self.allowed - self.spent) / self._unit, -self.cap), self.cap)
        return np.where(self._free, self.cap, left) if self._any_free else left
