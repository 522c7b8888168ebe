"""Phrases to one upper limit: comparisons and negations first, then amounts, then whether they agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from tw_env.rules.checks import LIMITING, NEGATIONS, TOPIC, check_asker, check_comparisons, check_manner, check_writer
from tw_env.rules.constraint import UNDERSTOOD, Constraint, Quantity, RuleError, impossible
from tw_env.rules.lexer import tokenise
from tw_env.rules.lexicon import Role
from tw_env.rules.reading import Item, Reader

_COUNTS = {Role.COUNT, Role.TOKEN_COUNT, Role.NUMBER}
_LONGEST_QUOTE = 200  # characters of the sentence that an error repeats


class _Limit(NamedTuple):
    quantity: Quantity
    value: Fraction | None  # None: without limit
    words: str


def parse(text: str) -> Constraint:
    """The upper limit that a person reads in `text`.

    Understood are counts of teacher calls, shares of the written tokens, time and money per output, "never" and
    "as often as you like", in words or digits, polite or terse, in any order; `UNDERSTOOD` lists examples. Readings
    that a wording leaves open:

    - "Never", "don't ask" and "without help" limit `calls_per_token` to 0, "as often as you like" to infinity.
    - A number without a comparison ("10%", "twice") is read as an upper limit, unless it is demanded ("must").
    - "Fewer than 3 calls" means at most 2. For shares, time and money "less than" is "at most".
    - "Never more than 3 times" is "at most 3 times". `hard` comes from "strictly", "hard limit", "under no
      circumstances", "without exception" and the like alone (a limit of zero is always hard).
    - Calls, time and money count per output. Currencies are not converted: the price table has one.

    Args:
        text: One rule, usually a sentence; case does not matter.

    Raises:
        RuleError: `text` has no, more than one, or an impossible upper limit, or a part that is not understood. The
            message repeats it, says what was not understood, and lists what is.
    """
    if not isinstance(text, str):
        raise RuleError(f"Expected a rule as a sentence (str), got {type(text).__name__}.\n{UNDERSTOOD}")
    try:
        clauses = Reader(tokenise(text)).clauses()
        if not any(clauses):
            raise RuleError("it is empty")
        return _combine(clauses)
    except RuleError as reason:
        quote = text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + " ..."
        raise RuleError(f'Can\'t read the rule "{quote}": {reason}.\n{UNDERSTOOD}') from None


def _combine(clauses: Sequence[Sequence[Item]]) -> Constraint:
    """One constraint from all clauses; finite limits stand before 'as often as you like'."""
    items = [item for clause in clauses for item in clause]
    roles = {item.role for item in items}
    topic = bool(roles & TOPIC)
    limits = [limit for clause in clauses for limit in _clause_limits(clause, topic)]
    finite = [limit for limit in limits if limit.value is not None]
    if Role.SELDOM in roles and not roles & {Role.AT_MOST, Role.BELOW, Role.ABOVE, Role.NO_MORE}:
        seldom = next(item.words for item in items if item.role is Role.SELDOM)
        raise RuleError(f'"{seldom}" sets no definite limit')
    if not limits:
        raise RuleError("it has no upper limit")
    for limit in finite[1:]:
        if limit[:2] != finite[0][:2]:
            raise RuleError(f'"{finite[0].words}" and "{limit.words}" are two limits, and a rule has one')
    if finite and finite[0].value == 0 and len(finite) < len(limits):
        raise RuleError(f'"{finite[0].words}" contradicts the rest of it')
    hard = bool(roles & {Role.HARD, Role.HARD_NOT})
    if hard and Role.AVERAGE in roles:
        raise RuleError("a hard limit holds for each output and not on average")
    if Role.HEDGE in roles and not (finite and finite[0].value):
        hedge = next(item.words for item in items if item.role is Role.HEDGE)
        raise RuleError(f'"{hedge}" needs a number beside it')
    quantity, value, words = (finite or limits)[0]
    number = math.inf if value is None else _float(value, words)
    if complaint := impossible(quantity, number):
        raise RuleError(f'"{words}" is impossible: {complaint}')
    return Constraint(quantity, number, hard)


def _float(value: Fraction, words: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise RuleError(f'"{words}" is too large') from None
    if number == 0 and value != 0:
        raise RuleError(f'"{words}" is too small')
    return number


def _clause_limits(clause: Sequence[Item], topic: bool) -> list[_Limit]:
    """The limits of one clause; a clause without any is none, such as 'please' or 'and no more'."""
    has_amount = any(item.role in LIMITING or item.role is Role.WINDOW for item in clause)
    roles = {item.role for item in clause}
    zero = check_comparisons(clause, has_amount)
    check_writer(clause)
    check_asker(clause)
    check_manner(clause, roles, has_amount, topic)
    unlimited = [item for item in clause if item.role is Role.UNLIMITED]
    if unlimited and (roles & NEGATIONS or (has_amount and not unlimited[0].words.startswith(("as ", "whenever ")))):
        raise RuleError(f'"{unlimited[0].words}" and the rest of it leave open what is allowed')
    limits = [_Limit(_unlimited_quantity(clause), None, item.words) for item in unlimited]
    if zero:
        limits.append(_zero(clause, roles, topic))
    if Role.NONE in roles:
        limits += [
            _Limit(Quantity.CALLS_PER_TOKEN, Fraction(0), item.words) for item in clause if item.role is Role.NONE
        ]
    if has_amount:
        limits += _amount_limits(clause, roles, topic)
    return limits


def _unlimited_quantity(clause: Sequence[Item]) -> Quantity:
    words = set(" ".join(item.words for item in clause).split())
    if words & {"spend", "spends", "spending", "pay", "pays", "paying", "money", "price", "cost", "costs"}:
        return Quantity.PRICE
    if words & {"long", "time", "wait", "waiting", "latency", "delay"}:
        return Quantity.LATENCY_MS
    if words & {"calls", "call", "questions", "queries"}:
        return Quantity.CALLS
    return Quantity.CALLS_PER_TOKEN


def _zero(clause: Sequence[Item], roles: set[Role], topic: bool) -> _Limit:
    """'Never' and its kin: no asking at all, or nothing to pay."""
    words = next(item.words for item in clause if item.role in NEGATIONS)
    if Role.PAY in roles and not topic:
        return _Limit(Quantity.PRICE, Fraction(0), words)
    if not topic and words not in ("never", "never ever", "never once", "none", "not once", "not even once"):
        raise RuleError(f'"{words}" does not say what is forbidden')
    if not topic and roles & {Role.TOKENS, Role.TEXT, Role.OF_TEXT, Role.PER_OUTPUT}:
        raise RuleError(f'"{words}" does not say that asking the teacher is meant')
    return _Limit(Quantity.CALLS_PER_TOKEN, Fraction(0), words)


def _amount_limits(clause: Sequence[Item], roles: set[Role], topic: bool) -> list[_Limit]:
    """The amounts of one clause as limits: shares, times and prices each by itself, counts with their window."""
    windows = [item for item in clause if item.role in (Role.WINDOW, Role.EVERY)]
    counts = [item for item in clause if item.role in _COUNTS]
    single = {Role.SHARE: Quantity.CALLS_PER_TOKEN, Role.TIME: Quantity.LATENCY_MS, Role.MONEY: Quantity.PRICE}
    strict = Role.BELOW in roles
    limits = [_Limit(single[item.role], item.value, item.words) for item in clause if item.role in single]
    if limits and windows and not counts and windows[0].role is Role.WINDOW:
        raise RuleError(f'"{limits[0].words}" is not counted "{windows[0].words}"')
    if len(counts) > 1 or len(windows) > 1:
        first, second = (counts if len(counts) > 1 else windows)[:2]
        raise RuleError(f'"{first.words}" and "{second.words}" are two limits, and a rule has one')
    if windows:
        limits.append(_rate(counts[0] if counts else None, windows[0], topic))
    elif counts:
        limits.append(_count(counts[0], clause, roles, topic, strict))
    shares = [limit for limit in limits if limit.quantity is Quantity.CALLS_PER_TOKEN]
    if (
        not shares
        and roles & {Role.OF_TOKENS, Role.OF_TEXT, Role.TOKENS}
        and not roles & {Role.TOKEN_COUNT, Role.NUMBER}
    ):
        words = next(item.words for item in clause if item.role in (Role.OF_TOKENS, Role.OF_TEXT, Role.TOKENS))
        raise RuleError(f'"{words}" does not go with "{limits[0].words}"')
    if strict and any(limit.value == 0 for limit in limits if limit.quantity is not Quantity.CALLS):
        raise RuleError("nothing is less than zero")
    return limits


def _rate(count: Item | None, window: Item, topic: bool) -> _Limit:
    """'2 calls per 20 tokens', 'one in ten', 'every second token'."""
    if count is None:
        if window.role is not Role.EVERY:
            raise RuleError(f'"{window.words}" does not say how many calls')
        return _Limit(Quantity.CALLS_PER_TOKEN, 1 / window.value, window.words)
    if window.role is Role.EVERY and count.role is Role.NUMBER:  # "7 every tenth token", not "one in every ten"
        raise RuleError(f'"{count.words}" and "{window.words}" are two limits, and a rule has one')
    words = f"{count.words} {window.words}"
    if window.value == 1 and count.role is not Role.COUNT and not topic:
        raise RuleError(f'"{words}" does not say that the teacher is asked')
    if count.value.denominator != 1 and window.value != 1:
        raise RuleError(f'"{words}": calls come in whole numbers')
    return _Limit(Quantity.CALLS_PER_TOKEN, count.value / window.value, words)


def _count(item: Item, clause: Sequence[Item], roles: set[Role], topic: bool, strict: bool) -> _Limit:
    """A number of calls, or a number whose unit stands elsewhere in the clause."""
    value = item.value
    if item.role is Role.NUMBER:
        written_as_decimal = "." in item.words or value.denominator != 1
        if Role.PRICE in roles:
            return _Limit(Quantity.PRICE, value, item.words)
        if Role.MILLISECONDS in roles:
            return _Limit(Quantity.LATENCY_MS, value, item.words)
        if roles & {Role.OF_TOKENS, Role.OF_TEXT} and written_as_decimal:
            return _Limit(Quantity.CALLS_PER_TOKEN, value, item.words)
        if Role.OF_TEXT in roles or not roles & {Role.ASK, Role.CALLS, Role.OF_TOKENS, Role.TOKENS}:
            raise RuleError(f'"{item.words}" has no unit, such as calls, percent of the tokens, ms or cents')
    of_tokens = item.role is Role.TOKEN_COUNT or not roles & {Role.ASK, Role.CALLS}
    if of_tokens and item.role is not Role.COUNT and (not topic or Role.TEXT in roles):
        raise RuleError(f'"{item.words}" does not say that the teacher is asked for them')
    if strict:
        value = Fraction(math.ceil(value) - 1)
    return _Limit(Quantity.CALLS, value, item.words)
