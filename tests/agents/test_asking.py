"""AUC of asking: a score that knows gets 1, one that is blind .5, and each state of the own text counts once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agents.asking import asking_auc, call_scores
from agents.baselines.calibration import CalibrationConfig
from agents.baselines.oracles import Oracle
from agents.baselines.router import Router, RouterConfig
from agents.evaluation import play
from tests.agents.small import PROMPTS, small_game
from tw_env.actions import Action
from tw_env.policies import ScoreThreshold, random_calls, student_alone

ALL = np.arange(len(PROMPTS))
RULE = "at most 10% of the tokens"


class Knows(Oracle):
    """Scores by what the teacher would write; `sign` -1 is always wrong."""

    sign = 1.0

    def scores(self, observations: np.ndarray) -> np.ndarray:
        self.game.texts.read()
        return self.sign * self._differs()


def test_a_score_that_sees_the_teacher_is_perfect_and_its_opposite_always_wrong() -> None:
    env = small_game()
    policy = Knows(env)
    assert asking_auc(env, policy, ALL, RULE) == 1.0
    policy.sign = -1.0
    assert asking_auc(env, policy, ALL, RULE) == 0.0
    policy.sign = 0.0
    assert asking_auc(env, policy, ALL, RULE) == 0.5


def test_the_margin_ranks_better_than_chance_and_a_random_score_does_not() -> None:
    env = small_game()
    frame = env.layout, env.game.spec.actions
    sure = asking_auc(env, ScoreThreshold(*frame, "margin", 0.5, Action.VERIFY), ALL, RULE)
    blind = asking_auc(env, random_calls(*frame, 0.1), ALL, RULE)
    assert sure > 0.6
    assert blind == pytest.approx(0.5, abs=0.06)


def test_it_is_the_share_of_ordered_pairs_over_each_state_of_the_students_texts() -> None:
    env = small_game(rows=7)
    policy = ScoreThreshold(env.layout, env.game.spec.actions, "entropy", 0.5, Action.VERIFY)
    scores, differs = [], []
    for prompt in ALL:  # one by one, so that no row plays anything else
        single = small_game(rows=1)
        observation, _ = single.reset(seed=0, options={"prompts": [prompt], "rules": RULE})
        done = np.zeros(1, bool)
        while not done.any():
            texts = single.game.texts
            texts.read()
            differs.append(texts.best[0, texts.length[0]] != texts.proposal[0, texts.length[0]])
            scores.append(policy.scores(observation)[0])
            observation, _, done, _, _ = single.step(np.zeros(1, int))
    score, differ = np.array(scores), np.array(differs)
    above, below = score[differ][:, None], score[~differ]
    expected = (above > below).mean() + 0.5 * (above == below).mean()
    assert asking_auc(env, policy, ALL, RULE) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("actions", "episode"), [("SELF/ASK", True), ("SELF/ASK", False), ("SELF/VERIFY", True)])
def test_a_router_has_an_auc_as_an_agent_and_after_other_play(actions: str, episode: bool) -> None:
    env = small_game(rows=64, actions=actions, hidden=True)
    cuts = CalibrationConfig(limits=(0.2,), prompts=40, rounds=2)
    agent = Router(RouterConfig(episode=episode, prompts=100, members=1, epochs=2, width=8, calibration=cuts)).learn(
        env
    )
    first = asking_auc(env, agent, ALL, RULE)
    assert first is not None
    assert 0.3 < first < 1
    play(env, agent, ALL[:50], RULE)  # what it remembers of these texts must not matter
    assert asking_auc(env, agent, ALL, RULE) == first


def test_what_has_no_score_has_no_auc() -> None:
    env = small_game()

    class Mute:
        def predict(self, observation: np.ndarray, *args: Any, **kwargs: Any) -> tuple[np.ndarray, None]:
            return np.zeros(len(observation), int), None

    assert asking_auc(env, Mute(), ALL[:20], RULE) is None
    policy = student_alone(env.layout, env.game.spec.actions)

    class Agent:
        def __init__(self) -> None:
            self.policy = policy

    assert call_scores(Agent()) == policy.scores
