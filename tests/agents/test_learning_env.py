"""Rewards in the usual unit: scaled where a pair's gap is far from the usual one, left alone elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from agents.evaluation import FREE, play
from agents.learning_env import NEARLY, USUAL_GAP, learning_env, token_gap
from tests.agents.small import PROMPTS
from tests.letters import Letters, names_of, pair_of
from tw_env.policies import teacher_alone

ID = "tw_env/TextVerify-v0"
ALL = np.arange(len(PROMPTS))


class Scored(Letters):
    """The letters task with its quality times a factor."""

    factor = 1.0

    def quality(self, prompt: int, output: str) -> float:
        return self.factor * super().quality(prompt, output)


def task(factor: float) -> Scored:
    made = Scored(PROMPTS)
    made.factor = factor
    return made


def gap(factor: float) -> float:
    env = learning_env(ID, 32, task=task(factor), **names_of(pair_of()))
    return token_gap(env, ALL)


@pytest.mark.parametrize(("aim", "scaled"), [(USUAL_GAP / 6, True), (USUAL_GAP / NEARLY * 1.1, False)])
def test_a_token_of_the_gap_is_worth_as_much_as_usual(aim: float, scaled: bool) -> None:
    factor = aim / gap(1.0)
    env = learning_env(ID, 32, task=task(factor), **names_of(pair_of()))
    assert env.game.spec.reward.quality == (pytest.approx(USUAL_GAP / aim) if scaled else 1.0)
    taught = play(env, teacher_alone(env.layout, env.game.spec.actions), ALL, FREE).outcomes
    np.testing.assert_allclose(taught.returns, env.game.spec.reward.quality * taught.quality)


def test_a_teacher_that_is_no_better_and_the_default_task_are_left_alone() -> None:
    pair = names_of(pair_of())
    same = {"student": pair["student"], "teacher": pair["student"]}
    assert learning_env(ID, 32, task=task(1.0), **same).game.spec.reward.quality == 1.0
    assert learning_env("tw_env/PronounceVerify-v0", 4, limit=4).game.spec.reward.quality == 1.0
