"""Sampled texts against enumerated distributions, by chi-square: whose are they under VERIFY, ASK and SELF?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from tests.letters import Letters, Policy, Watched, always, draft, feature, first_texts, names_of, pair_of
from tests.reference import Models
from tests.tiny import END
from tw_env.game import Game

CAP, EPISODES, VOCABULARY = 3, 5_000, 4
UNLIKELY = 1e-4
Text = tuple[int, ...]
PAIR: dict[str, Any] = {"vocabulary": VOCABULARY, "pad_is_end": True, "seed": 3, "sharpness": 0.5}


def play(policy: Policy, actions: str = "SELF/VERIFY", **arguments: Any) -> tuple[list[Text], NDArray[np.float64]]:
    """Texts and returns of many episodes on one prompt."""
    task = Letters(["a b"], CAP)
    env = Watched(
        EPISODES, **names_of(pair_of(**PAIR)), task=task, actions=actions, decoding="sampling",
        rule="ask as often as you like", **arguments,
    )  # fmt: skip
    return first_texts(env, policy, seed=17)


@cache
def distribution(writer: str) -> dict[Text, float]:
    """Every text and its probability under one of the two models."""
    pair = pair_of(**PAIR)
    model = getattr(Models(pair.student, pair.teacher, pair.vocabulary), writer)
    prompt = tuple(pair.tokenizer("a b").input_ids)

    def texts(start: Text, logprob: float) -> Iterator[tuple[Text, float]]:
        if len(start) == CAP or start[-1:] == (END,):
            yield start, math.exp(logprob)
            return
        for token, more in enumerate(model(prompt + start)):
            yield from texts((*start, token), logprob + more)

    return dict(texts((), 0.0))


def p_value(texts: list[Text], expected: dict[Text, float]) -> float:
    """Of the chi-square test; texts expected fewer than five times share a cell."""
    counts = Counter(texts)
    cells = [(counts[text], len(texts) * p) for text, p in expected.items()]
    common = [cell for cell in cells if cell[1] >= 5]
    rare = [sum(part) for part in zip(*(cell for cell in cells if cell[1] < 5), strict=True)] or [0, 0.0]
    observed, wanted = zip(*common, *([rare] if rare[1] > 0 else []), strict=True)
    return float(chisquare(observed, np.array(wanted) * sum(observed) / sum(wanted)).pvalue)


def choosy(env: Watched, observations: NDArray[np.float32]) -> NDArray[np.int64]:
    """Calls depending on the very token that the student is about to write, and on how surprising it is."""
    token = env.game.texts.proposal[np.arange(env.num_envs), env.game.texts.length]
    odd = (feature(env, observations, "surprise") > 1.2) | (token == 1)
    return np.where(odd | (feature(env, observations, "would_end") > 0), 1, 0)


def erratic(env: Watched, observations: NDArray[np.float32]) -> NDArray[np.int64]:
    """Random play that leaves no token unverified: ASK only where nothing is pending."""
    action = np.random.default_rng(int(1e6 * observations.sum()) % 2**32).integers(3, size=env.num_envs)
    action[(action == 1) & (feature(env, observations, "pending") > 0)] = 2
    return np.where(feature(env, observations, "would_end") > 0, 2, action)


@pytest.mark.parametrize("policy", [draft(1), draft(2), choosy], ids=["1", "2", "choosy"])
def test_verified_texts_are_the_teachers(policy: Policy) -> None:
    texts, returns = play(policy)
    assert p_value(texts, distribution("teacher")) > UNLIKELY
    np.testing.assert_array_equal(returns, 0.0)


def test_random_verified_play_is_the_teachers() -> None:
    texts, _ = play(erratic, "SELF/ASK/VERIFY")
    assert p_value(texts, distribution("teacher")) > UNLIKELY


@pytest.mark.parametrize(("action", "writer"), [(0, "student"), (1, "teacher")])
def test_each_alone(action: int, writer: str) -> None:
    texts, _ = play(always(action), "SELF/ASK")
    assert p_value(texts, distribution(writer)) > UNLIKELY
    other = "teacher" if writer == "student" else "student"
    assert p_value(texts, distribution(other)) < UNLIKELY


@pytest.mark.parametrize("accept", ["probability:0.3", "distance:0.5"])
def test_lossy_acceptance_changes_the_texts(accept: str) -> None:
    texts, _ = play(draft(2), accept=accept)
    assert p_value(texts, distribution("teacher")) < UNLIKELY


def test_tokens_left_unverified_change_the_texts() -> None:
    texts, _ = play(draft(2, verify=1), "SELF/ASK")
    assert p_value(texts, distribution("teacher")) < UNLIKELY


def test_a_fresh_draw_at_the_place_of_the_call_would_be_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the teacher's token is coupled with the proposal: the policy saw that before it called."""
    coupled = Game._teachers_token

    def fresh(game: Game, rows: Any, place: Any, uniforms: NDArray[np.float64]) -> Any:
        drawn = game.texts.draw(rows, place, uniforms, np.zeros(len(rows), bool))
        return np.where(place == game.texts.length[rows], drawn, coupled(game, rows, place, uniforms))

    monkeypatch.setattr(Game, "_teachers_token", fresh)
    texts, _ = play(choosy)
    assert p_value(texts, distribution("teacher")) < UNLIKELY


@pytest.mark.parametrize("reward", ["kl", "expected_kl"])
@pytest.mark.parametrize("scoring", ["eager", "lazy"])
def test_the_students_mean_return_is_minus_its_divergence(reward: str, scoring: str) -> None:
    student, teacher = distribution("student"), distribution("teacher")
    divergence = sum(p * math.log(p / teacher[text]) for text, p in student.items() if p > 0)
    _, returns = play(always(0), "SELF/ASK", reward=reward, scoring=scoring)
    assert abs(returns.mean() + divergence) < 4 * returns.std() / math.sqrt(EPISODES)
