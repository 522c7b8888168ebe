"""A rule as data: a quantity, an upper limit, and whether it is hard."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class Quantity(StrEnum):
    """What a rule limits. Members compare equal to their names in lower case (`Quantity.CALLS == "calls"`)."""

    CALLS = "calls"  # teacher calls per output
    CALLS_PER_TOKEN = "calls_per_token"  # teacher calls as a fraction of the written tokens
    LATENCY_MS = "latency_ms"  # modelled milliseconds per output
    PRICE = "price"  # currency per output, in whatever currency the price table uses


UNDERSTOOD = """\
Understood is one upper limit for one output, in words or digits, in any order, for example:
  a number of teacher calls:     "ask the teacher at most 3 times", "no more than two calls", "once"
  a share of the tokens:         "at most 10% of the tokens", "one call per 20 tokens", "every second token at most"
  time or money for an output:   "use less than 50 ms", "half a second per output", "at most 2 cents per text"
  nothing, or no limit at all:   "never ask", "without help", "ask as often as you like"
Add "strictly" or "hard limit" to forbid calls that a single output can't afford."""


class RuleError(ValueError):
    """A rule that can't be read as one possible upper limit."""


@dataclass(frozen=True)
class Constraint:
    """An upper limit on what writing one output may spend.

    Args:
        quantity: What is limited (a `Quantity` or its name).
        limit: The largest allowed amount: a whole number of calls, a fraction of the written tokens in [0, 1],
            milliseconds (above 0), or currency units. `math.inf` means no limit.
        hard: True where calls that a single output can't afford are forbidden, False where the limit must be kept in
            expectation. A hard share counts the cap on tokens and always leaves one call (`tw_env.budget`).
            A limit of zero is always hard (nothing is spent on average only if nothing is ever spent), no
            limit never is; both are set here whatever was passed, so that equal rules compare equal.

    Raises:
        RuleError: The quantity is unknown, or the limit is impossible for it.
    """

    quantity: Quantity
    limit: float
    hard: bool = False

    def __post_init__(self) -> None:
        try:
            quantity = Quantity(self.quantity)
        except ValueError:
            names = ", ".join(f'"{member}"' for member in Quantity)
            raise RuleError(f"Expected a quantity among {names}, got {self.quantity!r}.") from None
        limit = float(self.limit) + 0.0  # turns -0.0 into 0.0
        if complaint := impossible(quantity, limit):
            raise RuleError(f"Expected a possible limit for {quantity}, got {self.limit!r}: {complaint}.")
        object.__setattr__(self, "quantity", quantity)
        object.__setattr__(self, "limit", limit)
        object.__setattr__(self, "hard", limit == 0 or (bool(self.hard) and not math.isinf(limit)))

    @property
    def text(self) -> str:
        """The canonical sentence, which `parse` reads back as exactly this constraint."""
        return canonical(self)

    def __str__(self) -> str:
        return self.text


def impossible(quantity: Quantity, limit: float) -> str:
    """Why `limit` can't hold for `quantity`, in words; empty where it can."""
    if math.isnan(limit):
        return "a limit is a number"
    if limit < 0:
        return "nothing can be spent less than zero times"
    if math.isinf(limit):
        return ""
    if quantity is Quantity.CALLS and limit != int(limit):
        return 'calls come in whole numbers (a rate is written as "one call per 20 tokens")'
    if quantity is Quantity.CALLS_PER_TOKEN and limit > 1:
        return "a share of the tokens is at most 100%"
    if quantity is Quantity.LATENCY_MS and limit == 0:
        return "an output takes time even without the teacher"
    return ""


def canonical(constraint: Constraint) -> str:
    """The canonical sentence of a constraint; `parse(canonical(c)) == c` holds exactly for every constraint."""
    quantity, limit = constraint.quantity, constraint.limit
    if math.isinf(limit):
        return _WITHOUT_LIMIT[quantity]
    if quantity is Quantity.CALLS_PER_TOKEN and limit == 0:
        return "never ask the teacher"
    percent = quantity is Quantity.CALLS_PER_TOKEN
    sentence = _CANONICAL[quantity].format(decimal(limit, shift=2 if percent else 0))
    if quantity is Quantity.CALLS and limit == 1:
        sentence = sentence.replace("times", "time")
    return f"hard limit: {sentence}" if constraint.hard and limit > 0 else sentence


def decimal(number: float, shift: int = 0) -> str:
    """Shortest exact decimal digits of number * 10**shift, never in exponent notation."""
    text = format(Decimal(repr(float(number))).scaleb(shift), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


_WITHOUT_LIMIT = {
    Quantity.CALLS: "make any number of calls",
    Quantity.CALLS_PER_TOKEN: "ask the teacher as often as you like",
    Quantity.LATENCY_MS: "take as long as you like",
    Quantity.PRICE: "spend as much as you like",
}
_CANONICAL = {
    Quantity.CALLS: "ask the teacher at most {} times per output",
    Quantity.CALLS_PER_TOKEN: "ask the teacher for at most {}% of the tokens",
    Quantity.LATENCY_MS: "use at most {} ms per output",
    Quantity.PRICE: "a price of at most {} per output",
}
