"""Bad input to the environments: an early error that says what was expected, what came and how to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import tw_env
from tests.letters import POSITIONS, Letters, names_of, pair_of
from tw_env.env import AssistedDecodingEnv
from tw_env.rules import Constraint, RuleError
from tw_env.vector_env import AssistedDecodingVectorEnv


def refused(kind: type[Exception], *fragments: str, **settings: Any) -> None:
    """Both forms of the env refuse these settings, with all fragments in the message."""
    arguments = names_of(pair_of()) | {"task": Letters()} | settings
    for make in (AssistedDecodingEnv, AssistedDecodingVectorEnv):
        with pytest.raises(kind) as error:
            make(**arguments)
        missing = [fragment for fragment in fragments if fragment not in str(error.value)]
        assert not missing, str(error.value)


def test_vocabularies_that_differ() -> None:
    other = names_of(pair_of(vocabulary=9))
    refused(ValueError, "same vocabulary", "11 tokens", "9", "Choose two models", teacher=other["teacher"])


def test_one_model_only() -> None:
    refused(ValueError, "both student and teacher, or neither", "teacher=None", teacher=None)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    refused(ValueError, "a model folder or a hub id", missing, "Check the path", student=missing)


def test_a_corrupt_weight_file(tmp_path: Path) -> None:
    pair = pair_of()
    for name, model in (("student", pair.student), ("teacher", pair.teacher)):
        model.save_pretrained(tmp_path / name)
        pair.tokenizer.save_pretrained(tmp_path / name)
    weights = tmp_path / "teacher" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    names = {name: str(tmp_path / name) for name in ("student", "teacher")}
    refused(ValueError, "whole safetensors file", str(weights), "Delete it and fetch or save it again", **names)


def test_a_prompt_longer_than_the_positions() -> None:
    task = Letters(["a", "a b " * (POSITIONS // 2 - 1)], max_new_tokens=3)
    refused(ValueError, f"within the {POSITIONS} positions", "prompt 1 has 18 tokens", "Shorten", task=task)


@pytest.mark.parametrize(
    ("task", "fragments"),
    [
        (Letters([]), ("at least one prompt", "'letters' has 0 prompts")),
        (Letters(["a", ""]), ("Expected text", "prompt 1 of 'letters' has an empty prompt")),
        (Letters(["a", " "]), ("Expected tokens in every prompt", "prompt 1 has none")),
        (Letters(["a"], max_new_tokens=0), ("max_new_tokens >= 1", "got 0")),
        ("translation", ("or a task object", "'translation'")),
    ],
)
def test_tasks_without_anything_to_play(task: Any, fragments: tuple[str, ...]) -> None:
    refused(ValueError, *fragments, task=task)


def test_an_object_that_is_no_task() -> None:
    refused(TypeError, "name, prompts, references, max_new_tokens, quality", "dict lacks", task={"prompts": ["a"]})


@pytest.mark.parametrize(
    ("lines", "fragments"),
    [
        ("", ("at least one record", "none", "one JSON object a line")),
        ('{"prompt": "a"}\n', ("line 1", "`reference` or `references`", "'prompt'", "Rename or add")),
        ('{"prompt": "a", "reference": "b"}\n{"text": "a"}\n', ("line 2", "`prompt`", "'text'")),
        ('{"prompt": "a", "reference": ""}\n', ("line 1", "not blank", "''")),
        ("prompt,reference\n", ("line 1", "JSON object", "could not read")),
    ],
)
def test_data_files(lines: str, fragments: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(lines)
    refused(ValueError, *fragments, task="text", data=str(path), split=None)


def test_a_data_file_that_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "data.jsonl")
    refused(FileNotFoundError, "JSONL file", path, "check the path", task="text", data=path)


def test_an_unknown_metric_or_split() -> None:
    refused(ValueError, "chrf, bleu, rouge1, rouge2, rougeL, exact, edit", "'meteor'", task="text", metric="meteor")
    refused(ValueError, "pair, policy, dev, test", "'train'", task="pronounce", split="train")


@pytest.mark.parametrize(
    ("rule", "fragments"),
    [
        ("ask for at most 150% of the tokens", ("150", "100%", "at most 3 times")),
        ("ask at least 3 times", ("at least", "lower bound", "at most 3 times")),
        ("be nice", ("be nice", "at most 3 times")),
        ([], ("at least one rule", "empty list")),
        (["never ask", "at most 2.5 calls"], ("2.5", "whole numbers")),
        ("at most 50 ms per output", ("limits time", "latency=", "None", "latency.measure")),
        ("at most 2 cents per text", ("limits money", "prices=", "None")),
    ],
)
def test_rules_that_can_not_be_kept(rule: Any, fragments: tuple[str, ...]) -> None:
    refused(ValueError, *fragments, rule=rule)


@pytest.mark.parametrize(
    ("quantity", "limit"), [("calls", -1), ("calls_per_token", 1.5), ("latency_ms", 0), ("words", 3)]
)
def test_impossible_constraints(quantity: str, limit: float) -> None:
    with pytest.raises(RuleError, match=r"Expected a .*got") as error:
        Constraint(quantity, limit)  # type: ignore[arg-type]
    assert repr(limit) in str(error.value) or repr(quantity) in str(error.value)


@pytest.mark.parametrize(
    ("settings", "fragments"),
    [
        ({"reward": "kl"}, ("'kl' does not fit greedy", "'regret'")),
        ({"reward": "regret", "decoding": "sampling"}, ("'regret' does not fit sampling", "'kl'")),
        ({"reward": {"quality": 1, "kl": 0.1}}, ("'kl' does not fit greedy", "'regret'")),
        ({"reward": "bleu"}, ("quality, regret, kl, expected_kl", "'bleu'")),
        ({"accept": "probability:2"}, ("'exact'", "'probability:P'", "'distance:D'", "probability:2")),
        ({"accept": "always"}, ("'exact'", "'always'")),
        ({"actions": "ASK"}, ("SELF first", "'ASK'", "actions='SELF/VERIFY'")),
        ({"decoding": "beam"}, ("greedy, sampling", "'beam'")),
        ({"scoring": "sometimes"}, ("auto, eager, lazy", "'sometimes'")),
        ({"max_new_tokens": 0}, ("max_new_tokens >= 1", "0")),
        ({"max_episode_steps": -3}, ("max_episode_steps >= 1", "-3")),
        ({"remember": 3}, ("at least 18 prefixes", "nodes=3", "remember=0")),
        ({"latency": {"student_ms": 1.0}}, ("student_ms, teacher_ms, teacher_ms_per_token", "{'student_ms': 1.0}")),
        ({"latency": "no-such-file.json"}, ("JSON file with a latency table", "no-such-file.json", "measure(pair)")),
        ({"prices": {"token": 1.0}}, ("call, read, written", "token")),
        ({"prices": 3}, ("by name (call, read, written)", "3")),
        ({"prices": {"call": "dear"}}, ("price per call", "finite number", "'dear'")),
        ({"accept": 0.3}, ("'probability:P'", "got 0.3")),
        ({"reward": ["quality"]}, ("quality, regret, kl, expected_kl", "['quality']")),
        ({"reward": {"quality": "much"}}, ("finite weight", "'much'")),
        ({"actions": 5}, ("SELF, ASK, VERIFY", "5")),
        ({"rule": 3}, ("a rule as a sentence (str), got int", "at most 3 times")),
        ({"limit": "5"}, ("whole number", "limit >= 1", "'5'")),
        ({"max_new_tokens": 2.5}, ("whole number", "max_new_tokens >= 1", "2.5")),
        ({"hard": "yes"}, ("hard to be True or False", "'yes'")),
        ({"render_mode": "human"}, ("None or 'ansi'", "'human'")),
    ],
)
def test_settings(settings: dict[str, Any], fragments: tuple[str, ...]) -> None:
    refused(ValueError, *fragments, **settings)


def test_unknown_arguments() -> None:
    refused(TypeError, "arguments out of", "max_new_tokens", "got max_tokens", max_tokens=5)
    with pytest.raises(TypeError, match="got max_tokens"):
        gymnasium.make(tw_env.IDS[0], max_tokens=5)


def test_no_rows() -> None:
    with pytest.raises(ValueError, match="num_envs >= 1, got 0"):
        AssistedDecodingVectorEnv(0, **names_of(pair_of()), task=Letters())


@pytest.mark.parametrize("action", [2, -1, 0.5, "SELF", None, np.array([0])])
def test_invalid_actions_of_the_single_env(action: Any) -> None:
    env = AssistedDecodingEnv(**names_of(pair_of()), task=Letters())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"out of 0 \(SELF\), 1 \(ASK\); got") as error:
        env.step(action)
    assert repr(action) in str(error.value)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 2], r"out of 0 \(SELF\), 1 \(ASK\); got 2"),
        ([-1, 0], r"out of 0 \(SELF\), 1 \(ASK\); got -1"),
        ([0], r"2 whole numbers, one action a row; got int64 of shape \(1,\)"),
        ([0.0, 1.0], "2 whole numbers, one action a row; got float64"),
        ([True, False], "2 whole numbers, one action a row; got bool"),
    ],
)
def test_invalid_actions_of_the_vector_env(actions: list[Any], message: str) -> None:
    env = AssistedDecodingVectorEnv(2, **names_of(pair_of()), task=Letters())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(np.array(actions))


def test_steps_out_of_order() -> None:
    both = names_of(pair_of()) | {"task": Letters(max_new_tokens=1)}
    with pytest.raises(ValueError, match=r"reset\(\) before the first step\(\)"):
        AssistedDecodingVectorEnv(2, **both).step(np.zeros(2, np.int64))
    env = AssistedDecodingEnv(**both)
    with pytest.raises(RuntimeError, match=r"reset\(\) before step\(\)"):
        env.step(np.int64(0))
    env.reset(seed=0)
    env.step(np.int64(0))
    with pytest.raises(RuntimeError, match=r"reset\(\) before step\(\)"):
        env.step(np.int64(0))


def test_seeds() -> None:
    env = AssistedDecodingVectorEnv(2, **names_of(pair_of()), task=Letters())
    with pytest.raises(ValueError, match="Expected 2 seeds, one a row, got 3"):
        env.reset(seed=[1, 2, 3])
    first, second = env.reset(seed=np.int64(4)), env.reset(seed=[4, 5])  # type: ignore[arg-type]
    np.testing.assert_array_equal(first[0], second[0])
