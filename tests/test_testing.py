"""`tw_env.testing` lets good things pass and catches broken ones, each by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.letters import Letters, names_of, pair_of
from tests.tiny import tiny_names, tiny_pair
from tw_env import policies
from tw_env.actions import Action
from tw_env.env import AssistedDecodingEnv
from tw_env.tasks.pronounce import Pronounce
from tw_env.tasks.text import TextPairs
from tw_env.testing import check_env, check_pair, check_policy, check_task, check_vector_env
from tw_env.vector_env import AssistedDecodingVectorEnv

ID = "tw_env/TextVerify-v0"


def settings(**more: Any) -> dict[str, Any]:
    return {"task": Letters(["a", "b c", "d e f"], 6), "reward": "quality", **names_of(pair_of()), **more}


# ---- tasks -------------------------------------------------------------------------------------------------


class Words:
    """A good task."""

    name = "words"
    max_new_tokens = 4

    def __init__(self) -> None:
        self.prompts, self.references = ["a", "b"], [["c d"], ["e", "f"]]

    def quality(self, index: int, text: str) -> float:
        return float(text in self.references[index])


def words(**wrong: Any) -> Words:
    """A task with some of its attributes replaced."""
    task = Words()
    for name, value in wrong.items():
        setattr(task, name, value)
    return task


@pytest.mark.parametrize("task", [Words(), Pronounce("dev", limit=200), TextPairs()])
def test_good_tasks_pass(task: Any) -> None:
    check_task(task)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"quality": lambda index, text: 2.0},
            r"Expected a quality in \[0, 1\] for prompt \d and '', got 2.0",
        ),
        ({"quality": lambda index, text: float("nan")}, "got nan"),
        ({"quality": lambda index, text: torch.tensor(0.5)}, "Tensor"),
        ({"quality": lambda index, text: float(text not in ("c d", "e", "f"))}, "metric an error rate"),
        ({"quality": lambda index, text, turn=itertools.count(): next(turn) % 2 / 2}, "same quality twice"),
        ({"references": [["c"], "ef"]}, "Expected a list of texts as the references of prompt 1"),
        ({"references": [["c"], []]}, "prompt 1 of 'words' has no reference"),
        ({"references": [["c"]]}, "2 prompts and 1 lists"),
        ({"prompts": ["a", ""]}, "prompt 1 of 'words' has an empty prompt"),
        ({"prompts": ["a", 7]}, "Expected prompt 1 to be text, got 7"),
        ({"name": ""}, "Expected a name"),
        ({"max_new_tokens": 0}, "Expected max_new_tokens >= 1"),
    ],
)
def test_broken_tasks(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_task(words(**wrong))


def test_what_is_no_task() -> None:
    with pytest.raises(AssertionError, match="lacks name, prompts, references"):
        check_task(object())


# ---- environments ------------------------------------------------------------------------------------------


def broken(change: Callable[[list[Any], bool], None]) -> Callable[..., gymnasium.Env[Any, Any]]:
    """A maker of environments that `change` what they return, (outcome, whether it is a reset's), in place."""

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


NOISE = itertools.count()
BROKEN = {
    "no cost": (
        hide("cost"),
        "Expected cost, allowance, spent, allowed in the info of the reset; it lacks cost",
    ),
    "no cost at steps": (hide("cost", resets=False), "info of step 1; it lacks cost"),
    "whole-numbered cost": (in_info("cost", int), r"cost of the reset to be a finite float, got 0 \(int\)"),
    "negative cost": (in_info("cost", lambda cost: cost - 1.0, resets=False), "Expected a cost >= 0"),
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
    "numpy reward": (at(1, np.float32), "Expected reward of the reset to be a float"),
    "numpy end": (at(2, np.bool_), "Expected terminated of the reset to be a bool"),
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
    monkeypatch.setattr("tw_env.testing.environments.MOST_STEPS", 50)
    with pytest.raises(AssertionError, match="Expected episodes to end"):
        check_env(broken(at(2, lambda _: False)), max_episode_steps=200, **settings(max_new_tokens=14))


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


# ---- pairs -------------------------------------------------------------------------------------------------


def hooked(seed: int, module: str, hook: Callable[..., Any]) -> tuple[str, str]:
    """A tiny pair whose teacher has a hook on one of its modules."""
    pair = tiny_pair(seed=seed)
    pair.teacher.get_submodule(module).register_forward_hook(hook)
    return tiny_names(pair)


def test_good_pair_passes() -> None:
    check_pair(*tiny_names(pair_of()))


def test_broken_pairs() -> None:
    turn = itertools.count()
    noisy = hooked(90, "lm_head", lambda module, inputs, logits: logits * (1.0 + next(turn) % 5))
    with pytest.raises(AssertionError, match="Expected the teacher's logits twice"):
        check_pair(*noisy)
    looks_ahead = hooked(
        91, "model.embed_tokens", lambda module, inputs, out: out + out.mean(1, keepdim=True)
    )
    with pytest.raises(AssertionError, match="Expected a causal teacher"):
        check_pair(*looks_ahead)
    by_length = hooked(92, "lm_head", lambda module, inputs, logits: logits * (1.0 + (inputs[0].ndim == 2)))
    check_pair(*by_length)
    undefined = hooked(93, "lm_head", lambda module, inputs, logits: logits * float("nan"))
    with pytest.raises(AssertionError, match="Expected finite log-probabilities of the teacher"):
        check_pair(*undefined)


def test_what_is_no_pair(tmp_path: Any) -> None:
    with pytest.raises(AssertionError, match="Expected"):
        check_pair(str(tmp_path / "student"), str(tmp_path / "teacher"))
    small, large = tiny_pair(seed=94), tiny_pair(seed=95, vocabulary=12)
    with pytest.raises(AssertionError, match="vocabular"):
        check_pair(tiny_names(small)[0], tiny_names(large)[1])


# ---- policies ----------------------------------------------------------------------------------------------


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
            layout, actions, policies.GateNetwork(layout.size, len(actions)).eval()
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
        (lambda policy, seen: np.full(len(seen), 3 * (seen[:, -1].mean() >= 0)), "got|index"),
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


def test_out_of_range_actions() -> None:
    class Wild:
        """Plays an action that there isn't, once it is sure."""

        def predict(self, observation: Any, deterministic: bool = False) -> Any:
            return np.full(observation.shape[:-1], 9 if deterministic else 0), None

    with pytest.raises(AssertionError, match="Expected actions from 0 to 2, got"):
        check_policy(Wild(), ID, **settings())
