"""`check_pair` names what is wrong with broken pairs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests.letters import pair_of
from tests.tiny import tiny_names, tiny_pair
from tw_env.testing import check_pair


def hooked(seed: int, module: str, hook: Callable[..., Any]) -> tuple[str, str]:
    """A tiny pair whose teacher has a hook on one of its modules."""
    pair = tiny_pair(seed=seed)
    pair.teacher.get_submodule(module).register_forward_hook(hook)
    return tiny_names(pair)


def test_good_pair_passes() -> None:
    check_pair(*tiny_names(pair_of()))


def test_broken_pairs() -> None:
    turn = itertools.count()
    noisy = hooked(90, "lm_head", lambda module, inputs, logits: logits * (1.0 + next(turn) % 5))
    with pytest.raises(AssertionError, match="Expected the teacher's logits twice"):
        check_pair(*noisy)
    looks_ahead = hooked(91, "model.embed_tokens", lambda module, inputs, out: out + out.mean(1, keepdim=True))
    with pytest.raises(AssertionError, match="Expected a causal teacher"):
        check_pair(*looks_ahead)
    by_length = hooked(92, "lm_head", lambda module, inputs, logits: logits * inputs[0].shape[-2])
    with pytest.raises(AssertionError, match="Expected the teacher's cached logits within"):
        check_pair(*by_length)
    undefined = hooked(93, "lm_head", lambda module, inputs, logits: logits * float("nan"))
    with pytest.raises(AssertionError, match="Expected finite log-probabilities of the teacher"):
        check_pair(*undefined)


def test_what_is_no_pair(tmp_path: Any) -> None:
    with pytest.raises(AssertionError, match="Expected"):
        check_pair(str(tmp_path / "student"), str(tmp_path / "teacher"))
    small, large = tiny_pair(seed=94), tiny_pair(seed=95, vocabulary=12)
    with pytest.raises(AssertionError, match="vocabular"):
        check_pair(tiny_names(small)[0], tiny_names(large)[1])
