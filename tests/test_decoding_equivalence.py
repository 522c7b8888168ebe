"""Greedy play against transformers' `generate`: student alone, teacher alone, verified drafts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.letters import PROMPTS, Letters, Policy, Watched, always, draft, first_texts, names_of, pair_of
from tests.tiny import END

CAP = 10
WORDS = 20


@cache
def generated(model: PreTrainedModel, prompt: tuple[int, ...], cap: int, end: int) -> tuple[int, ...]:
    """What `generate` writes behind a prompt, token by token the likeliest."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        text = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=cap,
            eos_token_id=end, pad_token_id=end,
        )  # fmt: skip
    return tuple(text[0, len(prompt) :].tolist())


def check(env: Watched, policy: Policy, model: PreTrainedModel, prompts: Sequence[Sequence[int]], end: int) -> None:
    texts, _ = first_texts(env, policy, seed=0, options={"prompts": range(env.num_envs)})
    assert texts == [generated(model, tuple(prompt), env.game.cap, end) for prompt in prompts]


def letters(**arguments: Any) -> tuple[Watched, list[list[int]]]:
    pair = pair_of()
    task = Letters(max_new_tokens=CAP)
    env = Watched(len(PROMPTS), **names_of(pair), task=task, rule="ask as often as you like", **arguments)
    return env, pair.tokenizer(task.prompts).input_ids


@pytest.mark.parametrize("remember", [0, 10_000])
def test_student_alone(remember: int) -> None:
    env, prompts = letters(remember=remember)
    check(env, always(0), pair_of().student, prompts, END)


@pytest.mark.parametrize("remember", [0, 10_000])
@pytest.mark.parametrize("actions", ["SELF/ASK", "SELF/VERIFY"])
def test_teacher_alone(actions: str, remember: int) -> None:
    env, prompts = letters(remember=remember, actions=actions)
    check(env, always(1), pair_of().teacher, prompts, END)


@pytest.mark.parametrize("remember", [0, 10_000])
@pytest.mark.parametrize("length", [1, 2, 3, CAP])
def test_verified_drafts_are_the_teachers_text(length: int, remember: int) -> None:
    env, prompts = letters(remember=remember, actions="SELF/VERIFY")
    check(env, draft(length), pair_of().teacher, prompts, END)


def test_the_two_models_disagree() -> None:
    """Otherwise the tests above could not fail."""
    pair, (_, prompts) = pair_of(), letters()
    texts = [[generated(m, tuple(p), CAP, END) for p in prompts] for m in (pair.student, pair.teacher)]
    assert sum(own != other for own, other in zip(*texts, strict=True)) > len(prompts) // 2


def test_the_shipped_pair() -> None:
    env = Watched(
        WORDS,
        task="pronounce",
        split="dev",
        limit=WORDS,
        actions="SELF/VERIFY",
        dtype="float64",
        device="cpu",
    )
    prompts, end = env.pair.tokenizer(list(env.task.prompts)).input_ids, env.pair.end_tokens[0]
    check(env, always(0), env.pair.student, prompts, end)
    check(env, draft(3), env.pair.teacher, prompts, end)
