"""Cuts of a student's own asking: lowest that keep their rules, and what words alone decide."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from agents.joint import deployment
from agents.joint.deployment import bisected, fit_cut
from agents.rollout import Outcomes
from tests.policies.test_cuts import LAYOUT, observed
from tw_env.actions import Action
from tw_env.policies import AskToken
from tw_env.rules import parse


def test_bisection_finds_each_lowest_cut_that_is_kept() -> None:
    lowest = np.array([-3.7, 0.0, 11.2])
    found = bisected(lambda cuts: cuts >= lowest, 3)
    assert np.all(found >= lowest)
    assert np.allclose(found, lowest, atol=2 * deployment.SPAN / 2**deployment.ROUNDS)


def test_each_limit_is_kept_by_a_cut_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a student that misreads its rules: told 5%, it asks as if told 30%, and the other way round."""
    mood = {0.05: 2.0, 0.3: -2.0}  # what it adds to its log-odds
    hardness = np.random.default_rng(0).normal(size=4000)
    policy = AskToken(LAYOUT, (Action.SELF, Action.ASK))

    read = functools.cache(parse)

    def played(env: object, policy: AskToken, prompts: object, rules: object, *_: object, words: list[str]) -> Outcomes:
        limits = np.array([read(sentence).limit for sentence in words])
        log_odds = np.array([mood[limit] for limit in limits]) + hardness[np.asarray(prompts)]
        calls = (log_odds > policy.cut.of(observed(limits), LAYOUT)).astype(float)  # of one token
        nothing = np.zeros(len(calls))
        return Outcomes(nothing, calls, nothing + 1, calls, limits, nothing, nothing.astype(int))

    monkeypatch.setattr(deployment, "play_prompts", played)
    cuts = fit_cut(policy, None, range(4000), list(mood))
    assert policy.cut is cuts
    low, high = cuts.of(observed([0.05, 0.3]), LAYOUT)
    assert np.mean(2.0 + hardness > low) == pytest.approx(0.05, abs=0.01)
    assert np.mean(-2.0 + hardness > high) == pytest.approx(0.3, abs=0.01)

    (free,) = cuts.of(observed([math.inf]), LAYOUT)
    alone = policy.by_words().cut.of(observed([0.05, 0.3, math.inf]), LAYOUT)
    assert np.all(alone == free), "one number for all rules, and it holds where nothing is limited"
    asked = [np.mean(mood[limit] + hardness > free) for limit in mood]
    assert np.mean(asked) == pytest.approx(np.mean(list(mood)), abs=0.01), "kept on average over the rules"
    assert asked[0] > 0.3 > 0.05 > asked[1]
    assert policy.cut is cuts, "the policy itself is left as it was"
