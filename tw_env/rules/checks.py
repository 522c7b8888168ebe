"""What a clause must keep to be an upper limit on asking the teacher: comparisons, negations, who writes, who asks."""

from __future__ import annotations

from collections.abc import Sequence

from tw_env.rules.constraint import RuleError
from tw_env.rules.lexicon import Role
from tw_env.rules.reading import AMOUNTS, Item

TOPIC = {Role.ASK, Role.CALLS, Role.TEACHER}
NEGATIONS = {Role.NOT, Role.HARD_NOT}
LIMITING = AMOUNTS | {Role.EVERY}  # what is a limit by itself
_INSERTED = {Role.HARD, Role.HEDGE, Role.AVERAGE, Role.PER_OUTPUT}
_BETWEEN = _INSERTED | {Role.FILLER, Role.PAUSE, Role.FOR, Role.OF_TOKENS, Role.OF_TEXT}  # "less than" and its amount
_MODALS = {"may", "can", "could", "might", "will", "would", "must", "should", "shall"}


def check_comparisons(clause: Sequence[Item], has_amount: bool) -> bool:
    """Lets upper limits pass and refuses lower ones; True where a 'not' without comparison forbids asking at all."""
    negations = [place for place, item in enumerate(clause) if item.role in NEGATIONS]
    upper = [item for item in clause if item.role in (Role.AT_MOST, Role.BELOW)]
    above = [item for item in clause if item.role in (Role.ABOVE, Role.NO_MORE)]
    for place, item in enumerate(clause):
        _check_order(clause, place)
        if item.role in (Role.ABOVE, Role.NO_MORE):
            negation = _negation_of(clause, place, negations)
            if negation is None:
                raise RuleError(f'"{item.words}" asks for a lower bound, and a rule is an upper limit')
            negations.remove(negation)
            if any(other.role is Role.BELOW for other in clause):
                raise RuleError(f'"{item.words}" and "less" point in opposite directions')
    if not negations:
        return False
    first = clause[negations[0]].words
    if len(negations) > 1 or above:
        raise RuleError(f'"{first}" is one negation more than can be read')
    if upper:
        raise RuleError(f'"{first}" with "{upper[0].words}" asks for a lower bound, and a rule is an upper limit')
    if has_amount:
        raise RuleError(f'"{first}" with a number needs "more than" to be an upper limit')
    after = clause[negations[0] + 1 : negations[0] + 2]
    if after and after[0].role is Role.MUST:
        raise RuleError(f'"{first} {after[0].words}" leaves open what is allowed')
    return True


def _check_order(clause: Sequence[Item], place: int) -> None:
    """'Less than', 'more than' and the signs come right before their amount: 'calls <= 3' and not '3 <= calls'."""
    item = clause[place]
    sign = item.words in ("<", "<=", ">")
    if not (sign or item.role is Role.BELOW or item.words.endswith("than")):
        return
    following = next((later.role for later in clause[place + 1 :] if later.role not in _BETWEEN), None)
    if following not in LIMITING or (sign and any(earlier.role in AMOUNTS for earlier in clause[:place])):
        raise RuleError(f'"{item.words}" has no limit after it')


def _negation_of(clause: Sequence[Item], place: int, negations: Sequence[int]) -> int | None:
    """Where the 'not' stands that turns the 'more than' at `place` into an upper limit."""
    for negation in reversed([earlier for earlier in negations if earlier < place]):
        between = clause[negation + 1 : place]
        pauses = [at for at, item in enumerate(between) if item.role is Role.PAUSE]
        if not pauses:
            return negation
        inserted = between[pauses[0] + 1 :]  # "never, under any circumstances, more than"
        if (
            clause[negation].words != "no"
            and inserted
            and (inserted[0].role in _INSERTED or inserted[0].words == "ever")
        ):
            return negation
    for negation in negations:  # "more than 3 calls are not allowed"
        pause = any(item.role is Role.PAUSE for item in clause[place:negation])
        if negation > place and not pause and clause[negation].words not in ("no", "without"):
            return negation
    return None


def check_writer(clause: Sequence[Item]) -> None:
    """What is written must be written by the teacher; one's own text is not limited by a rule."""
    roles = {item.role for item in clause}
    alone = Role.NONE in roles or (roles & TOPIC and any(item.words == "without" for item in clause))
    if (alone and not roles & LIMITING) or roles & {Role.TIME, Role.MONEY}:
        return
    for place, item in enumerate(clause):
        if item.role not in (Role.WRITE, Role.WRITTEN):
            continue
        before = [other.role for other in reversed(clause[:place]) if other.role in (Role.TEACHER, Role.YOU)]
        after = [other.role for other in clause[place:] if other.role in (Role.TEACHER, Role.YOU)]
        passive = item.role is Role.WRITTEN or item.words.endswith("from")  # "written by you", "come from the teacher"
        writers = after + before if passive else before
        if not writers or writers[0] is not Role.TEACHER:
            raise RuleError(f'"{item.words}": a rule limits what the teacher writes')


def check_asker(clause: Sequence[Item]) -> None:
    """'The teacher may ask' and 'you may be asked' turn the roles round."""
    for place, item in enumerate(clause):
        if item.role is not Role.ASK or place < 2:
            continue
        before, verb = clause[place - 2].role, clause[place - 1].words
        asks = before is Role.TEACHER and item.words in ("ask", "consult") and verb in _MODALS
        actors = [earlier.role for earlier in clause[:place] if earlier.role in (Role.TEACHER, Role.YOU)]
        asked = item.words in ("asked", "consulted") and verb in ("are", "be") and actors[-1:] == [Role.YOU]
        if asks or asked:
            raise RuleError(f'"{item.words}": a rule limits how often the teacher is asked')


def check_manner(clause: Sequence[Item], roles: set[Role], has_amount: bool, topic: bool) -> None:
    """Refuses amounts that are demanded, and nouns with an amount of another kind."""
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
        if noun not in roles or (Role.UNLIMITED in roles and not has_amount) or (noun is Role.PAY and not has_amount):
            continue
        if not roles & units or roles & (AMOUNTS - units):
            words = next(item.words for item in clause if item.role is noun)
            raise RuleError(f'"{words}" goes with a time or an amount of money')
