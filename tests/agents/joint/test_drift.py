"""How far texts and the gate move the log-odds of asking, against closed forms."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from agents.joint.drafts import Drafts
from agents.joint.drift import Optimizers, drift, own_places
from agents.joint.reading import Texts
from agents.joint.student import start_asking
from agents.joint.trainer import Joint
from agents.supervised import SupervisedConfig, make_optimizers
from tests.agents.joint.test_trainer import SHORT, data, student

RATE, NO_CLIP = 1e-4, 1e9
LEAST = 1e-5  # gradients far above AdamW's epsilon
POOL = ThreadPoolExecutor(1)


def make(model: PreTrainedModel, muon: bool = False) -> Optimizers:
    config = SupervisedConfig(steps=9, decay_steps=1, learning_rate=RATE, muon=muon, weight_decay=0.0)
    return make_optimizers(model, config, POOL)


@pytest.fixture(scope="module")
def joint() -> Joint:
    """A student in double precision that asks now and then."""
    model, tokenizer = student()
    joint = Joint(model.double(), tokenizer, data(), replace(SHORT, start=0))
    start_asking(joint.student, Texts(data().prompts, data().stored), 0.2)
    return joint


@pytest.fixture(scope="module")
def drafts(joint: Joint) -> Drafts:
    return joint._play.drafts(data().prompts[:8], np.arange(8))


def own_log_odds(joint: Joint, drafts: Drafts) -> torch.Tensor:
    """Mean over the places that a draft wrote itself, one by one."""
    log_odds, starts = joint.told.log_odds(drafts.texts), drafts.texts.starts.tolist()
    parts = [log_odds[starts[i] + first : starts[i + 1]] for i, first in enumerate(drafts.first.tolist())]
    return torch.cat(parts).mean()


def gradients_of(joint: Joint, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(joint.student.parameters())))


def test_a_first_step_of_adam_goes_a_rate_far_in_each_weight(joint: Joint, drafts: Drafts) -> None:
    """Without momentum, a first step is rate times the sign; to first order it moves the mean by its inner product."""
    texts = Texts(data().prompts, data().stored)
    written = gradients_of(joint, joint.told.nats(texts)[0].mean())
    asked = gradients_of(joint, own_log_odds(joint, drafts))
    steps = [torch.where(one.abs() > 1e-5, one.sign(), 0.0) for one in written if one is not None]
    sharp = [
        None if one is None else torch.where(one.abs() > 1e-5, one, 0.0) for one in written
    ]  # far above Adam's eps
    expected = -RATE * sum(float((one * step).sum()) for one, step in zip(asked, steps, strict=True) if one is not None)
    found = drift(joint.told, sharp, make(joint.student), make, own_places(drafts), NO_CLIP)
    assert found == pytest.approx(expected, rel=0.05)
    assert abs(found) > 1e-5


@pytest.mark.parametrize("muon", [False, True])
def test_momentum_of_earlier_updates_moves_nothing(joint: Joint, drafts: Drafts, muon: bool) -> None:
    def build(model: PreTrainedModel) -> Optimizers:
        return make(model, muon)

    model = copy.deepcopy(joint.student)
    moving = build(model)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)).to(parameter)
    for optimizer in moving:
        optimizer.step()
    before = copy.deepcopy([optimizer.state_dict() for optimizer in moving])
    still = [torch.zeros_like(parameter) for parameter in joint.student.parameters()]
    assert drift(joint.told, still, moving, build, own_places(drafts), 1.0) == 0.0
    for optimizer, state in zip(moving, before, strict=True):
        now = optimizer.state_dict()
        assert now["param_groups"] == state["param_groups"]
        for place, tensors in state["state"].items():
            assert all(torch.equal(tensor, now["state"][place][name]) for name, tensor in tensors.items())


def test_a_step_towards_asking_raises_it_and_clipping_shortens_a_long_one(joint: Joint, drafts: Drafts) -> None:
    towards = gradients_of(joint, -own_log_odds(joint, drafts))
    moved = drift(joint.told, towards, make(joint.student), make, own_places(drafts), NO_CLIP)
    assert moved > 0
    assert (
        drift(joint.told, towards, make(joint.student), make, own_places(drafts), 1e-12) < 0.1 * moved
    )  # below Adam's eps
