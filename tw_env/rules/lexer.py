"""A sentence as tokens: words, numbers, ordinals such as 10th, signs and punctuation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from tw_env.rules.constraint import RuleError

LONGEST_TEXT = 2000  # characters; rules are sentences
LONGEST_NUMBER = 400  # digits; enough for every finite float written out

VULGAR = {
    "½": Fraction(1, 2), "¼": Fraction(1, 4), "¾": Fraction(3, 4), "⅓": Fraction(1, 3), "⅔": Fraction(2, 3),
    "⅕": Fraction(1, 5), "⅖": Fraction(2, 5), "⅗": Fraction(3, 5), "⅘": Fraction(4, 5), "⅙": Fraction(1, 6),
    "⅛": Fraction(1, 8), "⅒": Fraction(1, 10),
}  # fmt: skip
_SAME = {
    "’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "≤": "<=", "⩽": "<=", "≦": "<=", "=<": "<=", "≥": ">=",
    "⩾": ">=", "≧": ">=", "=>": ">=", "≈": "~", "⁄": "/", "–": "-", "—": "-", "−": "-", "_": " ", "\xa0": " ",
    "\u202f": " ", "\u2009": " ",
}  # fmt: skip
_LEXEME = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)? | [0-9]+[.,][0-9]+ | \.[0-9]+ | [0-9]+)
        (?P<exponent>e[+-]?[0-9]{1,3}(?![0-9]))? (?P<ordinal>(?:st|nd|rd|th)\b)?
      | (?P<word>[a-z]+(?:'[a-z]+)?)
      | (?P<sign><=|>=|==|[<>=~/%‰$€£¢∞&])
      | (?P<break>[.;!?])
      | (?P<pause>[,:()"'\[\]])
      | (?P<dash>-)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Token:
    """One lexeme: its text, its value if it is a number, and how the number was written."""

    text: str
    value: Fraction | None = None
    ordinal: bool = False  # 10th
    vulgar: bool = False  # ½

    @property
    def whole(self) -> bool:
        """A number written without a decimal sign or a fraction."""
        return (
            self.value is not None
            and not (self.ordinal or self.vulgar or "." in self.text)
            and (self.value.denominator == 1)
        )


def tokenise(text: str) -> list[Token]:
    """Tokens of a sentence; case, hyphens inside words, underscores and quotation marks make no difference.

    Raises:
        RuleError: A sign no rule has, a minus or a range, or a number too long (the message is the bare reason).
    """
    if len(text) > LONGEST_TEXT:
        raise RuleError(f"a rule has at most {LONGEST_TEXT} characters, this has {len(text)}")
    text = text.casefold()
    for sign, same in _SAME.items():
        text = text.replace(sign, same)
    tokens: list[Token] = []
    for match in _LEXEME.finditer(text):
        kind, lexeme = match.lastgroup, match.group()
        if kind == "other" and lexeme in VULGAR:
            tokens.append(Token(lexeme, VULGAR[lexeme], vulgar=True))
        elif kind == "other":
            raise RuleError(f'the sign "{lexeme}" has no meaning in a rule')
        elif kind in ("number", "exponent", "ordinal"):
            tokens.append(_number(match))
        elif kind == "dash":
            _check_dash(text, match.start())
        elif kind == "break":
            tokens.append(Token("."))
        elif kind == "pause":
            tokens.append(Token(","))
        elif kind != "space":
            tokens.append(Token(lexeme))
    return tokens


def _number(match: re.Match[str]) -> Token:
    digits, exponent = match["number"], match["exponent"] or ""
    if len(digits) > LONGEST_NUMBER:
        raise RuleError(f"a number has at most {LONGEST_NUMBER} digits")
    if re.fullmatch(r"[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?", digits):
        plain = digits.replace(",", "")  # 1,000
    else:
        plain = digits.replace(",", ".")  # 0,5 as much of the world writes it
    return Token(plain + exponent, Fraction(plain + exponent), ordinal=match["ordinal"] is not None)


def _check_dash(text: str, at: int) -> None:
    """Lets hyphens and dashes between words pass; a minus sign or a range is no upper limit."""
    after = text[at + 1 : at + 2]
    before = text[at - 1 : at] if at else ""
    hyphen = before.isalnum() and after.isalpha()
    if not (hyphen or after.isspace() or not after):
        raise RuleError(f'"{text[at : at + 12].strip()}" is a negative number or a range; a limit is one number')
