"""A gate beside a frozen pair: its loss in one state, and the sign of what it learns from whose texts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from agents.joint.reading import Texts, all_states, log_distributions, scores, states
from agents.joint.shares import LIKELIEST, AskGate, Places, SmallGate, fit_gate, judged, one_step_loss, places_of
from agents.joint.student import ask_log_odds, asking_student
from tests.letters import pair_of
from tests.tiny import HIDDEN

PAIR = pair_of(dtype=torch.float32)
PRICE = 0.3


def some_places(count: int, seed: int, own: bool) -> Places:
    """One-number states; the gap is its square, tokens drawn by either model pay it with noise."""
    generator = torch.Generator().manual_seed(seed)
    state = 2 * torch.rand(count, 1, generator=generator)
    reverse, forward = state[:, 0] ** 2, 0.5 * state[:, 0] ** 2
    gain = (-reverse if own else forward) + 0.3 * torch.randn(count, generator=generator)
    return Places(state, gain, reverse, forward, state[:, 0] > 1)


def test_the_loss_is_that_of_both_choices() -> None:
    logit, value, gain = torch.tensor([0.4]), torch.tensor([-0.2]), torch.tensor([-1.3])
    ask = 1 / (1 + math.exp(-0.4))
    own = 0.2 - 1.3 - math.log(1 - ask)
    call = 0.2 - PRICE - math.log(ask)
    assert float(one_step_loss(logit, value, gain, PRICE)) == pytest.approx((own**2 + call**2) / 4)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_gate_learns_the_closed_form(share: float) -> None:
    own, theirs, held = some_places(4000, 0, True), some_places(4000, 1, False), some_places(500, 2, True)
    gate = SmallGate(torch.cat([own.features, theirs.features]))
    fit_gate(gate, own, theirs, share, PRICE, updates=250, batch=512)
    logit = gate(held.features)[0].detach()
    assert (logit - held.closed_form(share, PRICE)).abs().mean() < 0.15
    found = judged(gate, held, share, PRICE)
    assert found["expected_rank"] == pytest.approx(-1.0 if share == 0.0 else 1.0)
    assert found["rank"] == pytest.approx(found["expected_rank"], abs=0.02)
    assert found["auc"] == pytest.approx(0.0 if share == 0.0 else 1.0, abs=0.02)
    assert found["fit"] > 0.95
    nothing = replace(held, differs=torch.zeros(len(held), dtype=torch.bool))
    assert judged(gate, nothing, share, PRICE)["auc"] is None


def test_places_hold_what_both_models_say() -> None:
    texts = Texts([[2, 3], [4]], [[5, 6, 0], [7, 8]])
    found = places_of(PAIR.student, PAIR.teacher, texts, PAIR.vocabulary)
    assert found.features.shape == (5, HIDDEN + LIKELIEST + 1)
    with torch.no_grad():
        one = texts.take([1])
        mine = log_distributions(PAIR.student, states(PAIR.student, one), PAIR.vocabulary)
        theirs = log_distributions(PAIR.teacher, states(PAIR.teacher, one), PAIR.vocabulary)
    expected = theirs[0, 7] - mine[0, 7]
    at = int((found.gain - expected).abs().argmin())
    assert float(found.gain[at]) == pytest.approx(float(expected), abs=1e-5)
    assert float(found.reverse[at]) == pytest.approx(float((mine[0].exp() * (mine[0] - theirs[0])).sum()), abs=1e-5)
    assert float(found.forward[at]) == pytest.approx(float((theirs[0].exp() * (theirs[0] - mine[0])).sum()), abs=1e-5)
    assert bool(found.differs[at]) == (int(mine[0].argmax()) != int(theirs[0].argmax()))
    assert float(found.features[at, -1]) == pytest.approx(float(-(mine[0].exp() * mine[0]).sum()), abs=1e-5)


def test_ask_tokens_alone_are_learnt_and_say_what_the_student_would() -> None:
    texts = Texts([[2, 3], [4]], [[5, 6, 0], [7, 8]])
    student, _ = asking_student(PAIR.student, PAIR.tokenizer, reads_rules=False, reasons=3)
    head, first = student.get_output_embeddings().weight, student.config.ask_token_ids[0]
    with torch.no_grad():
        head[first:] = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(0)) / 4
        hidden = all_states(student, texts)
        expected = ask_log_odds(scores(student, hidden), first)
    places = places_of(PAIR.student, PAIR.teacher, texts, PAIR.vocabulary)
    gate, before = AskGate(student, places.features), head.detach().clone()
    logit, _ = gate(torch.cat([hidden, torch.zeros(len(hidden), LIKELIEST + 1)], dim=1))
    assert torch.allclose(logit, expected, atol=1e-5)
    fit_gate(gate, places, places, 0.5, PRICE, updates=3, batch=8)
    assert torch.equal(head, before)
    assert not torch.equal(gate.asks, before[first:])
    assert torch.equal(gate.known, before[:first])
