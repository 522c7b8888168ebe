"""What a text and its tokens are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Terms that a reward can be made of, and the decoding each of them fits.
TERMS: dict[str, tuple[str, ...]] = {
    "quality": ("greedy", "sampling"),
    "regret": ("greedy",),
    "kl": ("sampling",),
    "expected_kl": ("sampling",),
}
DEFAULT = {"greedy": "regret", "sampling": "kl"}


@dataclass(frozen=True)
class Reward:
    """A weighted sum of terms. The return of an episode is always the score of its final text.

    - `quality`: the task's metric in [0, 1], paid when the text ends.
    - `regret`: log p_T(y) - max log p_T of each token of the student's that stays (greedy decoding).
    - `kl`: log p_T(y) - log p_S(y) of each own token that stays, 0 where the teacher wrote or accepted (sampling).
    - `expected_kl`: -KL(p_S || p_T) at that place instead of its one-sample estimate (sampling).
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"quality": 1.0})

    @property
    def scored(self) -> bool:
        """Whether the teacher must score the student's tokens (bookkeeping, never a call)."""
        return any(self.weights.get(term, 0.0) for term in ("regret", "kl", "expected_kl"))

    @property
    def quality(self) -> float:
        return self.weights.get("quality", 0.0)

    def of_tokens(self, score: FloatArray, best: FloatArray, surprise: FloatArray, kl: FloatArray) -> FloatArray:
        """What student-written tokens are worth, elementwise, where they stay unaccepted.

        Args:
            score: log p_T of the token.
            best: log p_T of the teacher's own choice.
            surprise: -log p_S of the token.
            kl: KL(p_S || p_T) at its place.
        """
        total = np.zeros_like(score)
        if weight := self.weights.get("regret", 0.0):
            total += weight * (score - best)
        if weight := self.weights.get("kl", 0.0):
            total += weight * (score + surprise)
        if weight := self.weights.get("expected_kl", 0.0):
            total -= weight * kl
        return total

    def of_accepted(self, score: FloatArray, best: FloatArray) -> FloatArray:
        """What accepted tokens are worth: their regret (0 under exact acceptance); the KL terms pay nothing."""
        return self.weights.get("regret", 0.0) * (score - best)


def parse_reward(reward: str | Mapping[str, float] | None, decoding: str) -> Reward:
    """Read the `reward=` argument of an environment.

    Args:
        reward: a term's name, weights by name, or None for the default of the decoding.
        decoding: "greedy" or "sampling".

    Raises:
        ValueError: unknown terms, weights that are not finite, or a term that doesn't fit the decoding.
    """
    reward = DEFAULT[decoding] if reward is None else reward
    weights = dict(reward) if isinstance(reward, Mapping) else {str(reward): 1.0}
    for term, weight in weights.items():
        if term not in TERMS:
            raise ValueError(f"Expected a reward out of {', '.join(TERMS)} (or weights by name), got {term!r}.")
        if not (isinstance(weight, Real) and np.isfinite(float(weight))):
            raise ValueError(f"Expected a finite weight for the reward {term!r}, got {weight!r}.")
        if weight and decoding not in TERMS[term]:
            why = (
                "it would pay for the student's uncertainty, not for its errors; use 'regret'"
                if decoding == "greedy"
                else "it judges the greedy choice, not a sample; use 'kl' or 'expected_kl'"
            )
            raise ValueError(f"The reward {term!r} does not fit {decoding} decoding: {why}, or 'quality'.")
    if not any(weights.values()):
        raise ValueError(f"Expected a reward with at least one weight that is not 0, got {reward!r}.")
    return Reward(weights)
