"""Rules to train with: limits drawn at random and said in words that the student reads before its prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tw_env.decoding.reading import RuleReader
from tw_env.rules import Constraint, Quantity, paraphrases

NEVER, FREE = 0.0, math.inf
MISREAD_WORDS = 1 / 3  # share of the words of a misread rule that are replaced


class Wording:
    """Draws limits on calls per token and ways to say them.

    Args:
        reader: turns sentences into the student's tokens.
        limits: what is trained on, each as likely.
        extremes: chance of "never", and again of "as often as you like".
        held_out: True for phrasings that training leaves out, False for the others, None for all.
        misread: chance that a rule is read with random words in places of some of its own. A student that met only
            whole rules is thrown off by a word that none of them has, and no longer writes what it would.
        fillers: token ids that stand in for words then; none misreads nothing.
    """

    def __init__(
        self,
        reader: RuleReader,
        limits: Sequence[float],
        extremes: float = 0.05,
        held_out: bool | None = False,
        misread: float = 0.0,
        fillers: Sequence[int] = (),
    ) -> None:
        if not limits or not all(0 < limit < 1 for limit in limits):
            raise ValueError(f"Expected limits between 0 and 1 calls per token, got {list(limits)}.")
        self._reader, self._limits, self._extremes = reader, tuple(limits), extremes
        self._misread, self._fillers = misread if len(fillers) else 0.0, np.asarray(fillers, np.int64)
        self._sentences = {
            limit: paraphrases(Constraint(Quantity.CALLS_PER_TOKEN, limit), held_out)
            for limit in (*limits, NEVER, FREE)
        }

    def draw(self, generator: np.random.Generator, count: int) -> tuple[NDArray[np.float64], list[str]]:
        """(count,) limits, and a sentence for each."""
        kinds = generator.random(count)
        limits = np.array(self._limits)[generator.integers(len(self._limits), size=count)]
        limits = np.where(kinds < self._extremes, NEVER, np.where(kinds > 1 - self._extremes, FREE, limits))
        said = [self._sentences[limit] for limit in limits.tolist()]
        return limits, [sentences[int(generator.integers(len(sentences)))] for sentences in said]

    def before(
        self, generator: np.random.Generator, words: Sequence[str], prompts: Sequence[Sequence[int]]
    ) -> list[tuple[int, ...]]:
        """The prompts as the student reads them, some rules misread."""
        rules = [self._reader.ids(one) for one in words]
        wrong = generator.random(len(rules)) < self._misread
        rules = [self._misreading(generator, rule) if bad else rule for rule, bad in zip(rules, wrong, strict=True)]
        return [self._reader.join(rule, prompt) for rule, prompt in zip(rules, prompts, strict=True)]

    def _misreading(self, generator: np.random.Generator, rule: Sequence[int]) -> tuple[int, ...]:
        """A rule with random words in some places, but not where it begins: some tokenizers mark that."""
        drawn = generator.choice(self._fillers, size=len(rule))
        lost = generator.random(len(rule)) < MISREAD_WORDS
        lost[0] = False
        return tuple(np.where(lost, drawn, rule).tolist())
