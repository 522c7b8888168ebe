"""`check_env` and `check_vector_env` name what is wrong with broken environments."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.letters import Letters, names_of, pair_of
from tw_env.env import AssistedDecodingEnv
from tw_env.testing import check_env, check_vector_env
from tw_env.vector_env import AssistedDecodingVectorEnv

ID = "tw_env/TextVerify-v0"
NOISE = itertools.count()  # what differs at every call


def settings(**more: Any) -> dict[str, Any]:
    return {"task": Letters(["a", "b c", "d e f"], 6), "reward": "quality", **names_of(pair_of()), **more}


def broken(change: Callable[[list[Any], bool], None]) -> Callable[..., gymnasium.Env[Any, Any]]:
    """A maker of environments that `change` their outcomes in place; its second argument is true at resets."""

    class Broken(gymnasium.Wrapper[Any, Any, Any, Any]):
        def reset(self, **arguments: Any) -> Any:
            observation, info = super().reset(**arguments)
            outcome = [observation, 0.0, False, False, info]
            change(outcome, True)
            return outcome[0], outcome[4]

        def step(self, action: Any) -> Any:
            outcome = list(super().step(action))
            change(outcome, False)
            return tuple(outcome)

        def action_masks(self) -> Any:
            return self.unwrapped.action_masks()

    return lambda **arguments: Broken(AssistedDecodingEnv(actions="SELF/ASK/VERIFY", **arguments))


def in_info(name: str, value: Callable[[Any], Any], resets: bool = True) -> Callable[[list[Any], bool], None]:
    def change(outcome: list[Any], reset: bool) -> None:
        if resets or not reset:
            outcome[4][name] = value(outcome[4].get(name))

    return change


def hide(name: str, resets: bool = True) -> Callable[[list[Any], bool], None]:
    def change(outcome: list[Any], reset: bool) -> None:
        if resets or not reset:
            del outcome[4][name]

    return change


def at(place: int, value: Callable[[Any], Any]) -> Callable[[list[Any], bool], None]:
    def change(outcome: list[Any], reset: bool) -> None:
        outcome[place] = value(outcome[place])

    return change


BROKEN = {
    "no cost": (
        hide("cost"),
        "Expected cost, allowance, spent, allowed in the info of the reset; it lacks cost",
    ),
    "no cost at steps": (hide("cost", resets=False), "info of step 1; it lacks cost"),
    "whole-numbered cost": (in_info("cost", int), r"cost of the reset to be a finite float, got 0 \(int\)"),
    "negative cost": (in_info("cost", lambda cost: cost - 1.0), "Expected a cost >= 0, got -1.0 at the reset"),
    "cost counted twice": (in_info("cost", lambda cost: 2 * cost), "spent as the sum of cost up to step"),
    "allowance lost": (in_info("allowance", lambda _: 0.0), "allowed as the sum of allowance up to"),
    "a key that comes later": (in_info("more", lambda _: 1, resets=False), "same info keys as at the reset"),
    "a tensor": (in_info("hidden", lambda _: [torch.zeros(2)]), "no torch tensors"),
    "a clock": (in_info("clock", lambda _: next(NOISE)), "two environments with the same seed: info"),
    "no mask for SELF": (in_info("action_mask", lambda mask: mask * 0), r"action 0 \(SELF\) always allowed"),
    "mask of another type": (in_info("action_mask", lambda mask: mask.astype(bool)), "int8"),
    "two masks": (in_info("action_mask", lambda mask: mask * [1, 0, 1]), "int8|action_masks"),
    "quality": (in_info("quality", lambda quality: quality + 0.1), "quality of the final text"),
    "observation": (
        at(0, lambda observation: observation - 100),
        "Expected the observation of the reset within",
    ),
    "numpy reward": (at(1, np.float32), "Expected reward of step 1 to be a float"),
    "numpy end": (at(2, np.bool_), "Expected terminated of step 1 to be a bool"),
    "infinite reward": (at(1, lambda reward: float("inf")), "finite reward"),
    "another return": (at(1, lambda reward: reward + 0.1), "the return for the final text"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_environments(name: str) -> None:
    change, message = BROKEN[name]
    with pytest.raises(AssertionError, match=message):
        check_env(broken(change), **settings())


def test_calls_in_spite_of_the_mask() -> None:
    class Defiant(AssistedDecodingEnv):
        def step(self, action: Any) -> Any:
            self.game.budget.masked = False
            result = super().step(action)
            self.game.budget.masked = True
            result[4]["action_mask"] = self.game.action_mask()[0]
            return result

    with pytest.raises(AssertionError, match="Expected no teacher call at step"):
        check_env(Defiant, rule="never ask the teacher", **settings())


def test_endless_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tw_env.testing.environments.MOST_STEPS", 1)
    with pytest.raises(AssertionError, match="Expected episodes to end, got 1 steps without an end"):
        check_env(ID, **settings(rule="never ask the teacher"))


# ---- batched environments ----------------------------------------------------------------------------------


def batched(change: Callable[[dict[str, Any], np.ndarray], None], shift: int = 0) -> Any:
    class Broken(AssistedDecodingVectorEnv):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return super().reset(seed=None if seed is None else seed + shift, options=options)

        def step(self, actions: Any) -> Any:
            result = super().step(actions)
            change(result[4], result[2] | result[3])
            return result

    return lambda **arguments: Broken(actions="SELF/ASK/VERIFY", **arguments)


def drop_finals(infos: dict[str, Any], done: np.ndarray) -> None:
    for key in ("final_obs", "_final_obs", "final_info", "_final_info"):
        infos.pop(key, None)


def whole_numbers(infos: dict[str, Any], done: np.ndarray) -> None:
    infos["allowance"] = infos["allowance"].astype(int)


def resets_cost(infos: dict[str, Any], done: np.ndarray) -> None:
    if "final_info" in infos:
        infos["final_info"]["spent"] = infos["spent"]


@pytest.mark.parametrize(
    ("maker", "message"),
    [
        (batched(drop_finals), "Expected final_obs and final_info of the episode that ends at step"),
        (batched(whole_numbers), r"Expected floats in infos\['allowance'\]"),
        (batched(resets_cost), "spent of row . at end at step"),
        (batched(lambda infos, done: None, shift=1), "row 0 at the reset"),
    ],
)
def test_broken_vector_environments(maker: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_vector_env(ID, maker, steps=20, **settings(rule="sample"))


def test_vector_environment_from_a_callable_needs_both() -> None:
    with pytest.raises(AssertionError, match="Expected `vector=`"):
        check_vector_env(AssistedDecodingEnv, **settings())
