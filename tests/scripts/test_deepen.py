"""A student with twice the layers writes as before, and each of its layers can learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scripts.deepen import Options, main
from scripts.layers import deepened
from scripts.smollm2_pair import read_model
from tests.families import family
from tw_env.tasks.shipped import shipped_pair

CPU = torch.device("cpu")


def test_a_deepened_student_writes_as_before_and_may_learn_more(tmp_path: Path) -> None:
    student = str(shipped_pair("pronounce").student)
    main(Options(out=tmp_path))
    model, deep = read_model(student, CPU), read_model(str(tmp_path), CPU)
    assert deep.config.num_hidden_layers == 2 * model.config.num_hidden_layers
    ids = torch.randint(4, model.config.vocab_size, (3, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(deep(ids).logits, model(ids).logits)
    deep.train().requires_grad_(True)(ids).logits.logsumexp(-1).sum().backward()
    twin = deep.base_model.layers[1]
    assert all(part.weight.grad.abs().sum() > 0 for part in (twin.self_attn.o_proj, twin.mlp.down_proj))


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layers in `model\.layers`"):
        deepened(family("t5"))
