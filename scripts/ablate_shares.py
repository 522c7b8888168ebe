"""Whose texts a gate learns from beside the frozen pair: a small network, or the student's own ask tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from transformers import PreTrainedModel

from agents.joint.reading import Ids, Texts
from agents.joint.sampling import Writer
from agents.joint.shares import AskGate, Gate, Places, Row, SmallGate, fit_gate, judged, places_of
from agents.joint.student import asking_student, start_asking
from tw_env.settings import Settings, encode_prompts, load_models, load_task

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
RATE = 0.1  # at which ask tokens begin to ask


@dataclass(frozen=True)
class Recipe:
    """How gates are fitted.

    Attributes:
        words: of which student and teacher write a text each. tested: other words, of the student's own texts.
        updates: gradient steps. price: lambda, in nats per call.
    """

    words: int
    tested: int
    updates: int
    price: float
    device: str


class Shares:
    """Places of texts that student and teacher sampled, once for all shares and seeds.

    Raises:
        ValueError: more words than there are.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        words = recipe.words + recipe.tested
        task = load_task(Settings(task="pronounce", split="policy", limit=words))
        if len(task.prompts) < words:
            raise ValueError(f"Expected at most {len(task.prompts)} words in all (share_words + tested), got {words}.")
        self._pair, self._cap = load_models(Settings(task="pronounce", device=recipe.device)), task.max_new_tokens
        prompts = encode_prompts(task, self._pair, self._cap)
        learnt, held = prompts[: recipe.words], prompts[recipe.words :]
        self._texts = self._written(self._pair.student, learnt, 0)
        self._own, self._held = self._places(self._texts), self._places(self._written(self._pair.student, held, 2))
        self._theirs = self._places(self._written(self._pair.teacher, learnt, 1))

    def _written(self, writer: PreTrainedModel, prompts: Sequence[Ids], seed: int) -> Texts:
        longest, pair = max(map(len, prompts)), self._pair
        return Writer(writer, longest, self._cap, pair.end_tokens, pair.vocabulary).sample(
            prompts, np.random.default_rng(seed)
        )

    def _places(self, texts: Texts) -> Places:
        return places_of(self._pair.student, self._pair.teacher, texts, self._pair.vocabulary)

    @cached_property
    def _asking(self) -> PreTrainedModel:
        """The student with ask tokens as they begin; it writes as before."""
        student, _ = asking_student(self._pair.student, self._pair.tokenizer, reads_rules=False)
        start_asking(student, self._texts, RATE)
        return student

    def row(self, share: float, seed: int) -> Row:
        """Fit a small network and judge it on the student's own held-out texts."""
        return self._fitted(SmallGate(self._seen, seed=seed), share, seed)

    def ask_row(self, share: float, seed: int) -> Row:
        """As `row`, but what is fitted are the ask tokens' rows."""
        return self._fitted(AskGate(self._asking, self._seen, seed=seed), share, seed)

    @property
    def _seen(self) -> torch.Tensor:
        return torch.cat([self._own.features, self._theirs.features])

    def _fitted(self, gate: Gate, share: float, seed: int) -> Row:
        recipe = self._recipe
        fit_gate(gate, self._own, self._theirs, share, recipe.price, recipe.updates, seed=seed)
        return {**judged(gate, self._held, share, recipe.price), "places": len(self._held)}
