"""Rules to train and test with: random constraints, and many ways to say each, some of them held out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tw_env.rules.constraint import Constraint, Quantity, canonical, decimal
from tw_env.rules.numerals import ORDINALS, in_words

#: Range that `sample` draws a limit from, log-uniform, by quantity: calls, share of tokens, milliseconds, currency.
RANGES: dict[Quantity, tuple[float, float]] = {
    Quantity.CALLS: (1, 20),
    Quantity.CALLS_PER_TOKEN: (0.01, 0.5),
    Quantity.LATENCY_MS: (10, 1000),
    Quantity.PRICE: (0.001, 1),
}
#: Chance that `sample` draws a limit of zero, and again that it draws no limit.
EXTREME = 0.05

#: Ways to say a limit. Placeholders: {n} the number, {percent} a share in percent, {whole} the same where it is a whole
#: number, {every} and {nth} a share of one in so many tokens. Where a number can't be filled in exactly, that way is
#: left out.
PHRASINGS: dict[Quantity, tuple[str, ...]] = {
    Quantity.CALLS_PER_TOKEN: (
        "ask the teacher for at most {percent} % of the tokens",
        "ask for no more than {percent} percent of the tokens",
        "at most {percent} % of the tokens",
        "the teacher may write up to {percent} % of the tokens",
        "{percent} % of the tokens or less",
        "max {percent} %",
        "never ask for more than {percent} % of the tokens",
        "please ask the teacher for only {percent} % of the tokens",
        "do not ask for more than {percent} percent of the text",
        "limit the calls to {percent} % of the tokens",
        "let the teacher help with {percent} % of the tokens at the most",
        "you can ask for up to {percent} percent of the answer",
        "at most {percent} % may be written by the teacher",
        "no more than {percent} % of the answer may be written with help from the teacher",
        "for {percent} percent of the tokens at the most you can use the teacher",
        "please let the teacher write only {percent} % of the text",
        "use help for {percent} percent or less",
        "ask at most {whole} times per one hundred tokens",
        "you may ask for up to {whole} of one hundred tokens",
        "at most one in {every} tokens",
        "one call per {every} tokens",
        "every {nth} token at most",
        "ask at most one time per {every} tokens",
        "for every {every} tokens you may ask one time",
        "only every {nth} token",
    ),
    Quantity.CALLS: (
        "ask the teacher at most {n} times per output",
        "no more than {n} calls",
        "max {n} requests",
        "you may ask up to {n} times",
        "please do not ask more than {n} times",
        "{n} calls or fewer per text",
        "use the teacher only {n} times",
        "{n} times at most",
        "for each output up to {n} calls",
        "call the teacher up to {n} times",
        "for each text only {n} requests",
    ),
    Quantity.LATENCY_MS: (
        "use at most {n} ms per output",
        "no more than {n} milliseconds",
        "take up to {n} ms for the answer",
        "max {n} ms",
        "keep within {n} ms per text",
        "please do not take more than {n} milliseconds",
        "the answer may take up to {n} milliseconds",
        "do not use more than {n} ms per answer",
    ),
    Quantity.PRICE: (
        "spend at most {n} dollars per output",
        "no more than {n} euros per text",
        "the answer may cost up to {n} dollars",
        "max {n} euros",
        "please do not pay more than {n} dollars",
        "{n} dollars or less per output",
        "pay no more than {n} euros for the text",
        "please spend only {n} dollars per answer",
    ),
}
#: Ways to say that the teacher is not asked at all.
NEVER = (
    "never ask the teacher",
    "do not ask the teacher",
    "don't ask",
    "no calls",
    "never ask",
    "without the teacher",
    "please do not ask for help",
    "no help from the teacher",
    "without any help",
    "no asking",
    "do not use help",
    "please never use the teacher",
    "write without asking the teacher",
)
#: Ways to say that asking has no limit.
ALWAYS = (
    "ask the teacher as often as you like",
    "as often as you like",
    "no limit",
    "ask as much as you like",
    "you may ask as often as you want",
    "ask without limit",
    "please ask as often as you like",
    "use the teacher as often as you want",
    "ask the teacher as much as you want",
    "you may use the teacher as much as you like",
)
#: Those of the phrasings above that a test of whether a student reads rules keeps from training. Each of their words
#: also stands in a phrasing that is trained on.
HELD_OUT: tuple[str, ...] = (
    "no more than {percent} % of the answer may be written with help from the teacher",
    "for {percent} percent of the tokens at the most you can use the teacher",
    "please let the teacher write only {percent} % of the text",
    "use help for {percent} percent or less",
    "for every {every} tokens you may ask one time",
    "only every {nth} token",
    "call the teacher up to {n} times",
    "for each text only {n} requests",
    "the answer may take up to {n} milliseconds",
    "do not use more than {n} ms per answer",
    "pay no more than {n} euros for the text",
    "please spend only {n} dollars per answer",
    "do not use help",
    "please never use the teacher",
    "write without asking the teacher",
    "ask the teacher as much as you want",
    "you may use the teacher as much as you like",
)


def sample(
    rng: np.random.Generator,
    quantities: Sequence[Quantity] = (Quantity.CALLS_PER_TOKEN,),
    extreme: float = EXTREME,
) -> Constraint:
    """A random constraint: one of `quantities`, its limit log-uniform over `RANGES` with two significant digits.

    Args:
        rng: Where the randomness comes from.
        quantities: What may be limited, each as likely.
        extreme: Chance of a limit of zero (where time is limited: the smallest of its range), and again of no limit.
    """
    quantity = Quantity(quantities[int(rng.integers(len(quantities)))])
    low, high = RANGES[quantity]
    kind, place = rng.random(2)
    if kind < extreme:
        return Constraint(quantity, low if quantity is Quantity.LATENCY_MS else 0.0)
    if kind < 2 * extreme:
        return Constraint(quantity, math.inf)
    limit = low * (high / low) ** place
    return Constraint(quantity, round(limit) if quantity is Quantity.CALLS else float(f"{limit:.2g}"))


def paraphrases(constraint: Constraint, held_out: bool | None = None) -> list[str]:
    """Sentences that `parse` reads as exactly this constraint, numbers in digits and, where short, in words.

    Args:
        constraint: What is said.
        held_out: True for the phrasings in `HELD_OUT` alone, False for the others alone, None for all.

    Returns:
        At least twelve for a share of the tokens and for "never" (`held_out=None`); at least one in any case but one:
        no phrasing of unlimited time or money, or of zero calls, is held out.
    """
    quantity, limit = constraint.quantity, constraint.limit
    templates: tuple[str, ...]
    if math.isinf(limit) or limit == 0:
        asking = quantity is Quantity.CALLS_PER_TOKEN
        extremes = ALWAYS if math.isinf(limit) else NEVER
        templates = extremes if asking else (canonical(constraint),)
    else:
        templates = PHRASINGS[quantity]
    chosen = [template for template in templates if held_out is None or (template in HELD_OUT) is held_out]
    sentences = [sentence for template in chosen for sentence in _filled(template, quantity, limit)]
    return [f"strictly {sentence}" for sentence in sentences] if constraint.hard and limit > 0 else sentences


def _filled(template: str, quantity: Quantity, limit: float) -> list[str]:
    """The template with its number in digits and in words; empty where the number doesn't fit it."""
    if "{n}" in template:
        if quantity is Quantity.CALLS and limit == 1:
            template = template.replace("times", "time").replace("calls", "call").replace("requests", "request")
        return [template.replace("{n}", number) for number in _spellings(limit)]
    if "{percent}" in template:
        return [template.replace("{percent}", number) for number in _spellings(limit, shift=2)]
    if "{whole}" in template:
        whole = round(100 * limit)
        times = template.replace("times", "time") if whole == 1 else template
        return [times.replace("{whole}", number) for number in _spellings(whole)] if whole / 100 == limit else []
    if "{every}" in template or "{nth}" in template:
        tokens = round(1 / limit) if limit > 0.001 else 0
        if not 2 <= tokens <= 100 or 1 / tokens != limit:
            return []
        if "{nth}" in template:
            return [template.replace("{nth}", ORDINALS[tokens])] if tokens <= 10 else []
        return [template.replace("{every}", number) for number in _spellings(tokens)]
    return [template]


def _spellings(number: float, shift: int = 0) -> list[str]:
    """number * 10**shift exactly in digits, and in words up to one hundred with at most two decimals."""
    digits = decimal(number, shift)
    whole, _, decimals = digits.partition(".")
    if len(whole) > 3 or int(whole) > 100 or len(decimals) > 2:
        return [digits]
    point = "".join(f" {in_words(int(digit))}" for digit in decimals)
    return [digits, in_words(int(whole)) + (f" point{point}" if point else "")]
