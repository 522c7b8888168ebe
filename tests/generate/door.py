"""Texts written through `generate(custom_generate=assisted)`, and by the models alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from tests.letters import PROMPTS
from tests.test_decoding_equivalence import generated
from tests.tiny import END
from tw_env.decoding.loading import Pair
from tw_env.generate import Assisted, assisted

CAP = 8
RULE = "ask the teacher for at most 20% of the tokens"


def batch(pair: Pair, prompts: Any) -> dict[str, torch.Tensor]:
    """The prompts, padded on the left."""
    pair.tokenizer.padding_side = "left"
    return dict(pair.tokenizer(list(prompts), padding=True, return_tensors="pt", return_token_type_ids=False))


def write(pair: Pair, prompts: Any = PROMPTS, door: Any = assisted, **options: Any) -> Assisted:
    """A batch by the student with its teacher, and all that is told of it."""
    defaults = {
        "max_new_tokens": CAP,
        "do_sample": False,
        "rule": RULE,
        "teacher": pair.teacher,
        "policy": "speculative",
    }
    options = defaults | {"tokenizer": pair.tokenizer} | options
    door = partial(door, tokenizer=options.pop("tokenizer"))
    return pair.student.generate(
        **batch(pair, prompts), custom_generate=door, return_dict_in_generate=True, **options
    )  # fmt: skip


def texts_of(out: Assisted) -> list[tuple[int, ...]]:
    """The new tokens of each row, without padding."""
    assert out.sequences is not None
    assert out.writers is not None
    assert out.tokens is not None
    new = out.sequences[:, -out.writers.shape[1] :].tolist()
    assert ((out.writers >= 0).sum(dim=1) == out.tokens).all()
    return [tuple(row[:count]) for row, count in zip(new, out.tokens.tolist(), strict=True)]


def alone(model: PreTrainedModel, pair: Pair, prompts: Any = PROMPTS) -> list[tuple[int, ...]]:
    """What the model's own `generate` writes."""
    return [generated(model, tuple(ids), CAP, END) for ids in pair.tokenizer(list(prompts)).input_ids]
