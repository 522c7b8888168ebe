"""Rules to train with: limits drawn at random and said in words that the student reads before its prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tw_env.decoding.reading import RuleReader
from tw_env.rules import Constraint, Quantity, paraphrases

NEVER, FREE = 0.0, math.inf


class Wording:
    """Draws limits on calls per token and ways to say them.

    Args:
        reader: turns sentences into the student's tokens.
        limits: what is trained on, each as likely.
        extremes: chance of "never", and again of "as often as you like".
        held_out: True for phrasings that training leaves out, False for the others, None for all.
    """

    def __init__(
        self, reader: RuleReader, limits: Sequence[float], extremes: float = 0.05, held_out: bool | None = False
    ) -> None:
        if not limits or not all(0 < limit < 1 for limit in limits):
            raise ValueError(f"Expected limits between 0 and 1 calls per token, got {list(limits)}.")
        self._reader, self._limits, self._extremes = reader, tuple(limits), extremes
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

    def before(self, words: Sequence[str], prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """The prompts as the student reads them."""
        return [self._reader.before(one, prompt) for one, prompt in zip(words, prompts, strict=True)]
