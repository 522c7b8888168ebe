"""Replaying one text tells of every token who wrote it, kept it or took it back."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from scripts.examples import Ink, choose_groups, write
from tests.letters import PROMPTS, Letters, names_of
from tests.tiny import tiny_pair
from tw_env.env import AssistedDecodingEnv
from tw_env.policies import Policy, speculative, student_alone, teacher_alone

FREELY = "as often as you like"


@pytest.fixture(scope="module")
def env() -> AssistedDecodingEnv:
    pair = tiny_pair()
    return AssistedDecodingEnv(
        task=Letters(), actions="SELF/ASK/VERIFY", reward="quality", dtype="float64", **names_of(pair)
    )


def made(env: AssistedDecodingEnv, make: Any) -> Policy:
    return make(env.layout, env.game.spec.actions)


def kept(text: Any) -> str:
    return "".join(piece.text for piece in text.pieces if piece.ink != Ink.DROPPED)


def test_alone_every_token_is_the_writers_own(env: AssistedDecodingEnv) -> None:
    for prompt in range(len(PROMPTS)):
        alone = write(env, made(env, student_alone), prompt, "never", "student")
        assert {piece.ink for piece in alone.pieces} == {Ink.STUDENT}
        assert alone.calls == 0
        taught = write(env, made(env, teacher_alone), prompt, FREELY, "teacher")
        assert {piece.ink for piece in taught.pieces} == {Ink.TEACHER}
        assert taught.calls == len(taught.pieces)


def test_verifying_at_the_end_writes_the_teachers_text_and_shows_what_was_dropped(env: AssistedDecodingEnv) -> None:
    dropped = 0
    for prompt in range(len(PROMPTS)):
        alone = write(env, made(env, student_alone), prompt, "never", "student")
        taught = write(env, made(env, teacher_alone), prompt, FREELY, "teacher")
        checked = write(env, made(env, speculative), prompt, FREELY, "speculative")
        assert kept(checked) == kept(taught)
        assert checked.quality == taught.quality
        assert Ink.STUDENT not in {piece.ink for piece in checked.pieces}
        lost = [piece for piece in checked.pieces if piece.ink == Ink.DROPPED]
        dropped += len(lost)
        if kept(alone) == kept(taught):
            assert not lost
    assert dropped


def test_dropped_tokens_stand_before_the_one_that_replaced_them(env: AssistedDecodingEnv) -> None:
    for prompt in range(len(PROMPTS)):
        pieces = write(env, made(env, speculative), prompt, FREELY, "speculative").pieces
        for piece, following in pairwise(pieces):
            if piece.ink == Ink.DROPPED:
                assert following.ink in (Ink.DROPPED, Ink.TEACHER)
        first = next((n for n, piece in enumerate(pieces) if piece.ink == Ink.DROPPED), None)
        if first is not None:
            wrote = next(piece for piece in pieces[first:] if piece.ink == Ink.TEACHER)
            assert wrote.instead == pieces[first].text.strip()


def test_groups_hold_every_prompt_once_and_show_the_first_of_each() -> None:
    student = np.array([0, 0, 0, 1, 1, 0.0])
    teacher = np.array([1, 1, 1, 1, 0, 0.0])
    tight, loose = np.array([1, 0, 0, 1, 1, 0.0]), np.array([1, 1, 0, 1, 0, 0.0])
    groups = choose_groups(student, teacher, [tight, loose], count=4)
    assert [group.prompts.tolist() for group in groups] == [[0], [1], [2], [3, 5], [4]]
    assert sum(group.share for group in groups) == pytest.approx(1)
    assert [len(group.prompts) for group in choose_groups(student, teacher, [tight, loose], 2)] == [1, 1, 1, 1, 1]
