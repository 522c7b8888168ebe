"""Ask tokens change nothing of what a student writes; words that it never met become different to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.joint.gate import any_ask
from agents.joint.reading import Texts, all_states, scores
from agents.joint.student import (
    ask_log_odds,
    asking_student,
    doubt_of,
    set_doubt,
    start_asking,
    tell_words_apart,
    token_nats,
)
from tests.asking import asking_pair
from tests.tiny import tiny_pair
from tw_env.decoding.loading import load_pair
from tw_env.tasks import pronounce


def test_the_shipped_student_writes_as_before_and_reads_rules_apart(tmp_path: Path) -> None:
    before = AutoModelForCausalLM.from_pretrained(pronounce.STUDENT, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(pronounce.STUDENT)
    student, own = asking_student(before, tokenizer, reasons=3)
    size, word = len(tokenizer), tokenizer("h e l l o >").input_ids
    with torch.no_grad():
        mine, theirs = (model(torch.tensor([word])).logits for model in (student, before))
    assert torch.equal(mine[..., :size], theirs)
    ids = [own.get_vocab()[word] for word in ("ask", "never", "percent", "often")]
    directions = functional.normalize(student.get_input_embeddings().weight[ids], dim=1)
    alike = directions @ directions.T - torch.eye(len(ids))
    assert alike.abs().max() < 0.6
    old = functional.normalize(before.get_input_embeddings().weight[ids], dim=1)
    assert (old @ old.T).min() > 0.99
    student.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    pair = load_pair(str(tmp_path), str(pronounce.TEACHER), device="cpu")
    assert pair.ask_tokens == tuple(range(size, size + 3))
    assert pair.reads_rules
    assert pair.vocabulary == size


def test_words_that_differ_are_left_alone() -> None:
    pair = asking_pair()
    before = pair.student.get_input_embeddings().weight.clone()
    assert tell_words_apart(pair.student) == 0
    assert torch.equal(pair.student.get_input_embeddings().weight, before)


def test_reasons_begin_between_tokens_that_compete() -> None:
    """The log-odds fall with the margin between the two likeliest tokens."""
    model, _ = asking_student(tiny_pair(sharpness=2.0).student, tiny_pair().tokenizer, reads_rules=False, reasons=40)
    texts = [torch.randint(2, 11, (9,), generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(60)]
    start_asking(model, Texts([text[:2] for text in texts[:40]], [text[2:] for text in texts[:40]]), 0.2)
    with torch.no_grad():
        logits = model(torch.tensor(texts[40:])).logits.flatten(0, 1)
    asks = ask_log_odds(logits, 11)
    best = logits[:, :11].topk(2).values
    margin = best[:, 0] - best[:, 1]
    assert float(torch.corrcoef(torch.stack([asks, -margin]))[0, 1]) > 0.6
    assert not model.config.reads_rules


def test_tokens_and_asking_are_normalised_over_the_same_vocabulary() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, tokens = 3.0 * torch.randn(50, 14, generator=generator), torch.randint(11, (50,), generator=generator)
    for doubt in (0.0, 1.0):
        nats, log_odds = token_nats(logits, tokens, 11, doubt)
        assert torch.allclose(nats, functional.cross_entropy(logits[:, :11], tokens, reduction="none"), atol=1e-6)
        assert torch.allclose(log_odds, ask_log_odds(logits, 11, doubt), atol=1e-6)


def test_a_doubt_that_ask_tokens_leave_as_it_is_adds_up_to_the_surprise() -> None:
    """-log P(none asked) along a draft is then the summed surprise, the score of the rival that verifies at the end."""
    logits = 2.0 * torch.randn(30, 11, generator=torch.Generator().manual_seed(1))
    known = logits.logsumexp(-1, keepdim=True)
    asks = ask_log_odds(torch.cat([logits, known], 1), 11, 1.0)
    surprise = -logits.log_softmax(-1).amax(-1)
    assert torch.allclose(functional.softplus(asks), surprise, atol=1e-5)
    some = torch.zeros(30, dtype=torch.long)
    assert float(torch.expm1(any_ask(asks, some, 1)[0])) == pytest.approx(
        float(torch.exp(surprise.sum()) - 2), rel=1e-4
    )


def test_asking_does_not_teach_to_be_unsure() -> None:
    """The doubt lends the gate its value and no gradient; what is left is that of the one softmax."""
    logits = torch.randn(20, 14, generator=torch.Generator().manual_seed(2), requires_grad=True)
    gradients = []
    for doubt in (0.0, 2.0):
        (gradient,) = torch.autograd.grad(ask_log_odds(logits, 11, doubt).sum(), logits)
        gradients.append(gradient)
    assert torch.equal(*gradients)


def test_students_begin_at_the_wanted_rate_with_a_doubt() -> None:
    pair = asking_pair(doubt=1.0)
    texts = [torch.randint(2, 11, (12,), generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(20)]
    written = Texts([text[:4] for text in texts], [text[4:] for text in texts])
    with torch.no_grad():
        logits = scores(pair.student, all_states(pair.student, written))
    asked = torch.sigmoid(ask_log_odds(logits, pair.ask_tokens[0], pair.ask_doubt))
    assert float(asked.mean()) == pytest.approx(0.3, abs=0.01)


def test_ask_tokens_begin_anew_beside_another_doubt() -> None:
    model, _ = asking_student(tiny_pair().student, tiny_pair().tokenizer, reasons=3)
    start_asking(model, Texts([[2, 3, 4], [5, 6, 7]], [[5, 6, 7], [8, 9, 10]]), 0.2)
    set_doubt(model, 0.0)
    assert model.get_output_embeddings().weight[11:].any(), "nothing changed"
    vocabulary = model.get_output_embeddings().weight[:11].clone()
    set_doubt(model, 1.0)
    assert doubt_of(model) == 1.0
    assert not model.get_output_embeddings().weight[11:].any()
    assert torch.equal(model.get_output_embeddings().weight[:11], vocabulary)


def test_students_that_ask_already_are_refused() -> None:
    pair = asking_pair()
    with pytest.raises(ValueError, match="without ask tokens"):
        asking_student(pair.student, pair.tokenizer)
