"""A writer against the model's own greedy decoding and against its distribution, also after its weights moved."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from agents.joint.sampling import Writer
from tests.letters import pair_of
from tests.tiny import END

PROMPTS = [[2], [3, 4, 5], [4], [9, 8, 7, 6], [2, 3]] * 3
NEW = 6


def reference(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    """Greedy decoding, the whole text read again at each place."""
    text = list(prompt)
    while len(text) < len(prompt) + NEW:
        text.append(int(model(input_ids=torch.tensor([text])).logits[0, -1].argmax()))
        if text[-1] == END:
            break
    return text[len(prompt) :]


def test_greedy_texts_are_the_models_own_before_and_after_a_change_of_weights() -> None:
    model = copy.deepcopy(pair_of().student)
    writer = Writer(model, 4, NEW, [END], rows=4, keep_prompts=20)
    assert writer.greedy(PROMPTS).outputs == [reference(model, prompt) for prompt in PROMPTS]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    writer.forget()
    changed = [reference(model, prompt) for prompt in PROMPTS]
    assert writer.greedy(PROMPTS).outputs == changed


def test_samples_follow_the_models_distribution_at_a_temperature() -> None:
    model = pair_of().student
    count, temperature = 20_000, 0.7
    texts = Writer(model, 1, 1, [END], rows=1024).sample([[3]] * count, np.random.default_rng(0), temperature)
    expected = (model(input_ids=torch.tensor([[3]])).logits[0, -1] / temperature).softmax(-1).numpy()
    seen = np.bincount(texts.tokens.numpy(), minlength=len(expected))
    spread = np.sqrt(np.maximum(expected * (1 - expected) * count, 1.0))
    assert (np.abs(seen - count * expected) < 4 * spread).all()


def test_a_sample_depends_on_the_generator_alone_and_not_on_its_neighbours() -> None:
    model = pair_of().student
    many = Writer(model, 4, NEW, [END], rows=16).sample(PROMPTS, np.random.default_rng(1))
    few = Writer(model, 4, NEW, [END], rows=2).sample(PROMPTS, np.random.default_rng(1))
    assert many.outputs == few.outputs
    part = Writer(model, 4, NEW, [END]).sample(PROMPTS, np.random.default_rng(1), part=slice(1, 3))
    assert (part.prompts, part.outputs) == (PROMPTS[1:3], many.outputs[1:3])
    assert all(END not in output[:-1] and len(output) <= NEW for output in many.outputs)


def test_tokens_beyond_the_vocabulary_are_never_written() -> None:
    writer = Writer(pair_of().student, 4, NEW, [END], vocabulary=5)
    assert max(map(max, writer.sample(PROMPTS * 20, np.random.default_rng(2)).outputs)) == 4


def test_what_makes_no_sense_is_refused() -> None:
    model = pair_of().student
    with pytest.raises(ValueError, match="Expected at least one end token"):
        Writer(model, 4, NEW, [])
    with pytest.raises(ValueError, match="Expected a temperature above 0"):
        Writer(model, 4, NEW, [END]).sample(PROMPTS, np.random.default_rng(0), 0.0)
