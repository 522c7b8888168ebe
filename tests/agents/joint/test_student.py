"""Ask tokens change nothing of what a student writes; words that it never met become different to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.joint.reading import Texts
from agents.joint.student import ask_log_odds, asking_student, start_asking, tell_words_apart, token_nats
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
    nats, log_odds = token_nats(logits, tokens, 11)
    assert torch.allclose(nats, functional.cross_entropy(logits[:, :11], tokens, reduction="none"), atol=1e-6)
    assert torch.allclose(log_odds, ask_log_odds(logits, 11), atol=1e-6)


def test_students_that_ask_already_are_refused() -> None:
    pair = asking_pair()
    with pytest.raises(ValueError, match="without ask tokens"):
        asking_student(pair.student, pair.tokenizer)
