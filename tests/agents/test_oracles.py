"""Oracles write the teacher's text with the fewest calls, or refuse."""

from __future__ import annotations

import numpy as np
import pytest

from agents.baselines.oracles import Oracle
from agents.evaluation import FREE, play, play_ends
from tests.agents.small import PROMPTS, small_game
from tests.letters import Letters, Watched, always, first_texts, names_of, pair_of
from tw_env.actions import Action
from tw_env.policies import speculative

ALL = np.arange(len(PROMPTS))


@pytest.mark.parametrize("call", [Action.ASK, Action.VERIFY])
def test_an_oracle_writes_what_the_teacher_would(call: Action) -> None:
    env = Watched(
        64, task=Letters(PROMPTS), actions="SELF/ASK/VERIFY", reward="quality", rule="as often as you like",
        **names_of(pair_of()),
    )  # fmt: skip
    options = {"prompts": ALL[:64]}
    oracle = Oracle(env, call)
    own, _ = first_texts(env, lambda _, observations: oracle.predict(observations)[0], options=options)
    teachers, _ = first_texts(env, always(1), options=options)
    assert own == teachers


def test_it_calls_only_where_the_two_models_differ() -> None:
    env = small_game()
    ends = play_ends(env.env, ALL)
    asks = play(env, Oracle(env, Action.ASK), ALL, FREE).outcomes
    assert np.array_equal(asks.quality, ends.teacher)
    assert 0 < asks.calls.sum() < 0.7 * asks.tokens.sum()
    assert (ends.student[asks.calls == 0] == ends.teacher[asks.calls == 0]).all()
    drafted = play(env, speculative(env.layout, env.game.spec.actions), ALL, FREE).outcomes
    verifies = play(env, Oracle(env, Action.VERIFY), ALL, FREE).outcomes
    assert np.array_equal(verifies.quality, ends.teacher)
    # Lossless drafting calls wherever a text would end; the oracle saves those calls that change nothing.
    assert (verifies.calls <= drafted.calls).all()
    assert np.array_equal(verifies.calls == 0, asks.calls == 0)


def test_one_token_is_one_action() -> None:
    env = small_game(rows=1, actions="SELF/VERIFY")
    observations, _ = env.reset(seed=0)
    action, _ = Oracle(env).predict(observations[0])
    assert action in (0, 1)


def test_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected greedy decoding"):
        Oracle(small_game(decoding="sampling"))


def test_a_call_that_the_game_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected a call out of this game's ASK, got VERIFY"):
        Oracle(small_game(actions="SELF/ASK"), Action.VERIFY)
