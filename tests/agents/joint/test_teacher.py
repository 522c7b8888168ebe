"""A stored teacher: scores against the model's own distribution, kept exactly, and never asked for twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agents.joint.losses import coarsened, reverse_kl
from agents.joint.reading import Texts, log_distributions, states
from agents.joint.teacher import ScoredTexts, Teacher, joined
from tests.letters import pair_of
from tests.tiny import END

TEXTS = Texts([[2, 3, 4], [5], [6, 7], [2]], [[8, 0], [9, 3, 2, 0], [0], [3, 3, 3]])


def whole() -> torch.Tensor:
    model = pair_of().teacher
    with torch.inference_mode():
        return log_distributions(model, states(model, TEXTS))


@pytest.mark.parametrize("top_k", [4, None])
def test_scores_are_the_teachers_own(top_k: int | None) -> None:
    scores = Teacher(pair_of().teacher, top_k=top_k).score(TEXTS).scores
    assert torch.allclose(scores.written, whole().gather(1, TEXTS.tokens[:, None])[:, 0])
    assert torch.allclose(scores.distribution, coarsened(whole(), scores.ids), atol=1e-6)
    assert torch.allclose(scores.distribution.exp().sum(1), torch.ones(10), atol=1e-5)
    if top_k is not None:
        assert torch.equal(scores.ids, whole().topk(top_k).indices)


def test_scores_can_be_learnt_from() -> None:
    scored = Teacher(pair_of().teacher, top_k=4).score(TEXTS)
    logits = torch.zeros(10, 11, requires_grad=True)
    reverse_kl(coarsened(logits.log_softmax(-1), scored.scores.ids), scored.scores.distribution).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0


def test_no_text_is_read_twice_while_it_is_remembered() -> None:
    teacher = Teacher(pair_of().teacher, top_k=4, memory=4)
    twice = teacher.score(Texts([*TEXTS.prompts, TEXTS.prompts[0]], [*TEXTS.outputs, TEXTS.outputs[0]]))
    assert teacher.tokens == twice.teacher_tokens == TEXTS.read_tokens
    again = teacher.score(TEXTS.take([2, 0]))
    assert (again.teacher_tokens, teacher.tokens) == (0, TEXTS.read_tokens)
    assert torch.equal(again.scores.written, twice.take([2, 0]).scores.written)
    teacher.score(Texts([[9]], [[0]]))  # the least recently used of four goes out
    assert teacher.score(TEXTS.take([1])).teacher_tokens == 4


@pytest.mark.parametrize("sampled", [False, True])
def test_what_the_teacher_writes_is_scored_in_the_same_passes(sampled: bool) -> None:
    teacher = Teacher(pair_of().teacher, top_k=4)
    generator = np.random.default_rng(0) if sampled else None
    found = teacher.write(TEXTS.prompts, 6, [END], generator, rows=2)
    assert teacher.tokens == found.teacher_tokens == found.texts.read_tokens
    again = Teacher(pair_of().teacher, top_k=4).score(found.texts).scores
    assert torch.allclose(found.scores.written, again.written, atol=1e-5)
    assert torch.allclose(found.scores.distribution, again.distribution, atol=1e-5)
    if not sampled:
        assert torch.equal(found.texts.tokens, again.ids[:, 0])


@pytest.mark.parametrize("top_k", [4, None])
def test_a_stored_teacher_comes_back_from_disk(tmp_path: Path, top_k: int | None) -> None:
    teacher = Teacher(pair_of().teacher, top_k=top_k)
    found = joined([teacher.score(TEXTS), teacher.score(Texts([[9]], [[0]]))])
    found.save(tmp_path / "teacher.safetensors", {"decoding": "greedy"})
    back = ScoredTexts.load(tmp_path / "teacher.safetensors")
    assert (back.texts, back.teacher_tokens) == (found.texts, TEXTS.read_tokens + 1)
    assert torch.equal(back.scores.distribution, found.scores.distribution)
    assert (back.scores.ids is None) == (top_k is None)
    part = back.take([4, 1])
    assert torch.equal(part.scores.written, found.scores.written[[10, 2, 3, 4, 5]])
    with pytest.raises(FileNotFoundError, match="Write them first"):
        ScoredTexts.load(tmp_path / "none.safetensors")
