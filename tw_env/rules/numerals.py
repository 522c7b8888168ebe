"""Numbers in words or digits: 'twenty-five', 'a dozen', '2.5', 'two thirds', '1/10', 'one and a half', 'tenth'."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from tw_env.rules.constraint import RuleError
from tw_env.rules.lexer import Token

UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ORDINALS = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
).split()
TENTHS = ["twentieth", "thirtieth", "fortieth", "fiftieth", "sixtieth", "seventieth", "eightieth", "ninetieth"]

CARDINAL = {word: value for value, word in enumerate(UNITS)}
ROUND = {word: 10 * value for value, word in enumerate(TENS, start=2)}
MULTIPLE = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 1_000_000}
ORDINAL = {
    **{word: value for value, word in enumerate(ORDINALS)},
    **{word: 10 * value for value, word in enumerate(TENTHS, start=2)},
    "hundredth": 100,
    "thousandth": 1000,
}
# "a second" is a time and "a first" no part, so fractions start at the half
PART = {"half": 2, "quarter": 4} | {word: value for word, value in ORDINAL.items() if value > 2}
PARTS = {word + "s": value for word, value in PART.items() if word != "half"} | {"halves": 2}


class Numeral(NamedTuple):
    """A number that was read: its value, whether it is a part of a whole ('a tenth'), where reading goes on."""

    value: Fraction
    part: bool
    end: int


def read_numeral(tokens: Sequence[Token], at: int) -> Numeral | None:
    """The longest number that starts at `at`, or None. RuleError for a division by zero."""
    part = _read_part(tokens, at)
    if part is not None:
        if _text(tokens, part.end) in ("a", "an") and _text(tokens, part.end + 1) == "dozen":
            return Numeral(12 * part.value, False, part.end + 2)  # half a dozen
        return part
    cardinal = _read_cardinal(tokens, at)
    if cardinal is None:
        return None
    value, end = cardinal
    if value.denominator == 1:
        joined = _text(tokens, end) == "and"
        rest = _read_part(tokens, end + joined)
        if rest is not None and rest.value < 1 and (joined or (tokens[at].whole and tokens[end].value is not None)):
            return Numeral(value + rest.value, False, rest.end)  # two and a half, 1½, 1 1/2
    return Numeral(value, False, end)


def read_ordinal(tokens: Sequence[Token], at: int) -> tuple[int, int] | None:
    """'tenth', 'twenty-fifth' or '20th' at `at` as (value, end), or None."""
    if at < len(tokens) and tokens[at].ordinal:
        value = tokens[at].value or Fraction(0)
        return (int(value), at + 1) if value.denominator == 1 else None
    word, following = _text(tokens, at), _text(tokens, at + 1)
    if word in ROUND and 0 < ORDINAL.get(following, 0) < 10:
        return ROUND[word] + ORDINAL[following], at + 2
    return (ORDINAL[word], at + 1) if word in ORDINAL else None


def in_words(number: int) -> str:
    """English for 0 <= number <= 100."""
    if number == 100:
        return "one hundred"
    if number < 20:
        return UNITS[number]
    tens, unit = divmod(number, 10)
    return TENS[tens - 2] + (f" {UNITS[unit]}" if unit else "")


def _read_cardinal(tokens: Sequence[Token], at: int) -> tuple[Fraction, int] | None:
    """Whole numbers and decimals: '12', '0.5', 'two hundred and six', 'a dozen', 'two point five'."""
    small = _read_small(tokens, at)
    if small is None:
        if _text(tokens, at) in ("a", "an") and _text(tokens, at + 1) in MULTIPLE:
            value, end = Fraction(1), at + 1
        elif _text(tokens, at) in MULTIPLE:
            value, end = Fraction(1), at
        elif _text(tokens, at) == "point" and CARDINAL.get(_text(tokens, at + 1), 10) < 10:
            value, end = Fraction(0), at
        else:
            return None
    else:
        value, end = small
    while (multiple := MULTIPLE.get(_text(tokens, end))) is not None:
        value, end = value * multiple, end + 1
        rest_at = end + 1 if _text(tokens, end) == "and" else end
        if multiple > 12 and not _digits(tokens, rest_at) and _read_part(tokens, rest_at) is None:
            rest = _read_cardinal(tokens, rest_at)
            if rest is not None and 0 < rest[0] < multiple:
                value, end = value + rest[0], rest[1]
    if _text(tokens, end) == "point":
        scale = Fraction(1, 10)
        while (digit := CARDINAL.get(_text(tokens, end + 1), 10)) < 10:
            value, scale, end = value + digit * scale, scale / 10, end + 1
        end += scale < Fraction(1, 10)
    return value, end


def _read_small(tokens: Sequence[Token], at: int) -> tuple[Fraction, int] | None:
    """Digits, or a number word below one hundred."""
    if _digits(tokens, at):
        return tokens[at].value or Fraction(0), at + 1
    word, following = _text(tokens, at), _text(tokens, at + 1)
    if word in ROUND:
        unit = CARDINAL.get(following, 0)
        return (Fraction(ROUND[word] + unit), at + 2) if 0 < unit < 10 else (Fraction(ROUND[word]), at + 1)
    return (Fraction(CARDINAL[word]), at + 1) if word in CARDINAL else None


def _read_part(tokens: Sequence[Token], at: int) -> Numeral | None:
    """'a tenth', 'two thirds', '3 quarters', 'half', '½', '1/10', '1/10th'."""
    if at < len(tokens) and tokens[at].vulgar and tokens[at].value is not None:
        return Numeral(tokens[at].value or Fraction(0), True, at + 1)
    if at + 2 < len(tokens) and tokens[at].whole and tokens[at + 1].text == "/":
        above, below = tokens[at].value or Fraction(0), tokens[at + 2]
        if below.whole or below.ordinal:
            if not below.value:
                raise RuleError(f'"{tokens[at].text}/{below.text}" divides by zero')
            return Numeral(above / below.value, True, at + 3)
    word = _text(tokens, at)
    if word in ("half", "quarter"):
        return Numeral(Fraction(1, PART[word]), True, at + 1)
    if word in ("a", "an") and _text(tokens, at + 1) in PART:
        return Numeral(Fraction(1, PART[_text(tokens, at + 1)]), True, at + 2)
    small = _read_small(tokens, at)
    if small is None:
        return None
    value, end = small
    below_word = _text(tokens, end)
    if value == 1 and below_word in PART:
        return Numeral(Fraction(1, PART[below_word]), True, end + 1)
    return Numeral(value / PARTS[below_word], True, end + 1) if below_word in PARTS else None


def _digits(tokens: Sequence[Token], at: int) -> bool:
    return at < len(tokens) and tokens[at].value is not None and not (tokens[at].ordinal or tokens[at].vulgar)


def _text(tokens: Sequence[Token], at: int) -> str:
    return tokens[at].text if 0 <= at < len(tokens) else ""
