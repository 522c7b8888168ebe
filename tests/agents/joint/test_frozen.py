"""A held student: only what asks and what reads rules moves, and only behind the start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.joint.config import Stage
from agents.joint.frozen import Held, rule_tokens
from agents.joint.reading import Texts
from agents.joint.trainer import Joint
from tests.agents.joint.test_trainer import SHORT, data, student, tokenizer
from tw_env.decoding.reading import RuleReader

FROZEN = replace(SHORT, frozen=True)


def moved(before: dict[str, torch.Tensor], after: torch.nn.Module) -> dict[str, list[int]]:
    """Rows of each parameter that changed, by its name."""
    return {
        name: torch.where((parameter != before[name]).reshape(len(parameter), -1).any(1))[0].tolist()
        for name, parameter in after.named_parameters()
        if not torch.equal(parameter, before[name])
    }


def test_words_of_rules_are_those_that_no_text_has() -> None:
    found = rule_tokens(RuleReader(tokenizer()), (0.05,), (*data().prompts, *data().stored))
    words = tokenizer().convert_ids_to_tokens(found)
    assert {"ask", "never", "percent"} <= set(words)
    assert not set(found) & {token for text in (*data().prompts, *data().stored) for token in text}
    assert found == sorted(found)


@pytest.mark.parametrize("muon", [True, False])
def test_behind_the_start_only_free_rows_move(muon: bool) -> None:
    model, words = student()
    joint = Joint(model, words, data(), replace(FROZEN, muon=muon))
    joint.run(until=FROZEN.start)
    begun = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    fresh = {name: parameter.detach() for name, parameter in student()[0].named_parameters()}
    fresh["lm_head.weight"] = fresh["model.embed_tokens.weight"]  # parted, since rules are read anew
    assert set(moved(fresh, model)) == set(begun), "the start trains everything"
    joint.run()
    changed = moved(begun, model)
    read = rule_tokens(RuleReader(words), FROZEN.limits, (*data().prompts, *data().stored))
    assert set(changed) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert set(changed["model.embed_tokens.weight"]) <= set(read)
    assert set(changed["lm_head.weight"]) <= set(model.config.ask_token_ids)


def test_no_token_loss_and_the_norm_of_what_may_move() -> None:
    model, words = student()
    joint = Joint(model, words, data(), FROZEN)
    assert [FROZEN.holds(stage) for stage in Stage] == [False, True, True]
    assert not any(SHORT.holds(stage) for stage in Stage)
    write, numbers = joint._writing.loss(np.random.default_rng(0), Stage.CLONE)
    told = write(0)
    assert float(told.detach()) == pytest.approx(numbers["clone"])
    told.backward()
    assert joint._held is not None
    joint._held.mask()
    tables = {"model.embed_tokens.weight", "lm_head.weight"}
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert all(float(grad.norm()) == 0.0 for name, grad in grads.items() if name not in tables)
    for name in tables:
        rows = grads[name].norm(dim=1)
        assert 0 < int((rows > 0).sum()) < len(rows) / 2


def test_what_is_written_without_a_rule_stays_as_it_was() -> None:
    model, words = student()
    joint = Joint(model, words, data(), replace(FROZEN, learning_rate=0.1))
    joint.run(until=FROZEN.start)
    texts = Texts(data().prompts, data().stored)
    before, asked = (thought.detach() for thought in joint.told.thoughts(texts))
    joint.run()
    after, asks = (thought.detach() for thought in joint.told.thoughts(texts))
    assert torch.equal(before, after)
    assert not torch.equal(asked, asks)


def test_what_momentum_moved_is_put_back() -> None:
    model, _ = student()
    held = Held(model, [4], [3])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    held.mask()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    held.put_back()
    assert moved(before, model) == {"model.embed_tokens.weight": [3], "lm_head.weight": [4]}
