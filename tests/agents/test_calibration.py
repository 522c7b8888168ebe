"""Calibrated cuts keep the rule on the prompts they were calibrated on, and call more where more is allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agents.baselines.calibration import CalibrationConfig, calibrate
from agents.evaluation import play
from tests.agents.small import PROMPTS, small_game
from tw_env.actions import Action
from tw_env.policies import ScoreThreshold, load
from tw_env.policies.cuts import CutTable
from tw_env.rules import Constraint, Quantity

CONFIG = CalibrationConfig(limits=(0.1, 0.3, 0.6), prompts=len(PROMPTS), rounds=9)
ALL = np.arange(len(PROMPTS))


def spends(env, policy: ScoreThreshold, limit: float) -> float:
    outcomes = play(env, policy, ALL, Constraint(Quantity.CALLS_PER_TOKEN, limit)).outcomes
    return float(outcomes.calls.sum() / outcomes.tokens.sum())


@pytest.mark.parametrize(("score", "call"), [("p_max", Action.ASK), ("chain_surprise", Action.VERIFY)])
def test_a_calibrated_heuristic_keeps_every_limit_and_uses_it(score: str, call: Action) -> None:
    env = small_game(rows=64)
    policy = ScoreThreshold(env.layout, env.game.spec.actions, score, CutTable(), call)
    rounds: list[int] = []
    table = calibrate(policy, env, CONFIG, rounds.append)
    cuts = table.cuts["calls_per_token"]
    spent = [spends(env, policy, limit) for limit in CONFIG.limits]
    assert all(now <= limit + 1e-9 for now, limit in zip(spent, CONFIG.limits, strict=True))
    assert spent[0] > 0.05  # the limit is used, too
    assert spent == sorted(spent)
    assert cuts == sorted(cuts, reverse=True)
    assert rounds == list(range(1, CONFIG.rounds + 1))
    # Between two limits the cut lies between theirs, and so does what it spends.
    assert spent[0] <= spends(env, policy, 0.2) <= spent[1]


def test_calibration_repeats_and_is_saved(tmp_path: Path) -> None:
    env = small_game(rows=64)
    tables = []
    for _ in range(2):
        policy = ScoreThreshold(env.layout, env.game.spec.actions, "entropy", CutTable(), Action.ASK)
        tables.append(calibrate(policy, env, CalibrationConfig(limits=(0.2,), prompts=100, rounds=6)))
    assert tables[0] == tables[1]
    policy.save(tmp_path)
    assert load(tmp_path).cut == tables[0]


def test_never_and_as_often_as_you_like_need_no_calibration() -> None:
    env = small_game()
    policy = ScoreThreshold(env.layout, env.game.spec.actions, "p_max", CutTable(), Action.ASK)
    calibrate(policy, env, CalibrationConfig(limits=(0.2,), prompts=60, rounds=3))
    assert play(env, policy, ALL, "never").outcomes.calls.sum() == 0
    free = play(env, policy, ALL, "as often as you like").outcomes
    assert np.array_equal(free.calls, free.tokens)


def test_a_limit_on_a_quantity_without_cuts_is_refused() -> None:
    env = small_game()
    policy = ScoreThreshold(env.layout, env.game.spec.actions, "p_max", CutTable(), Action.ASK)
    calibrate(policy, env, CalibrationConfig(limits=(0.2,), prompts=60, rounds=3))
    with pytest.raises(ValueError, match=r"Expected a limit on calls_per_token.*got one on calls"):
        play(env, policy, ALL, "ask at most 2 times")
    free = play(env, policy, ALL[:40], "make any number of calls").outcomes
    assert np.array_equal(free.calls, free.tokens)
