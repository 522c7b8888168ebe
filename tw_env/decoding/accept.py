"""Which of the student's pending tokens the teacher accepts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

FORMS = (
    "'exact' (the teacher's own choice; in sampling the rejection rule of speculative sampling), "
    "'probability:P' (the teacher gives the token at least the probability P), "
    "'distance:D' (its log-probability lies at most D nats below the teacher's choice)"
)


@dataclass(frozen=True)
class Accept:
    """A rule for accepting tokens: `exact`, a least `probability`, or a greatest `distance` in nats.

    `exact` keeps the teacher's text: greedily by equality, in sampling by Leviathan et al. 2023 (arXiv 2211.17192).
    The other two are lossy. The rollback threshold of Big-Little decoding (Kim et al. 2023, arXiv 2302.07863)
    on -log p_T(y) is `probability` with P = exp(-threshold).
    """

    rule: str = "exact"
    value: float = 0.0

    def __str__(self) -> str:
        return self.rule if self.rule == "exact" else f"{self.rule}:{self.value:g}"

    @property
    def exact(self) -> bool:
        return self.rule == "exact"

    def greedy(self, best: IntArray, best_logprob: FloatArray, token: IntArray, score: FloatArray) -> BoolArray:
        """Elementwise: is the student's `token` accepted; `score` is its log p_T, `best` the teacher's choice."""
        if self.rule == "exact":
            return best == token
        return self._lossy(best_logprob, score)

    def sampled(
        self, best_logprob: FloatArray, score: FloatArray, surprise: FloatArray, uniforms: FloatArray
    ) -> BoolArray:
        """Elementwise, for sampled tokens: under `exact` with probability min(1, p_T / p_S)."""
        if self.rule == "exact":
            return uniforms < np.exp(np.minimum(score + surprise, 0.0))
        return self._lossy(best_logprob, score)

    def _lossy(self, best_logprob: FloatArray, score: FloatArray) -> BoolArray:
        if self.rule == "probability":
            return score >= math.log(self.value)
        return best_logprob - score <= self.value


def parse_accept(accept: str | Accept) -> Accept:
    """Read the `accept=` argument of an environment.

    Raises:
        ValueError: an unknown form, a probability outside (0, 1], or a negative distance.
    """
    if isinstance(accept, Accept):
        return accept
    rule, _, number = str(accept).partition(":")
    try:
        value = float(number) if number else math.nan
    except ValueError:
        value = math.nan
    if rule == "exact" and not number:
        return Accept()
    if rule == "probability" and 0 < value <= 1:
        return Accept(rule, value)
    if rule == "distance" and 0 <= value < math.inf:
        return Accept(rule, value)
    raise ValueError(f"Expected accept to be one of {FORMS}; got {accept!r}.")
