"""A student that is held still while it learns to ask: only what asks and what reads rules may move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
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
        student: the model that is trained. One table for reading and writing is parted, or rules could not be read
            anew without rewriting what is written; so make optimisers afterwards.
        asks: ids of tokens whose rows of the head are free. read: ids of tokens whose rows of the embedding are.
    """

    def __init__(self, student: PreTrainedModel, asks: Sequence[int], read: Sequence[int]) -> None:
        embedding, head = student.get_input_embeddings(), student.get_output_embeddings()
        if head.weight is embedding.weight:
            head.weight = nn.Parameter(embedding.weight.detach().clone())
            student.config.tie_word_embeddings = False
        self._tables = [embedding.weight, head.weight]
        self._others = [p for p in student.parameters() if all(p is not table for table in self._tables)]
        self._fixed = []
        for table, rows in zip(self._tables, (read, asks), strict=True):
            fixed = torch.ones(len(table), dtype=torch.bool, device=table.device)
            fixed[list(rows)] = False
            self._fixed.append(fixed)
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def mask(self) -> None:
        """Drop the gradient of all that is held, and remember it as it is."""
        for parameter in self._others:
            if parameter.grad is not None:
                parameter.grad.zero_()
        for table, fixed in zip(self._tables, self._fixed, strict=True):
            if table.grad is not None:
                table.grad[fixed] = 0.0
        self._kept = [parameter.detach().clone() for parameter in (*self._others, *self._tables)]

    @torch.no_grad()
    def put_back(self) -> None:
        """Restore all that is held."""
        others = len(self._others)
        for parameter, kept in zip(self._others, self._kept[:others], strict=True):
            parameter.copy_(kept)
        for table, fixed, kept in zip(self._tables, self._fixed, self._kept[others:], strict=True):
            table[fixed] = kept[fixed]
        self._kept = []
