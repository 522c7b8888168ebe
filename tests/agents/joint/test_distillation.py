"""Every loss teaches a small student; a broken-off run ends like an unbroken one; what is missing is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.joint.distillation import Distillation
from agents.joint.distillation_config import DistillationConfig, DistillationData
from agents.joint.losses import forward_kl
from agents.joint.objective import Loss
from agents.joint.reading import log_distributions, states
from agents.joint.teacher import ScoredTexts, Teacher
from tests.letters import pair_of
from tests.tiny import END

NEW = 5
PROMPTS = [[a, b][: 1 + (a + b) % 2] for a in range(2, 11) for b in range(2, 6)]
PAIR = pair_of(dtype=torch.float32)
CONFIG = DistillationConfig(updates=10, batch=12, warmup=2, checkpoint_every=3, seed=1)


def data_of(teacher: Teacher) -> DistillationData:
    """The teacher's sampled texts, which stand for gold, too."""
    stored = teacher.write(PROMPTS, NEW, [END], np.random.default_rng(0))
    return DistillationData(PROMPTS, [END], NEW, [[list(output)] for output in stored.texts.outputs], stored)


def distil(config: DistillationConfig, folder: Path | None = None, until: int | None = None) -> Distillation:
    teacher = Teacher(PAIR.teacher, top_k=None)
    run = Distillation(copy.deepcopy(PAIR.student), data_of(teacher), config, teacher, folder)
    run.run(until=until)
    return run


def gap(model: torch.nn.Module) -> float:
    """KL(p_T || p_S) in nats per token on texts of the teacher that nothing was learnt from."""
    held = Teacher(PAIR.teacher, top_k=None).write(PROMPTS, NEW, [END], np.random.default_rng(9))
    with torch.inference_mode():
        mine = log_distributions(model, states(model, held.texts))
    return float(forward_kl(mine, held.scores.distribution).mean())


@pytest.mark.parametrize("loss", [loss for loss in Loss if loss not in (Loss.SUPERVISED, Loss.SEQUENCE_KD)])
def test_the_student_comes_nearer_to_the_teacher_than_it_was(loss: Loss) -> None:
    run = distil(replace(CONFIG, loss=loss, updates=60, batch=24, learning_rate=0.03))
    assert gap(run.averaged()) < 0.7 * gap(PAIR.student)


@pytest.mark.parametrize("loss", list(Loss))
def test_a_broken_off_run_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path, loss: Loss) -> None:
    whole, config = distil(replace(CONFIG, loss=loss)), replace(CONFIG, loss=loss)
    distil(config, tmp_path, until=5)
    (tmp_path / "checkpoint.pt.tmp").write_bytes(b"a write that was cut off")
    again = distil(config, tmp_path)
    assert (whole.update, whole.teacher_tokens) == (again.update, again.teacher_tokens)
    for (name, one), other in zip(whole.averaged().named_parameters(), again.averaged().parameters(), strict=True):
        assert torch.equal(one, other), name
    with pytest.raises(ValueError, match="learning_rate differ"):
        distil(replace(config, learning_rate=0.5), tmp_path)


def test_every_loss_learns_from_as_many_texts_and_the_tokens_of_the_teacher_are_counted() -> None:
    texts = data_of(Teacher(PAIR.teacher)).stored
    assert texts is not None
    epoch = replace(CONFIG, updates=len(PROMPTS) // CONFIG.batch)
    for loss in (Loss.SEQUENCE_KD, Loss.FORWARD_KL):
        run = distil(replace(epoch, loss=loss))
        assert run.teacher_tokens == texts.texts.read_tokens
        run = distil(replace(epoch, loss=loss, updates=2 * epoch.updates))
        assert run.teacher_tokens == texts.texts.read_tokens, "each stored text is read once"
    assert distil(replace(epoch, loss=Loss.SUPERVISED)).teacher_tokens == 0
    own = distil(replace(epoch, loss=Loss.REVERSE_KL))
    least = sum(map(len, PROMPTS))
    assert least <= own.teacher_tokens <= least + len(PROMPTS) * (NEW - 1)


def test_numbers_tell_residuals_divergence_shares_and_value() -> None:
    seen: list[dict[str, float]] = []
    teacher = Teacher(PAIR.teacher, top_k=None)
    config = replace(CONFIG, loss=Loss.PCL, path_lengths=(1, 0))
    Distillation(copy.deepcopy(PAIR.student), data_of(teacher), config, teacher).run(lambda _, n: seen.append(n))
    expected = {"residual/1", "residual/end", "kl/own", "kl/other", "value/mean", "value/return", "value/explained"}
    assert expected <= set(seen[0])
    assert seen[0]["own_share"] == 0.5
    assert seen[0]["value/mean"] == 0.0, "V begins at its optimum"
    assert seen[-1]["value/mean"] != 0.0


def test_without_a_value_network_v_stays_zero() -> None:
    seen: list[dict[str, float]] = []
    teacher = Teacher(PAIR.teacher, top_k=None)
    config = replace(CONFIG, loss=Loss.PCL, with_value=False)
    run = Distillation(copy.deepcopy(PAIR.student), data_of(teacher), config, teacher)
    before = copy.deepcopy(run.value.state_dict())
    run.run(lambda _, n: seen.append(n))
    assert all(torch.equal(weight, before[name]) for name, weight in run.value.state_dict().items())
    assert {one["value/mean"] for one in seen} == {0.0}
    assert replace(CONFIG, loss=Loss.PCL).learns_value
    assert not config.learns_value


def test_stored_texts_need_no_teacher(tmp_path: Path) -> None:
    data = data_of(Teacher(PAIR.teacher))
    assert data.stored is not None
    data.stored.save(tmp_path / "stored.safetensors")
    data = replace(data, stored=ScoredTexts.load(tmp_path / "stored.safetensors"))
    run = Distillation(copy.deepcopy(PAIR.student), data, replace(CONFIG, loss=Loss.PCL, on_policy_share=0.0))
    run.run()
    assert run.update == CONFIG.updates


def test_what_is_missing_is_named() -> None:
    student, teacher = copy.deepcopy(PAIR.student), Teacher(PAIR.teacher)
    data = data_of(teacher)
    with pytest.raises(ValueError, match="50% of the texts are the student's own"):
        Distillation(student, data, replace(CONFIG, loss=Loss.PCL))
    with pytest.raises(ValueError, match="Expected `stored` to hold a text for each prompt"):
        Distillation(student, replace(data, stored=None), replace(CONFIG, loss=Loss.SEQUENCE_KD))
    with pytest.raises(ValueError, match="Expected `gold` to hold a text for each prompt"):
        Distillation(student, replace(data, gold=None), replace(CONFIG, loss=Loss.SUPERVISED))
    with pytest.raises(ValueError, match="at least 2 siblings"):
        Distillation(student, data, replace(CONFIG, loss=Loss.PCL_GROUP, siblings=1), teacher)
    with pytest.raises(ValueError, match="batch a multiple of siblings"):
        Distillation(student, data, replace(CONFIG, siblings=5), teacher)
    with pytest.raises(ValueError, match="at least 1 - 1/siblings"):
        Distillation(student, data, replace(CONFIG, siblings=4, on_policy_share=0.5), teacher)


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    distil(replace(CONFIG, updates=2))
    assert torch.equal(torch.random.get_rng_state(), before)
