"""Phrases to one upper limit: comparisons and negations first, then amounts, then whether they agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from tw_env.rules.constraint import UNDERSTOOD, Constraint, Quantity, RuleError, impossible
from tw_env.rules.lexer import tokenise
from tw_env.rules.lexicon import Role
from tw_env.rules.reading import AMOUNTS, Item, Reader

_LONGEST_QUOTE = 200  # characters of the sentence that an error repeats
_TOPIC = {Role.ASK, Role.CALLS, Role.TEACHER}
_COUNTS = {Role.COUNT, Role.TOKEN_COUNT, Role.NUMBER}
_AMOUNTS = AMOUNTS | {Role.EVERY}


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
    topic = bool(roles & _TOPIC)
    limits = [limit for clause in clauses for limit in _clause_limits(clause, topic)]
    finite = [limit for limit in limits if limit.value is not None]
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
    if Role.SELDOM in roles and not roles & {Role.AT_MOST, Role.BELOW, Role.ABOVE, Role.NO_MORE}:
        seldom = next(item.words for item in items if item.role is Role.SELDOM)
        raise RuleError(f'"{seldom}" sets no definite limit')
    if Role.HEDGE in roles and not (finite and finite[0].value):
        hedge = next(item.words for item in items if item.role is Role.HEDGE)
        raise RuleError(f'"{hedge}" needs a number beside it')
    quantity, value, words = (finite or limits)[0]
    limit = math.inf if value is None else _float(value, words)
    if complaint := impossible(quantity, limit):
        raise RuleError(f'"{words}" is impossible: {complaint}')
    return Constraint(quantity, limit, hard)


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
    has_amount = any(item.role in _AMOUNTS or item.role is Role.WINDOW for item in clause)
    roles = {item.role for item in clause}
    zero = _check_comparisons(clause, has_amount)
    _check_writer(clause)
    _check_manner(clause, roles, has_amount, topic)
    unlimited = [item for item in clause if item.role is Role.UNLIMITED]
    if unlimited and roles & {Role.NOT, Role.HARD_NOT}:
        raise RuleError(f'"not" and "{unlimited[0].words}" leave open what is allowed')
    limits = [_Limit(_unlimited_quantity(clause), None, item.words) for item in unlimited]
    if zero:
        limits.append(_zero(clause, roles, topic))
    if Role.NONE in roles:
        limits += [_Limit(Quantity.CALLS_PER_TOKEN, Fraction(0), item.words) for item in clause if item.role is Role.NONE]
    if has_amount:
        limits += _amount_limits(clause, roles, topic)
    return limits


def _check_comparisons(clause: Sequence[Item], has_amount: bool) -> bool:
    """Lets upper limits pass and refuses lower ones; True where a 'not' without comparison forbids asking at all."""
    negations = [item for item in clause if item.role in (Role.NOT, Role.HARD_NOT)]
    above = [item for item in clause if item.role in (Role.ABOVE, Role.NO_MORE)]
    upper = [item for item in clause if item.role in (Role.AT_MOST, Role.BELOW)]
    for place, item in enumerate(clause):
        sign = item.words in ("<", "<=", ">")
        if sign or item.role is Role.BELOW or item.words.endswith("than"):
            after = any(later.role in _AMOUNTS for later in clause[place:])
            before = any(earlier.role in AMOUNTS for earlier in clause[:place])
            if not after or (sign and before):
                raise RuleError(f'"{item.words}" has no limit after it')
    if len(negations) > len(above) + (not above):
        quoted = " and ".join(f'"{item.words}"' for item in negations)
        raise RuleError(f"{quoted} are more negations than can be read")
    if len(above) > len(negations):
        raise RuleError(f'"{above[0].words}" asks for a lower bound, and a rule is an upper limit')
    if above and any(item.role is Role.BELOW for item in clause):
        raise RuleError(f'"{above[0].words}" and "less" point in opposite directions')
    if not negations or above:
        return False
    if upper:
        raise RuleError(f'"{negations[0].words}" with "{upper[0].words}" asks for a lower bound, and a rule is an upper limit')
    if has_amount:
        raise RuleError(f'"{negations[0].words}" with a number needs "more than" to be an upper limit')
    return True


def _check_writer(clause: Sequence[Item]) -> None:
    """What is written must be written by the teacher; one's own text is not limited by a rule."""
    roles = {item.role for item in clause}
    alone = Role.NONE in roles or (roles & _TOPIC and any(item.words == "without" for item in clause))
    if alone and not roles & _AMOUNTS or roles & {Role.TIME, Role.MONEY}:
        return
    for place, item in enumerate(clause):
        if item.role not in (Role.WRITE, Role.WRITTEN):
            continue
        before = [other.role for other in reversed(clause[:place]) if other.role in (Role.TEACHER, Role.YOU)]
        after = [other.role for other in clause[place:] if other.role in (Role.TEACHER, Role.YOU)]
        writers = after + before if item.role is Role.WRITTEN or item.words.endswith("from") else before + after
        if not writers or writers[0] is not Role.TEACHER:
            raise RuleError(f'"{item.words}": a rule limits what the teacher writes')


