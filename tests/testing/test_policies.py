"""`check_policy` lets the shipped kinds pass and names what is wrong with broken policies."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.letters import Letters, names_of, pair_of
from tw_env import policies
from tw_env.actions import Action
from tw_env.env import AssistedDecodingEnv
from tw_env.testing import check_policy

ID = "tw_env/TextVerify-v0"
NOISE = itertools.count()  # what differs at every call


def settings(**more: Any) -> dict[str, Any]:
    return {"task": Letters(["a", "b c", "d e f"], 6), "reward": "quality", **names_of(pair_of()), **more}


def frame() -> tuple[Any, tuple[Action, ...]]:
    game = AssistedDecodingEnv(actions="SELF/ASK/VERIFY", **settings()).game
    return game.layout, game.spec.actions


@pytest.mark.parametrize(
    "maker",
    [
        policies.student_alone,
        policies.teacher_alone,
        policies.speculative,
        lambda layout, actions: policies.random_calls(layout, actions, 0.3),
        lambda layout, actions: policies.big_little(layout, actions, 0.5),
        lambda layout, actions: policies.Gate(
            layout, actions, policies.ObservationNetwork(layout.size, len(actions)).eval()
        ),
    ],
)
def test_good_policies_pass(maker: Any) -> None:
    with torch.random.fork_rng():
        check_policy(maker(*frame()), ID, **settings())


class Plays(policies.Policy):
    """Chooses by a given function."""

    def __init__(self, how: Callable[..., Any]) -> None:
        super().__init__(*frame())
        self.how = how

    def choose(self, observations: Any, deterministic: bool, masks: Any) -> Any:
        return self.how(self, observations)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda policy, seen: np.full(len(seen), 0.5), "Expected whole-numbered actions"),
        (lambda policy, seen: np.zeros((len(seen), 1), int), "Expected whole-numbered actions of shape"),
        (lambda policy, seen: np.full(len(seen), next(NOISE) % 2), "deterministic actions, asked for twice"),
        (lambda policy, seen: np.full(len(seen), int(len(seen) > 1)), "against one observation at a time"),
        (lambda policy, seen: np.full(len(seen), 3), r"Expected actions from 0 to 2, got \[3\]"),
    ],
)
def test_broken_policies(how: Callable[..., Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_policy(Plays(how), ID, **settings())


def test_policy_that_ignores_masks() -> None:
    class Always:
        """The face of a policy, by somebody else."""

        def predict(self, observation: Any, state: Any = None, episode_start: Any = None,
                    deterministic: bool = False, action_masks: Any = None) -> Any:  # fmt: skip
            return np.full(observation.shape[:-1], 1), state

    with pytest.raises(AssertionError, match="Expected only actions that the masks allow"):
        check_policy(Always(), ID, **settings())


def test_policy_that_changes_what_it_sees() -> None:
    def scale(policy: Any, seen: Any) -> Any:
        seen *= 0.5
        return np.zeros(len(seen), int)

    with pytest.raises(AssertionError, match="observations after predict"):
        check_policy(Plays(scale), ID, **settings())


def test_policy_that_forgets_itself_on_disk() -> None:
    class Forgetful(policies.ScoreThreshold):
        @classmethod
        def restore(cls, record: Any, folder: Any) -> Any:
            return policies.student_alone(*frame())

    with pytest.raises(AssertionError, match="actions after save and restore"):
        check_policy(Forgetful(*frame(), "surprise", -1.0, Action.ASK), ID, **settings())
