"""A rule in words <-> a constraint: quantity, upper limit, hard or in expectation.

>>> from tw_env import rules
>>> constraint = rules.parse("please ask the teacher for no more than a tenth of the tokens")
>>> constraint.quantity, constraint.limit, constraint.hard
(<Quantity.CALLS_PER_TOKEN: 'calls_per_token'>, 0.1, False)
>>> str(constraint)
'ask the teacher for at most 10% of the tokens'
>>> rules.parse("ask at least three times")
Traceback (most recent call last):
    ...
tw_env.rules.constraint.RuleError: Can't read the rule "ask at least three times": "at least" asks for a lower ...

Reading order: `lexer` (signs and numbers), `numerals` (numbers in words), `lexicon` (what words do), `reading`
(phrases), `checks` (what makes them an upper limit), `grammar` (one limit), `constraint` (the result and its canonical
sentence), `templates` (the way back, for training).
"""

from tw_env.rules.constraint import UNDERSTOOD, Constraint, Quantity, RuleError, canonical
from tw_env.rules.grammar import parse
from tw_env.rules.templates import (
    EXTREME,
    HELD_OUT,
    RANGES,
    paraphrases,
    sample,
)

__all__ = [
    "EXTREME",
    "HELD_OUT",
    "RANGES",
    "UNDERSTOOD",
    "Constraint",
    "Quantity",
    "RuleError",
    "canonical",
    "paraphrases",
    "parse",
    "sample",
]
