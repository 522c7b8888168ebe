"""Heuristics by hand: drafts that stop where the student is unsure, and what is drawn at the end of texts only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agents.evaluation import FREE, play
from tests.agents.small import PROMPTS, small_game
from tw_env.actions import Action
from tw_env.policies import ScoreThreshold, load, speculative, teacher_alone

ALL = np.arange(len(PROMPTS))


@pytest.mark.parametrize("draft", [None, 2])
@pytest.mark.parametrize("confidence", [None, 0.3, 0.9])
def test_every_speculative_draft_leaves_the_teachers_text(draft: int | None, confidence: float | None) -> None:
    env = small_game(rows=64)
    frame = env.layout, env.game.spec.actions
    taught = play(env, teacher_alone(*frame), ALL, FREE).outcomes
    drafted = play(env, speculative(*frame, draft, confidence), ALL, FREE).outcomes
    assert np.array_equal(drafted.quality, taught.quality)
    assert np.array_equal(drafted.tokens, taught.tokens)
    assert drafted.calls.sum() < taught.calls.sum()


def test_a_draft_stops_before_an_unsure_token_when_full_and_at_the_end(tmp_path: Path) -> None:
    env = small_game(rows=64)
    policy = speculative(env.layout, env.game.spec.actions, draft=2, confidence=0.5)
    policy.save(tmp_path)
    column = {name: env.layout[name].start for name in ("top_logprobs", "pending", "would_end")}
    observations, _ = env.reset(seed=0, options={"prompts": ALL, "rules": "as often as you like"})
    seen = set()
    for _ in range(20):
        unsure = np.exp(observations[:, column["top_logprobs"]]) < 0.5
        full = np.rint(observations[:, column["pending"]] * env.layout.cap) >= 2
        ends = observations[:, column["would_end"]] > 0
        chosen, _ = policy.predict(observations)
        assert np.array_equal(np.asarray(chosen) == 2, unsure | full | ends)
        assert np.array_equal(chosen, load(tmp_path).predict(observations)[0])
        seen |= set(zip(unsure.tolist(), full.tolist(), ends.tolist(), strict=True))
        observations = env.step(np.asarray(chosen))[0]
    assert {(True, False, False), (False, True, False), (False, False, True), (False, False, False)} <= seen


def test_an_unsure_draft_is_judged_by_its_next_token_and_at_the_end_as_a_whole() -> None:
    env = small_game(rows=1)
    policy = ScoreThreshold(env.layout, env.game.spec.actions, "unsure_draft", 0.5, Action.VERIFY)
    observation = np.zeros((2, env.layout.size), np.float32)
    observation[:, env.layout["top_logprobs"].start] = np.log(0.8)
    observation[:, env.layout["surprise"].start] = -np.log(0.8)
    observation[:, env.layout["pending_surprise"].start] = -np.log(0.5)
    observation[1, env.layout["would_end"].start] = 1.0
    assert policy.scores(observation) == pytest.approx([0.2, 1 - 0.8 * 0.5], abs=1e-6)


def test_what_is_drawn_at_the_end_calls_there_at_its_rate_and_nowhere_else() -> None:
    env = small_game(rows=1)
    policy = ScoreThreshold(env.layout, env.game.spec.actions, "random_at_end", -0.3, Action.VERIFY)
    observations = np.zeros((4000, env.layout.size), np.float32)
    observations[2000:, env.layout["would_end"].start] = 1.0
    called = np.asarray(policy.predict(observations)[0]) > 0
    assert not called[:2000].any()
    assert called[2000:].mean() == pytest.approx(0.3, abs=0.05)
