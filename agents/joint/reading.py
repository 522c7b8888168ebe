"""Texts laid end to end, and the states in which a causal model writes each of their tokens, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from tw_env.decoding.probe import Anatomy, examine
from tw_env.decoding.session import Session

Ids = Sequence[int]


@dataclass(frozen=True)
class Texts:
    """Prompts and what was written after each. Step i is one written token; texts follow each other.

    Attributes:
        prompts: token ids, at least one each. outputs: token ids, at least one each, the end token included where the
            text ended.

    Raises:
        ValueError: as many outputs as prompts are expected, none of either empty.
    """

    prompts: Sequence[Ids]
    outputs: Sequence[Ids]

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.outputs) or not all(map(len, (*self.prompts, *self.outputs))):
            raise ValueError(
                f"Expected as many outputs as prompts, and at least one token in each; got {len(self.prompts)} prompts "
                f"and {len(self.outputs)} outputs. An output that ends at once is the end token alone."
            )

    def __len__(self) -> int:
        return len(self.prompts)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(texts,) written tokens."""
        return np.array([len(output) for output in self.outputs], np.int64)

    @cached_property
    def starts(self) -> Tensor:
        """(texts + 1,) first step of each text, and the number of steps."""
        return torch.from_numpy(np.concatenate([[0], np.cumsum(self.lengths)]))

    @cached_property
    def of_step(self) -> Tensor:
        """(steps,) text of each step."""
        return torch.from_numpy(np.repeat(np.arange(len(self)), self.lengths))

    @cached_property
    def tokens(self) -> Tensor:
        """(steps,) written tokens."""
        return torch.tensor([token for output in self.outputs for token in output], dtype=torch.long)

    @property
    def read_tokens(self) -> int:
        """Tokens that a model reads to score them: prompts and outputs, but for each last token."""
        return sum(map(len, self.prompts)) + int(self.lengths.sum()) - len(self)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Texts:
        """The texts at these places, in this order."""
        return Texts([self.prompts[i] for i in rows], [self.outputs[i] for i in rows])


def join(parts: Sequence[Texts]) -> Texts:
    """All texts of several parts, in order."""
    return Texts([p for part in parts for p in part.prompts], [o for part in parts for o in part.outputs])


def steps_of(texts: Texts, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
    """(n,) steps of the texts at `rows`, one text after the other."""
    starts = texts.starts.tolist()
    return torch.cat([torch.arange(starts[i], starts[i + 1]) for i in rows]) if len(rows) else torch.arange(0)


def chunks(texts: Texts, tokens: int) -> Iterator[NDArray[np.int64]]:
    """Places of texts of similar lengths, so many that a padded pass holds at most `tokens`, and at least one."""
    lengths = np.array([len(p) + len(o) for p, o in zip(texts.prompts, texts.outputs, strict=True)])
    order = np.argsort(lengths, kind="stable")
    while order.size:
        padded = lengths[order] * np.arange(1, len(order) + 1)  # the last of a chunk is its longest
        count = max(1, int(np.searchsorted(padded, tokens, side="right")))
        yield order[:count]
        order = order[count:]


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """Base and head of a model in evaluation mode, checked against its own forward pass before its weights move.

    Raises:
        ValueError: models that a `Session` can't run.
    """
    anatomy = examine(model)
    if not anatomy.proven:
        Session(model, rows=1, capacity=3, prompt_memory=0)
    return anatomy


def states(model: PreTrainedModel, texts: Texts) -> Tensor:
    """(steps, width) hidden states from which each written token is chosen, with gradients where they are enabled.

    One padded pass: give texts of similar lengths (`chunks`). The model is in evaluation mode, in training too: there
    is no dropout. Padding stands on the right, where a causal model never looks.
    """
    anatomy = anatomy_of(model)
    width = max(len(p) + len(o) for p, o in zip(texts.prompts, texts.outputs, strict=True)) - 1
    inputs = np.zeros((len(texts), width), np.int64)
    for i, (prompt, output) in enumerate(zip(texts.prompts, texts.outputs, strict=True)):
        inputs[i, : len(prompt) + len(output) - 1] = [*prompt, *output[:-1]]
    first = np.array([len(prompt) - 1 for prompt in texts.prompts])  # the place that chooses the first written token
    rows, starts = texts.of_step.numpy(), texts.starts.numpy()
    places = np.arange(len(rows)) - starts[rows] + first[rows] + width * rows
    hidden = anatomy.base(input_ids=torch.from_numpy(inputs).to(anatomy.device), use_cache=False).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, torch.from_numpy(places).to(anatomy.device))


def log_distributions(model: PreTrainedModel, hidden: Tensor, vocabulary: int | None = None) -> Tensor:
    """(steps, vocab) log-probabilities in states (steps, width), normalised over the first `vocabulary` tokens.

    Tokens beyond are padding of the embedding or the student's own, such as one that asks; None takes all.
    """
    return anatomy_of(model).logits(hidden)[:, :vocabulary].float().log_softmax(-1)
