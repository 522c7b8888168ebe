"""A student that is held still while it learns to ask: only what asks and what reads rules may move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agents.joint.reading import Ids
from agents.joint.wording import FREE, NEVER
from tw_env.decoding.reading import RuleReader
from tw_env.rules import Constraint, Quantity, paraphrases


def rule_tokens(reader: RuleReader, limits: Iterable[float], texts: Iterable[Ids]) -> list[int]:
    """Token ids, in order, that stand in rules of these limits (calls per token) and in none of the `texts`.

    What rules share with prompts and outputs, such as a start token, belongs to the writing.
    """
    words = {
        token
        for limit in (*limits, NEVER, FREE)
        for sentence in paraphrases(Constraint(Quantity.CALLS_PER_TOKEN, limit), False)
        for token in reader.ids(sentence)
    }
    return sorted(words.difference(*texts))


class Held:
    """Holds a student still but for some rows of its embedding and its head.

    Call `mask` between the backward pass and the optimisers' steps, so that the norm of the gradient is that of the
    free rows alone, and `put_back` behind the steps, since an optimiser's momentum moves weights without a gradient.

    Args:
        student: the model that is trained.
        rows: ids of tokens whose rows are free.
    """

    def __init__(self, student: PreTrainedModel, rows: Sequence[int]) -> None:
        tables = {id(t): t for t in (student.get_input_embeddings().weight, student.get_output_embeddings().weight)}
        self._tables = list(tables.values())
        self._others = [p for p in student.parameters() if id(p) not in tables]
        self._fixed = torch.ones(len(self._tables[0]), dtype=torch.bool)
        self._fixed[list(rows)] = False
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def mask(self) -> None:
        """Drop the gradient of all that is held, and remember it as it is."""
        for parameter in self._others:
            if parameter.grad is not None:
                parameter.grad.zero_()
        for table in self._tables:
            if table.grad is not None:
                table.grad[self._fixed.to(table.device)] = 0.0
        self._kept = [parameter.detach().clone() for parameter in (*self._others, *self._tables)]

    @torch.no_grad()
    def put_back(self) -> None:
        """Restore all that is held."""
        others = len(self._others)
        for parameter, kept in zip(self._others, self._kept[:others], strict=True):
            parameter.copy_(kept)
        for table, kept in zip(self._tables, self._kept[others:], strict=True):
            fixed = self._fixed.to(table.device)
            table[fixed] = kept[fixed]
        self._kept = []
