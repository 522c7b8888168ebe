"""Texts read in one padded pass, against the model's own forward pass of each."""

from __future__ import annotations

import pytest
import torch

from agents.joint.reading import Texts, chunks, join, log_distributions, states, steps_of
from tests.letters import pair_of

TEXTS = Texts([[2, 3, 4], [5], [6, 7]], [[8, 0], [9, 3, 2, 0], [0]])


def test_texts_are_laid_end_to_end() -> None:
    assert TEXTS.starts.tolist() == [0, 2, 6, 7]
    assert TEXTS.of_step.tolist() == [0, 0, 1, 1, 1, 1, 2]
    assert TEXTS.tokens.tolist() == [8, 0, 9, 3, 2, 0, 0]
    assert TEXTS.read_tokens == 4 + 4 + 2
    assert join([TEXTS, TEXTS.take([1])]).outputs == [*TEXTS.outputs, [9, 3, 2, 0]]
    assert steps_of(TEXTS, [2, 0]).tolist() == [6, 0, 1]


def test_distributions_are_those_of_the_model_on_each_text_alone() -> None:
    model = pair_of().teacher
    found = log_distributions(model, states(model, TEXTS), vocabulary=9)
    for i, (prompt, output) in enumerate(zip(TEXTS.prompts, TEXTS.outputs, strict=True)):
        logits = model(input_ids=torch.tensor([[*prompt, *output]])).logits[0, len(prompt) - 1 : -1, :9]
        mine = found[TEXTS.starts[i] : TEXTS.starts[i + 1]]
        assert torch.allclose(mine, logits.float().log_softmax(-1), atol=1e-6)


def test_chunks_take_every_text_once_and_keep_the_bound() -> None:
    texts = Texts([[2] * n for n in (5, 1, 4, 2, 9)], [[3, 0]] * 5)
    found = [rows.tolist() for rows in chunks(texts, 14)]
    assert sorted(row for rows in found for row in rows) == list(range(5))
    for rows in found:
        assert len(rows) == 1 or len(rows) * max(len(texts.prompts[row]) + 2 for row in rows) <= 14
    assert found[0] == [1, 3]


@pytest.mark.parametrize(("prompts", "outputs"), [([[1]], []), ([[]], [[1]]), ([[1]], [[]])])
def test_texts_without_tokens_are_refused(prompts: list[list[int]], outputs: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="Expected as many outputs as prompts"):
        Texts(prompts, outputs)
