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
    assert policies.shipped() == ["pronounce-pcl", "summarize-pcl", "translate-pcl"]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", [name for name in policies.shipped() if name.startswith("pronounce")])
def test_the_rule_is_kept_within_a_point_and_pays(name: str, rule: str) -> None:
    (env, ends), limit = game(name), parse(rule).limit
    outcomes = play(env, policies.load(name), WORDS, rule).outcomes
    spent = outcomes.calls.sum() / outcomes.tokens.sum()
    assert limit / 2 < spent <= limit + 0.01
    recovered = (outcomes.quality - ends.student).mean() / (ends.teacher - ends.student).mean()
    assert recovered > 3 * limit, "random asking recovers about as large a share as it spends"
