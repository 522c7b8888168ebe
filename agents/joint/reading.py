"""Texts laid end to end, and the states in which a model writes each of their tokens, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from agents.supervised import collate_sources
from tw_env.decoding.probe import Anatomy, examine
from tw_env.decoding.session import NEVER, Session

Ids = Sequence[int]
PASS_TOKENS = 4096  # of a pass, padding included


@dataclass(frozen=True)
class Texts:
    """Prompts and what was written after each. Step i is one written token; texts follow each other.

    Attributes:
        prompts: token ids, at least one each; what an encoder reads, if there is one. outputs: token ids, at least one
            each, the end token included where the text ended.

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
        """Tokens that a model reads to score them: prompts and outputs, but for each last token; an opening is none."""
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
    """Places of texts of similar lengths, so many that a padded pass holds at most `tokens`, and at least one.

    An encoder-decoder pads prompts and outputs apart, so that a pass of one may hold somewhat more.
    """
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
    is no dropout. Padding stands on the right, where a causal model and a decoder never look. An encoder reads each
    prompt once, however many texts it has.
    """
    anatomy = anatomy_of(model)
    opening = anatomy.conventions.opening
    starts = [opening] * len(texts) if opening else texts.prompts  # what stands before the written tokens
    width = max(len(start) + len(output) for start, output in zip(starts, texts.outputs, strict=True)) - 1
    inputs = np.zeros((len(texts), width), np.int64)
    for i, (start, output) in enumerate(zip(starts, texts.outputs, strict=True)):
        inputs[i, : len(start) + len(output) - 1] = [*start, *output[:-1]]
    first = np.array([len(start) - 1 for start in starts])  # the place that chooses the first written token
    rows, firsts = texts.of_step.numpy(), texts.starts.numpy()
    places = np.arange(len(rows)) - firsts[rows] + first[rows] + width * rows
    sources = {} if anatomy.encoder is None else _read(anatomy, texts.prompts)
    hidden = anatomy.base(
        input_ids=torch.from_numpy(inputs).to(anatomy.device), use_cache=False, **sources
    ).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, torch.from_numpy(places).to(anatomy.device))


def all_states(model: PreTrainedModel, texts: Texts, tokens: int = PASS_TOKENS) -> Tensor:
    """As `states`, in passes of texts of similar lengths that hold about so many tokens, so that little is padding."""
    found, steps = [], []
    for rows in chunks(texts, tokens):
        found.append(states(model, texts.take(rows)))
        steps.append(steps_of(texts, rows))
    order = torch.cat(steps).argsort()
    return torch.cat(found).index_select(0, order.to(found[0].device))


def _read(anatomy: Anatomy, prompts: Sequence[Ids]) -> dict[str, Tensor]:
    """What a decoder is told of its prompts: the encoder's states (texts, source, width), and where tokens stand."""
    assert anatomy.encoder is not None
    number = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    inputs, mask = (tensor.to(anatomy.device) for tensor in collate_sources(list(number)))
    read = anatomy.encoder(input_ids=inputs, attention_mask=mask).last_hidden_state
    which = torch.tensor([number[tuple(prompt)] for prompt in prompts], device=anatomy.device)
    return {"encoder_hidden_states": read.index_select(0, which), "encoder_attention_mask": mask[which]}


def scores(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """(steps, rows of the embedding) logits in states (steps, width); tokens that are never written have `NEVER`."""
    anatomy = anatomy_of(model)
    found, never = anatomy.logits(hidden).float(), anatomy.conventions.never
    return found.index_fill(-1, torch.tensor(never, device=found.device), NEVER) if never else found


def log_distributions(model: PreTrainedModel, hidden: Tensor, vocabulary: int | None = None) -> Tensor:
    """(steps, vocab) log-probabilities in states (steps, width), normalised over the first `vocabulary` tokens.

    Tokens beyond are padding of the embedding or the student's own, such as one that asks; None takes all.
    """
    return scores(model, hidden)[:, :vocabulary].log_softmax(-1)
