"""Rows of the benchmark: the paired interval of the recovered gap, sums instead of means of ratios, time, tokens."""

from __future__ import annotations

import numpy as np
import pytest

from agents.evaluation import FREE, NEVER, Ends, Gap, make_row, play, play_ends, recovered_gap
from tests.agents.small import PROMPTS, TABLE, small_game
from tw_env.policies import random_calls, student_alone, teacher_alone

COLUMNS = (
    "task actions accept agent kind seed rule quantity limit quality recovered_gap recovered_gap_low "
    "recovered_gap_high calls_per_token spent allowed within_rule prompts training_teacher_tokens"
).split()
ALL = np.arange(len(PROMPTS))


def coins(count: int = 400, seed: int = 0) -> tuple[np.ndarray, Ends]:
    """Quality of a policy between a student of .4 and a teacher of .7, prompt by prompt right or wrong."""
    luck = np.random.default_rng(seed).random(count)
    student, teacher = (luck < 0.4).astype(float), (luck < 0.7).astype(float)
    return (luck < 0.55).astype(float), Ends(student, teacher)


def test_the_ends_of_the_gap_recover_nothing_and_everything() -> None:
    _, ends = coins()
    assert recovered_gap(ends.student, ends) == Gap(0.0, 0.0, 0.0)
    assert recovered_gap(ends.teacher, ends) == Gap(1.0, 1.0, 1.0)  # only if resampled on the same prompts


def test_the_interval_is_that_of_a_ratio_of_paired_means() -> None:
    quality, ends = coins(2000)
    gap = recovered_gap(quality, ends)
    gained, whole = quality - ends.student, ends.teacher - ends.student
    residual = gained - gap.value * whole
    error = residual.std() / np.sqrt(len(residual)) / whole.mean()  # delta method
    assert gap.value == pytest.approx(gained.mean() / whole.mean())
    assert gap.high - gap.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert gap.low < gap.value < gap.high


def test_equal_ends_leave_no_gap_to_recover() -> None:
    quality, ends = coins()
    assert recovered_gap(quality, Ends(ends.student, ends.student)) == Gap(None, None, None)


def test_other_prompts_are_refused() -> None:
    quality, ends = coins()
    with pytest.raises(ValueError, match="the same prompts"):
        recovered_gap(quality[1:], ends)


def test_a_row_holds_what_the_report_needs() -> None:
    env = small_game()
    ends = play_ends(env.env, ALL)
    policy = random_calls(env.layout, env.game.spec.actions, 0.3)
    played = play(env, policy, ALL, "at most 20% of the tokens", seed=3)
    row = make_row(
        env, played, ends, "at most 20% of the tokens", agent="x", kind="heuristic", seed=3, training_teacher_tokens=7
    )
    assert set(COLUMNS) <= set(row)
    outcomes = played.outcomes
    assert row["calls_per_token"] == pytest.approx(outcomes.calls.sum() / outcomes.tokens.sum())
    assert row["calls_per_token"] != pytest.approx((outcomes.calls / outcomes.tokens).mean(), rel=1e-3)
    assert (row["quantity"], row["limit"], row["prompts"]) == ("calls_per_token", 0.2, len(PROMPTS))
    assert (row["actions"], row["accept"], row["seed"]) == ("SELF/ASK/VERIFY", "exact", 3)
    assert row["within_rule"] == pytest.approx((outcomes.calls <= 0.2 * outcomes.tokens + 1e-9).mean())
    assert row["spend_over_rule"] == pytest.approx(100 * (row["calls_per_token"] - 0.2))


def test_rules_without_a_limit_have_none_in_the_row() -> None:
    env = small_game()
    ends = play_ends(env.env, ALL[:50])
    policy = teacher_alone(env.layout, env.game.spec.actions)
    free = make_row(env, play(env, policy, ALL[:50], FREE), ends, FREE, agent="teacher", kind="fixed")
    never = make_row(env, play(env, policy, ALL[:50], NEVER), ends, NEVER, agent="teacher", kind="fixed")
    assert (free["limit"], free["recovered_gap"], free["spend_over_rule"]) == (None, 1.0, 0.0)
    assert (never["limit"], never["recovered_gap"], never["calls_per_token"]) == (0.0, 0.0, 0.0)


def test_modelled_time_and_teacher_tokens_are_those_of_the_decisions() -> None:
    env = small_game(rows=7)
    layout, actions = env.layout, env.game.spec.actions
    alone = play(env, student_alone(layout, actions), ALL, FREE)
    assert alone.milliseconds == pytest.approx(alone.outcomes.tokens * TABLE.student_ms)
    assert env.teacher_tokens == 0
    assert env.env_steps % env.num_envs == 0
    assert env.env_steps >= alone.outcomes.tokens.sum()
    taught = play(env, teacher_alone(layout, actions), ALL, FREE)
    prompt = np.array([len(words.split()) for words in PROMPTS])
    steps = taught.outcomes.tokens
    expected = steps * (TABLE.student_ms + TABLE.teacher_ms) + TABLE.teacher_ms_per_token * (prompt - 1)
    assert taught.milliseconds == pytest.approx(expected)
    # Rows that had no prompt left went on with others: they count as read, too.
    assert env.teacher_tokens >= (prompt + steps - 1).sum()
    assert env.teacher_tokens <= (prompt + steps - 1).sum() + 7 * 20


def test_without_a_table_there_is_no_time() -> None:
    env = small_game(latency=None)
    assert play(env, student_alone(env.layout, env.game.spec.actions), ALL[:20], FREE).milliseconds is None
