"""A held student: only what asks and what reads rules moves, and only behind the start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.joint.config import Stage
from agents.joint.frozen import Held, rule_tokens
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
    assert moved({n: p.detach() for n, p in student()[0].named_parameters()}, model), "the start trains everything"
    joint.run()
    changed = moved(begun, model)
    assert set(changed) == {"model.embed_tokens.weight", "lm_head.weight"} & set(begun)
    read = rule_tokens(RuleReader(words), FROZEN.limits, (*data().prompts, *data().stored))
    free = {*read, *model.config.ask_token_ids}
    for rows in changed.values():
        assert set(rows) <= free


def test_no_token_loss_and_the_norm_of_what_may_move() -> None:
    model, words = student()
    joint = Joint(model, words, data(), FROZEN)
    assert [FROZEN.holds(stage) for stage in Stage] == [False, True, True]
    assert not any(SHORT.holds(stage) for stage in Stage)
    write, numbers = joint._write(np.random.default_rng(0), Stage.CLONE)
    told = write(0)
    assert float(told.detach()) == pytest.approx(numbers["clone"])
    told.backward()
    joint._held.mask()
    table = model.get_input_embeddings().weight
    norms = [float(p.grad.norm()) for p in model.parameters() if p is not table and p.grad is not None]
    rows = table.grad.norm(dim=1)
    assert model.get_output_embeddings().weight is table
    assert sum(norms) == 0.0
    assert 0 < int((rows > 0).sum()) < len(rows) / 2


def test_what_momentum_moved_is_put_back() -> None:
    model, _ = student()
    held = Held(model, [3])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    held.mask()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    held.put_back()
    assert moved(before, model) == {"model.embed_tokens.weight": [3]}
