"""A student that reads its rule and asks by a token of its own: what it sees, and what the teacher never sees."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.asking import asking_pair
from tests.letters import Letters, Watched, feature, first_texts, names_of
from tests.tiny import tiny_names, tiny_pair
from tw_env import policies
from tw_env.decoding.reading import RULE_TOKENS, RuleReader
from tw_env.env import AssistedDecodingEnv
from tw_env.policies import AskToken, teacher_alone

RULES = ["a b c 3", "c c e f"]  # told instead of rules: the tiny tokenizer knows letters only


def game(rows: int = 4, doubt: float = 0.0, **settings: Any) -> Watched:
    return Watched(rows, **names_of(asking_pair(doubt=doubt)), task=Letters(), actions="SELF/ASK/VERIFY", **settings)


def options(rows: int, words: list[str]) -> dict[str, Any]:
    told = [words[row % len(words)] for row in range(rows)]
    return {"prompts": np.arange(rows), "rules": "at most 20% of the tokens", "words": told}


def log_odds_by_hand(env: Watched, row: int, words: str) -> float:
    """From one forward pass over rule, prompt and text."""
    tokens = env.pair.tokenizer(words + ".").input_ids
    prompt = env.pair.tokenizer(env.task.prompts[env.game.prompt[row]]).input_ids
    text = env.game.texts.tokens[row, : env.game.texts.length[row]].tolist()
    with torch.no_grad():
        logits = env.pair.student(torch.tensor([tokens + prompt + text])).logits[0, -1]
    asks = list(env.pair.ask_tokens)
    assert len(asks) == 4
    gate = float(logits[asks].logsumexp(-1) - logits[: asks[0]].logsumexp(-1))
    p_max = float(logits[: asks[0]].softmax(-1).max())
    return gate + env.pair.ask_doubt * (np.log(1 - p_max) - np.log(p_max))


@pytest.mark.parametrize("doubt", [0.0, 0.5])
@pytest.mark.parametrize("remember", [0, 10_000])
@pytest.mark.parametrize("hidden", [False, True])
def test_the_ask_slice_is_the_log_odds_after_rule_prompt_and_text(remember: int, hidden: bool, doubt: float) -> None:
    env = game(remember=remember, hidden=hidden, doubt=doubt)
    assert env.pair.ask_doubt == doubt
    observations, _ = env.reset(seed=0, options=options(4, RULES))
    actions = np.random.default_rng(3).integers(3, size=(3, 4))
    for step in range(3):
        shown = feature(env, observations, "ask")
        for row in range(4):
            expected = log_odds_by_hand(env, row, RULES[row % 2])
            assert shown[row] == pytest.approx(expected, abs=1e-4)
        observations, _, terminated, _, _ = env.step(actions[step])
        if terminated.any():
            return


def test_the_words_change_what_the_student_says_and_nothing_of_the_teacher() -> None:
    env = game(6)
    alone = teacher_alone(env.layout, env.game.spec.actions)

    def play(_: Watched, observations: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.asarray(alone.predict(observations)[0])

    told = [first_texts(env, play, seed=0, options=options(6, [words]))[0] for words in RULES]
    assert told[0] == told[1]
    asks = []
    for words in RULES:
        observations, _ = env.reset(seed=0, options=options(6, [words]))
        asks.append(feature(env, observations, "ask"))
    assert not np.allclose(asks[0], asks[1])
    prompt_lengths = [len(env.pair.tokenizer(prompt).input_ids) for prompt in env.task.prompts[:6]]
    assert env.game.texts.prompt_length.tolist() == prompt_lengths, "what a call reads is the prompt without the rule"
    plain = Watched(6, **names_of(tiny_pair(positions=80)), task=Letters(), actions="SELF/ASK/VERIFY")
    assert first_texts(plain, play_with(plain), seed=0, options={"prompts": np.arange(6)})[0] == told[0]


def play_with(env: Watched) -> Any:
    alone = teacher_alone(env.layout, env.game.spec.actions)
    return lambda _, observations: np.asarray(alone.predict(observations)[0])


def test_rules_without_words_are_worded_by_the_rows_own_generator() -> None:
    env = Watched(3, **names_of(asking_pair()), task=Letters(), rule="sample")
    env.reset(seed=5)
    first = [list(prompt) for prompt in env.game.texts._student.prompts]
    env.reset(seed=5)
    assert first == [list(prompt) for prompt in env.game.texts._student.prompts]
    single = AssistedDecodingEnv(**names_of(asking_pair()), task=Letters(), rule="sample")
    single.reset(seed=5)
    assert list(single.game.texts._student.prompts[0]) == first[0]


def test_a_rule_has_room_and_ends_alike() -> None:
    reader = RuleReader(asking_pair().tokenizer)
    assert reader.ids("A b  c.") == reader.ids("a b c")
    assert reader.before("a b", [4, 5])[-2:] == (4, 5)
    with pytest.raises(ValueError, match=f"at most {RULE_TOKENS} tokens, got 59"):
        reader.ids("a " * 59)
    with pytest.raises(ValueError, match="got an empty sentence"):
        reader.ids(" . ")


def test_the_ask_token_asks_as_often_as_it_says(tmp_path: Any) -> None:
    env = game(200)
    observations, _ = env.reset(seed=0, options={"prompts": np.arange(200) % 10, "rules": "at most 20% of the tokens"})
    policy = AskToken(env.layout, env.game.spec.actions)
    rate = np.mean([(np.asarray(policy.predict(observations)[0]) == 2).mean() for _ in range(200)])
    expected = (1 / (1 + np.exp(-feature(env, observations, "ask")))).mean()
    assert rate == pytest.approx(expected, abs=0.01)
    policy.save(tmp_path)
    again = policies.load(tmp_path)
    record = json.loads((tmp_path / "policy.json").read_text())
    assert again.quantities == tuple(record.pop("quantities")) == ("calls_per_token",)
    (tmp_path / "policy.json").write_text(json.dumps(record))
    assert policies.load(tmp_path).quantities == ("calls_per_token",), "what all students were trained on before"
    chosen = again.predict(observations, deterministic=True)[0]
    assert np.array_equal(chosen == 2, feature(env, observations, "ask") > 0)


def test_ask_tokens_are_not_made_up() -> None:
    env = Watched(2, **names_of(tiny_pair()), task=Letters())
    with pytest.raises(ValueError, match="whose student has an ask token"):
        AskToken(env.layout, env.game.spec.actions)
    assert tiny_names(tiny_pair())[0] != asking_pair().name


def test_asks_of_pending_tokens_are_kept_until_the_text_would_end() -> None:
    env = game(8, remember=0)
    observations, _ = env.reset(seed=1, options={"prompts": np.arange(8), "rules": "at most 20% of the tokens"})
    at_end = AskToken(env.layout, env.game.spec.actions, at_end=True)
    silent = np.ones(8)  # P(no ask at any pending token)
    for _ in range(6):
        asks = 1 / (1 + np.exp(-feature(env, observations, "ask").astype(float)))
        assert feature(env, observations, "pending_ask") == pytest.approx(-np.log(silent), abs=1e-4)
        scores, ends = at_end.scores(observations), feature(env, observations, "would_end") > 0
        expected = 1 - silent * (1 - asks)
        assert 1 / (1 + np.exp(-scores[ends])) == pytest.approx(expected[ends], abs=1e-5)
        assert (scores[~ends] < -1e6).all()
        actions = np.where(np.arange(8) % 2, 0, 2 * ends)
        observations, _, terminated, _, _ = env.step(actions.astype(np.int64))
        silent = np.where((actions > 0) | terminated, 1.0, silent * (1 - asks))