def _check_manner(clause: Sequence[Item], roles: set[Role], has_amount: bool, topic: bool) -> None:
    compared = roles & {Role.AT_MOST, Role.BELOW, Role.ABOVE, Role.NO_MORE}
    if has_amount and not compared and roles & {Role.MUST, Role.EQUALS}:
        word = next(item.words for item in clause if item.role in (Role.MUST, Role.EQUALS))
        raise RuleError(f'"{word}" demands the amount; a rule is an upper limit, as in "at most"')
    if Role.KEEP in roles and not topic and not roles & {Role.TIME, Role.MONEY, Role.LATENCY, Role.PRICE, Role.COST}:
        raise RuleError("it does not say that the teacher is asked")
    for noun, units in (
        (Role.LATENCY, {Role.TIME}),
        (Role.MILLISECONDS, {Role.NUMBER, Role.TIME}),
        (Role.PRICE, {Role.NUMBER, Role.MONEY}),
        (Role.COST, {Role.MONEY}),
        (Role.PAY, {Role.MONEY}),
    ):
        if noun not in roles or Role.UNLIMITED in roles or (noun is Role.PAY and not has_amount):
            continue
        if not roles & units or roles & (AMOUNTS - units):
            words = next(item.words for item in clause if item.role is noun)
            raise RuleError(f'"{words}" goes with a time or an amount of money')


def _unlimited_quantity(clause: Sequence[Item]) -> Quantity:
    words = set(" ".join(item.words for item in clause).split())
    if words & {"spend", "spends", "spending", "pay", "pays", "paying", "money", "price", "cost", "costs"}:
        return Quantity.PRICE
    if words & {"long", "time", "wait", "latency"}:
        return Quantity.LATENCY_MS
    if words & {"calls", "call", "questions", "queries"}:
        return Quantity.CALLS
    return Quantity.CALLS_PER_TOKEN


def _zero(clause: Sequence[Item], roles: set[Role], topic: bool) -> _Limit:
    """'Never' and its kin: no asking at all, or nothing to pay."""
    words = next(item.words for item in clause if item.role in (Role.NOT, Role.HARD_NOT))
    if Role.PAY in roles and not topic:
        return _Limit(Quantity.PRICE, Fraction(0), words)
    if not topic and words not in ("never", "never ever", "never once", "none", "not once", "not even once"):
        raise RuleError(f'"{words}" does not say what is forbidden')
    if not topic and roles & {Role.TOKENS, Role.TEXT, Role.OF_TEXT, Role.PER_OUTPUT}:
        raise RuleError(f'"{words}" does not say that asking the teacher is meant')
    return _Limit(Quantity.CALLS_PER_TOKEN, Fraction(0), words)


def _amount_limits(clause: Sequence[Item], roles: set[Role], topic: bool) -> list[_Limit]:
    """The amounts of one clause as limits: shares, times and prices each by itself, counts with their window."""
    limits = []
    windows = [item for item in clause if item.role in (Role.WINDOW, Role.EVERY)]
    counts = [item for item in clause if item.role in _COUNTS]
    single = {Role.SHARE: Quantity.CALLS_PER_TOKEN, Role.TIME: Quantity.LATENCY_MS, Role.MONEY: Quantity.PRICE}
    strict = Role.BELOW in roles
    for item in clause:
        if item.role in single:
            limits.append(_Limit(single[item.role], item.value, item.words))
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
    if not shares and roles & {Role.OF_TOKENS, Role.OF_TEXT, Role.TOKENS} and not roles & {Role.TOKEN_COUNT, Role.NUMBER}:
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
            raise RuleError(f'"{item.words}" has no unit: calls, percent of the tokens, ms, cents?')
    of_tokens = item.role is Role.TOKEN_COUNT or not roles & {Role.ASK, Role.CALLS}
    if of_tokens and item.role is not Role.COUNT and (not topic or Role.TEXT in roles):
        raise RuleError(f'"{item.words}" does not say that the teacher is asked for them')
    if strict:
        value = Fraction(math.ceil(value) - 1)
    return _Limit(Quantity.CALLS, value, item.words)
