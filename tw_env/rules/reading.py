"""Tokens to phrases: numbers with their units, rates, and the set phrases of the lexicon, longest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tw_env.rules import lexicon
from tw_env.rules.constraint import RuleError
from tw_env.rules.lexer import Token
from tw_env.rules.lexicon import Role
from tw_env.rules.numerals import read_numeral, read_ordinal

_COUNTS = {Role.NUMBER, Role.COUNT, Role.TOKEN_COUNT}
AMOUNTS = {Role.NUMBER, Role.SHARE, Role.COUNT, Role.TOKEN_COUNT, Role.TIME, Role.MONEY}
_PAUSES = {",", "."}
_ALONE = {"", "at", "for", "on"}  # "for every second token" is a rate by itself, "per every second token" is none
_REFUSED = {
    Role.LOWER: '"{}" asks for a lower bound, and a rule is an upper limit',
    Role.EXACT: '"{}" asks for an exact amount, which is a lower bound as well; a rule is an upper limit',
    Role.VAGUE: '"{}" sets no definite limit',
    Role.ROUGHLY: '"{}" leaves open where the limit is',
    Role.STUDENT: '"{}": a rule limits what is asked of the teacher, not the student',
    Role.UNIT: '"{}" is nothing that a rule can limit or count by',
}


@dataclass(frozen=True)
class Item:
    """A phrase that was understood: its role, its words, its amount if it has one."""

    role: Role
    words: str
    value: Fraction = Fraction(0)


class Reader:
    """Reads a sentence from left to right into clauses of items; every token must belong to a phrase.

    Raises (all methods): RuleError with the bare reason.
    """

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.items: list[Item] = []

    def clauses(self) -> list[list[Item]]:
        """The sentence's clauses, split at full stops and at 'and', 'but' and the like."""
        at = 0
        clauses: list[list[Item]] = []
        while at < len(self.tokens):
            if self._word(at) in _PAUSES:
                item, end = Item(Role.BREAK if self._word(at) == "." else Role.PAUSE, ""), at + 1
            else:
                item, end = self._phrase(at)
            if item.role in _REFUSED:
                raise RuleError(_REFUSED[item.role].format(item.words))
            if item.role is Role.BREAK:
                clauses.append(self.items)
                self.items = []
            else:
                self.items.append(item)
            at = end
        return [clause for clause in [*clauses, self.items] if clause]

    def _phrase(self, at: int) -> tuple[Item, int]:
        longest = self._listed(at)
        if longest is not None and longest[1] - at > 1 and longest[0].role is not Role.UNIT:
            return longest
        found = self._of(at) or self._scope(at) or self._window(at) or self._amount(at) or self._more(at) or longest
        if found is None:
            connects = self._word(at) in lexicon.PREPOSITIONS | {
                "every",
                "each",
                "as",
                "than",
                "or",
                "less",
                "fewer",
                "more",
            }
            raise RuleError(f'"{self._quote(at, at + (3 if connects else 1))}" was not understood')
        return found

    def _listed(self, at: int) -> tuple[Item, int] | None:
        """The longest phrase of the lexicon that starts here."""
        for length in range(lexicon.LONGEST_PHRASE, 0, -1):
            words = tuple(token.text for token in self.tokens[at : at + length])
            if len(words) == length and (role := lexicon.PHRASES.get(words)) is not None:
                return Item(role, " ".join(words)), at + length
        return None

    def _window(self, at: int) -> tuple[Item, int] | None:
        """'per 20 tokens', 'out of every hundred', 'every second token', 'per token', 'in ten'."""
        end, every = at, False
        while self._word(end) in lexicon.PREPOSITIONS:
            end += 1
        prepositions = self._quote(at, end)
        if self._word(end) in ("every", "each"):
            end, every = end + 1, True
        if end == at and not self._a_token_each(at):
            return None
        if self._word(end) in ("a", "an", "single") and self._is_token(end + 1):
            end += 1
        if self._is_token(end):
            if (not every and prepositions not in ("per", "/", "")) or self._word(end) == "tokens":
                return None
            alone = every and prepositions in _ALONE
            return Item(Role.EVERY if alone else Role.WINDOW, self._quote(at, end + 1), Fraction(1)), end + 1
        nth = self._nth(end) if every else None
        if nth is not None and prepositions in _ALONE:
            return Item(Role.EVERY, self._quote(at, nth[1]), Fraction(nth[0])), nth[1]
        return self._window_of(at, end, prepositions, every)

    def _window_of(self, at: int, end: int, prepositions: str, every: bool) -> tuple[Item, int] | None:
        """A window whose length is a number; the preposition, or an amount just before, must call for one."""
        number = read_numeral(self.tokens, end)
        if number is None or number.part or prepositions not in ("", "per", "/", "in", "of", "out of", "for", "at"):
            return None
        tokens = self._is_token(number.end)
        if not tokens and self._unit(number.end) is not None:
            return None
        counts = [item.role in _COUNTS for item in self.items]
        if every:
            called_for = tokens or prepositions not in ("", "at")
        else:
            just_before = bool(counts) and counts[-1]
            called_for = (
                (just_before and tokens) if prepositions == "for" else prepositions != "at" and (tokens or any(counts))
            )
        if not called_for:
            return None
        if number.value.denominator != 1 or number.value < 1:
            raise RuleError(f'"{self._quote(at, number.end + tokens)}" needs a whole number of tokens, 1 or more')
        end = number.end + tokens
        alone = every and prepositions in ("", "at")
        return Item(Role.EVERY if alone else Role.WINDOW, self._quote(at, end), number.value), end

    def _a_token_each(self, at: int) -> bool:
        """'a token' right after a count, as in 'half a call a token'."""
        counted = bool(self.items) and self.items[-1].role is Role.COUNT
        return counted and self._word(at) in ("a", "an") and self._word(at + 1) == "token"

    def _nth(self, at: int) -> tuple[int, int] | None:
        """'second token', 'other token', '20th token' as (n, end)."""
        nth = (2, at + 1) if self._word(at) == "other" else read_ordinal(self.tokens, at)
        if nth is None or self._word(nth[1]) != "token":
            return None
        if nth[0] < 1:
            raise RuleError(f'"{self._quote(at, nth[1])}" counts from no token')
        return nth[0], nth[1] + 1

    def _of(self, at: int) -> tuple[Item, int] | None:
        """'of the tokens', 'of all tokens', 'of each answer', 'of the time'; 'of' may be left out after a fraction."""
        after_share = bool(self.items) and self.items[-1].role is Role.SHARE
        end = at + (self._word(at) == "of")
        if end == at and not (after_share and self._word(at) in ("the", "your", "all")):
            return None
        while self._word(end) in lexicon.DETERMINERS:
            end += 1
        noun, words = self._word(end), self._quote(at, end + 1)
        if noun == "tokens" or (
            noun == "token" and self._word(end - 1) not in ("of", "a", "an", "each", "every", "any")
        ):
            return Item(Role.OF_TOKENS, words), end + 1
        if noun in lexicon.OUTPUTS or (noun == "time" and end > at):
            return Item(Role.OF_TEXT, words), end + 1
        if noun in lexicon.COUNTED and after_share:
            raise RuleError(f'"{words}": a share is one of the tokens')
        return None

    def _scope(self, at: int) -> tuple[Item, int] | None:
        """'per output', 'for each text', 'an answer', 'the output'."""
        end = at + (self._word(at) in lexicon.PREPOSITIONS)
        preposition, start = end > at, end
        while self._word(end) in lexicon.DETERMINERS:
            end += 1
        if end == at or self._word(end) not in lexicon.OUTPUTS:
            return None
        subject = not preposition and self._word(start) in ("the", "your", "this", "that", "my")
        return Item(Role.TEXT if subject else Role.PER_OUTPUT, self._quote(at, end + 1)), end + 1

    def _amount(self, at: int) -> tuple[Item, int] | None:
        """A number together with its unit; 'once'; 'a call'; 'all tokens'."""
        word = self._word(at)
        if word in lexicon.TIMES:
            return Item(Role.COUNT, word, Fraction(lexicon.TIMES[word])), at + 1
        if word == "all" and (of_all := self._all(at)) is not None:
            return of_all
        prefix = at + 1 if word in lexicon.PREFIXES else at
        number = read_numeral(self.tokens, prefix)
        if number is None and word in ("a", "an") and prefix == at:
            unit = self._unit(at + 1 + (self._word(at + 1) == "single"))
            return None if unit is None else (Item(unit[0], self._quote(at, unit[2]), unit[1]), unit[2])
        if number is None:
            return None
        if prefix > at:
            return Item(Role.MONEY, self._quote(at, number.end), number.value), number.end
        end = number.end + (self._word(number.end) == "single")
        article = False
        if number.part:
            end += self._word(end) == "of"
            article = self._word(end) in ("a", "an", "one")
            end += article
        unit = self._unit(end)
        if unit is not None and not (unit[0] is Role.TOKEN_COUNT and number.part and not article):
            return Item(unit[0], self._quote(at, unit[2]), number.value * unit[1]), unit[2]
        return Item(Role.SHARE if number.part else Role.NUMBER, self._quote(at, number.end), number.value), number.end

    def _all(self, at: int) -> tuple[Item, int] | None:
        end = at + 1 + (self._word(at + 1) == "of")
        end += self._word(end) in ("the", "your")
        return (
            (Item(Role.SHARE, self._quote(at, end + 1), Fraction(1)), end + 1) if self._word(end) == "tokens" else None
        )

    def _unit(self, at: int) -> tuple[Role, Fraction, int] | None:
        """The unit that stands at `at`: what it measures, its size in that measure's base unit, where it ends."""
        for words, parts in lexicon.PERCENT.items():
            if tuple(token.text for token in self.tokens[at : at + len(words)]) == words:
                return Role.SHARE, Fraction(1, parts), at + len(words)
        word = self._word(at)
        if word in lexicon.COUNTED:
            return Role.COUNT, Fraction(1), at + 1
        if self._is_token(at):
            return Role.TOKEN_COUNT, Fraction(1), at + 1
        if word in lexicon.MILLISECONDS:
            return Role.TIME, lexicon.MILLISECONDS[word], at + 1
        return (Role.MONEY, lexicon.CURRENCY[word], at + 1) if word in lexicon.CURRENCY else None

    def _more(self, at: int) -> tuple[Item, int] | None:
        """'more calls than', 'fewer tokens than', and a closing 'more'."""
        word, noun = self._word(at), self._word(at + 1)
        if word in ("more", "fewer", "less") and self._word(at + 2) == "than" and noun in lexicon.COUNTED | {"tokens"}:
            self.items.append(Item(Role.TOKENS if noun == "tokens" else Role.CALLS, noun))
            return Item(Role.ABOVE if word == "more" else Role.BELOW, self._quote(at, at + 3)), at + 3
        closing = at + 1 == len(self.tokens) or noun in _PAUSES or noun in ("please", "per")
        return (Item(Role.NO_MORE, word), at + 1) if word == "more" and closing else None

    def _is_token(self, at: int) -> bool:
        return self._word(at) in ("token", "tokens")

    def _word(self, at: int) -> str:
        return self.tokens[at].text if 0 <= at < len(self.tokens) else ""

    def _quote(self, start: int, end: int) -> str:
        return " ".join(token.text for token in self.tokens[start:end])
