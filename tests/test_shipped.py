"""The shipped policies keep a rule in words on held-out words, and what they spend helps."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from agents.evaluation import Ends, play, play_ends
from agents.recording import Recorded
from scripts.evaluate import Options, environment
from tw_env import policies
from tw_env.rules import parse

WORDS = np.arange(1200)
RULES = ("ask the teacher for at most 5% of the tokens", "no more than one call per ten tokens", "every fifth token")


@cache
def game(name: str) -> tuple[Recorded, Ends]:
    env = environment(Options((name,), task="pronounce", prompts=len(WORDS), rows=256), policies.load(name))
    return env, play_ends(env.env, WORDS)


def test_every_task_with_a_pair_has_a_gate() -> None:
    tasks = ("pronounce", "summarize", "translate")
    assert policies.shipped() == [name for task in tasks for name in (f"{task}-pcl", f"{task}-pcl-time")]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["pronounce-pcl"])
def test_the_rule_is_kept_within_a_point_and_pays(name: str, rule: str) -> None:
    (env, ends), limit = game(name), parse(rule).limit
    outcomes = play(env, policies.load(name), WORDS, rule).outcomes
    spent = outcomes.calls.sum() / outcomes.tokens.sum()
    assert limit / 2 < spent <= limit + 0.01
    recovered = (outcomes.quality - ends.student).mean() / (ends.teacher - ends.student).mean()
    assert recovered > 3 * limit, "random asking recovers about as large a share as it spends"


@pytest.mark.slow
@pytest.mark.parametrize("limit", [15.0, 20.0])
def test_rules_on_time_are_kept_and_time_is_well_spent(limit: float) -> None:
    (env, ends), rule = game("pronounce-pcl-time"), f"at most {limit:g} ms per output"
    outcomes = play(env, policies.load("pronounce-pcl-time"), WORDS, rule).outcomes
    assert 0.9 * limit < outcomes.spent.mean() <= 1.03 * limit
    recovered = (outcomes.quality - ends.student).mean() / (ends.teacher - ends.student).mean()
    assert recovered > (0.5 if limit == 15 else 0.9), "the student alone takes 10 ms, lossless speculation 25"
