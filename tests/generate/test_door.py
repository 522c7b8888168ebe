"""`generate(custom_generate=assisted)`: the game of the environments, whoever writes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from agents.rollout import play_prompts
from tests.asking import asking_pair
from tests.families import MAIN, family
from tests.generate.door import CAP, RULE, alone, batch, texts_of, write
from tests.letters import PROMPTS, Letters, Watched, first_texts, names_of, pair_of
from tests.test_sampling import CAP as SAMPLED_CAP
from tests.test_sampling import PAIR as SAMPLED_PAIR
from tests.test_sampling import UNLIKELY, distribution, p_value
from tests.tiny import tiny_tokenizer
from tw_env import policies
from tw_env.actions import Action, Writer
from tw_env.costs import CostModel
from tw_env.decoding.accept import Accept
from tw_env.decoding.conventions import conventions_of
from tw_env.generate import assisted
from tw_env.generate.playing import Terms, find_policy, play, set_up
from tw_env.policies import AskToken
from tw_env.policies.cuts import CutTable
from tw_env.rules import Constraint, Quantity
from tw_env.schedule import Starts
from tw_env.tasks import pronounce

WORDS = 25
TABLE = {"student_ms": 1.0, "teacher_ms": 10.0, "teacher_ms_per_token": 0.5}


# ---- whose text it is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["teacher", "speculative", "speculative-1", "speculative-3"])
def test_verified_drafts_and_the_teacher_alone_are_the_teachers_text(policy: str) -> None:
    pair = pair_of()
    out = write(pair, policy=policy)
    assert texts_of(out) == alone(pair.teacher, pair) != alone(pair.student, pair)
    assert Writer.STUDENT not in set(out.writers.flatten().tolist())
    if policy == "teacher":
        assert (out.calls == out.tokens).all()


def test_the_student_alone() -> None:
    pair = pair_of()
    out = write(pair, policy="student")
    assert texts_of(out) == alone(pair.student, pair)
    assert out.calls.sum() == 0
    assert set(out.writers.flatten().tolist()) <= {Writer.STUDENT, -1}


def test_a_batch_is_its_rows_and_prompts_come_back_with_pads_around_them() -> None:
    pair = pair_of()
    together = write(pair)
    apart = [write(pair, [prompt]) for prompt in PROMPTS]
    assert texts_of(together) == [texts_of(one)[0] for one in apart]
    for name in ("tokens", "calls", "spent", "allowed"):
        assert together[name].tolist() == [one[name].item() for one in apart], name
    inputs = batch(pair, PROMPTS)
    door = partial(assisted, tokenizer=pair.tokenizer)
    ids = pair.student.generate(
        **inputs, custom_generate=door, teacher=pair.teacher, policy="speculative", max_new_tokens=CAP, pad_token_id=1
    )
    width = inputs["input_ids"].shape[1]
    assert torch.equal(ids[:, :width], inputs["input_ids"])
    for row, text in zip(ids[:, width:].tolist(), texts_of(together), strict=True):
        assert row == [*text, *[1] * (len(row) - len(text))]


@pytest.mark.parametrize("kind", MAIN)
@pytest.mark.parametrize(("policy", "seed"), [("student", 0), ("teacher", 1), ("speculative-2", 1)])
def test_encoder_decoders_write_their_own_texts_from_sources(kind: str, policy: str, seed: int) -> None:
    student, teacher = family(kind), family(kind, seed=1)
    sources = torch.tensor([[3, 4, 5, 6], [7, 8, 2, 2], [9, 3, 11, 2]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    own = family(kind, seed=seed)
    opening = conventions_of(own).opening
    lengths = {"max_new_tokens": CAP + len(opening) - 1}  # `generate` counts a first token that is forced
    expected = own.generate(sources, attention_mask=mask, do_sample=False, **lengths)
    out = student.generate(
        sources, attention_mask=mask, custom_generate=partial(assisted, tokenizer=tiny_tokenizer(13)), teacher=teacher,
        policy=policy, rule=RULE, max_new_tokens=CAP, do_sample=False, return_dict_in_generate=True,
    )  # fmt: skip
    assert out.sequences.tolist() == expected.tolist()
    assert out.sequences.shape[1] == len(opening) + out.writers.shape[1]
    assert (out.calls > 0).all() == (policy != "student")


# ---- the environment's game ------------------------------------------------------------------------------------


def test_the_shipped_gate_writes_calls_and_spends_as_in_the_environment() -> None:
    gate = policies.load("pronounce-pcl")
    env = Watched(
        WORDS, task="pronounce", split="dev", limit=WORDS, actions="SELF/ASK/VERIFY", device="cpu", remember=0,
        rule=RULE, reward="quality",
    )  # fmt: skip
    every = range(WORDS)
    outcomes = play_prompts(env, gate, every, RULE, 0, deterministic=True)
    texts, _ = first_texts(
        env, lambda _, seen: np.asarray(gate.predict(seen, deterministic=True)[0]), options={"prompts": every}
    )
    out = write(
        env.pair, env.task.prompts, policy="pronounce-pcl", max_new_tokens=24, latency=pronounce.LATENCY
    )  # fmt: skip
    assert texts_of(out) == texts
    assert out.calls.tolist() == outcomes.calls.tolist()
    assert out.tokens.tolist() == outcomes.tokens.tolist()
    np.testing.assert_allclose(out.spent, outcomes.spent)
    np.testing.assert_allclose(out.allowed, outcomes.allowed)
    assert 0 < out.calls.sum() < out.tokens.sum() / 3
    assert (out.latency_ms > 0).all()
    assert out.price is None


@pytest.mark.parametrize("decoding", ["greedy", "sampling"])
def test_random_numbers_costs_and_masks_are_the_environments(decoding: str) -> None:
    pair, settings = pair_of(), {"latency": TABLE, "prices": {"call": 2.0, "read": 0.5}, "hard": True}
    env = Watched(
        len(PROMPTS), **names_of(pair), task=Letters(max_new_tokens=CAP), actions="SELF/ASK/VERIFY", decoding=decoding,
        rule="at most 2 calls", reward="quality", remember=0, **settings,
    )  # fmt: skip
    policy = policies.random_calls(env.layout, env.game.spec.actions, 0.4)
    every = range(len(PROMPTS))
    outcomes = play_prompts(env, policy, every, "at most 2 calls", 17, deterministic=True)
    policy.seed(17)
    texts, _ = first_texts(
        env, lambda _, seen: np.asarray(policy.predict(seen)[0]), seed=17, options={"prompts": every}
    )
    out = write(
        pair, policy=policy, rule="at most 2 calls", do_sample=decoding == "sampling", top_k=0, seed=17, **settings
    )  # fmt: skip
    assert texts_of(out) == texts
    assert out.calls.tolist() == outcomes.calls.tolist()
    assert out.calls.max() == 2
    prompt_tokens = [len(ids) for ids in pair.tokenizer(list(PROMPTS)).input_ids]
    for row, calls in enumerate(out.calls.tolist()):
        assert out.latency_ms[row] >= 1.0 * out.tokens[row] + 10.0 * calls
        assert bool(out.price[row] >= 2.0 * calls + 0.5 * prompt_tokens[row]) == (calls > 0)


def test_rules_may_differ_by_row() -> None:
    pair = pair_of()
    rules = ["never", Constraint(Quantity.CALLS, 1, hard=True), "as often as you like"]
    out = write(pair, ["a b c"] * 3, policy="teacher", rule=rules)
    assert out.calls.tolist() == [0, 1, len(alone(pair.teacher, pair, ["a b c"])[0])]
    assert out.allowed.tolist()[:2] == [0.0, 1.0]


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_the_teacher_reads_what_it_is_asked_about_and_nothing_for_rows_that_wait(name: str) -> None:
    pair = pair_of()
    prompts = [tuple(ids) for ids in pair.tokenizer(list(PROMPTS)).input_ids]
    rules = [Constraint(Quantity.CALLS_PER_TOKEN, np.inf)] * len(prompts)
    starts = Starts(np.arange(len(prompts)), list(prompts), rules, None)
    terms = Terms(CAP, False, Accept(), False, CostModel(), pair.end_tokens)
    game, policy = set_up(pair, find_policy(name, pair), starts, terms)
    written = play(game, policy, starts, 0, True, None)
    assert len({len(text) for text in written.tokens}) > 1, "some rows wait for others"
    read = sum(len(prompt) + len(text) - 1 for prompt, text in zip(prompts, written.tokens, strict=True))
    assert game.texts.teacher_tokens == (read if name == "teacher" else 0)


# ---- sampling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "writer"), [("student", "student"), ("speculative-2", "teacher")])
def test_samples_are_distributed_as_their_writers(policy: str, writer: str) -> None:
    pair, other = pair_of(**SAMPLED_PAIR), "teacher" if writer == "student" else "student"
    out = write(
        pair, ["a b"], policy=policy, max_new_tokens=SAMPLED_CAP, do_sample=True, num_return_sequences=3000, seed=5
    )  # fmt: skip
    texts = texts_of(out)
    assert len(texts) == 3000
    assert p_value(texts, distribution(writer)) > UNLIKELY
    assert p_value(texts, distribution(other)) < UNLIKELY


def test_samples_follow_torchs_generator_as_generates_own() -> None:
    pair = pair_of()
    texts = []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            texts.append(texts_of(write(pair, do_sample=True, top_k=0, policy="speculative-2")))
    assert texts[0] == texts[1] != texts[2]


# ---- a student that reads its rule ------------------------------------------------------------------------------


def test_a_student_that_reads_rules_is_told_the_sentence_and_asks_by_itself() -> None:
    pair, words = asking_pair(0.7), ["a b c 3", "c c e f"]
    prompts = PROMPTS[:6]
    env = Watched(6, **names_of(pair), task=Letters(max_new_tokens=CAP), actions="SELF/ASK/VERIFY")
    told = [words[row % 2] for row in range(6)]
    policy = AskToken(env.layout, env.game.spec.actions)
    texts, _ = first_texts(
        env, lambda _, seen: np.asarray(policy.predict(seen, deterministic=True)[0]),
        options={"prompts": range(6), "rules": RULE, "words": told},
    )  # fmt: skip
    out = write(pair, prompts, policy=None, words=told)
    assert texts_of(out) == texts
    assert out.calls.sum() > 0
    texts, _ = first_texts(
        env, lambda _, seen: np.asarray(policy.predict(seen, deterministic=True)[0]),
        options={"prompts": range(6), "rules": RULE},
    )  # fmt: skip
    assert texts_of(write(pair, prompts, policy=None)) == texts, "without other words, those of the rule"


def test_told_in_other_words_it_goes_by_them_alone() -> None:
    pair, words = asking_pair(0.7), "a b c 3"
    env = Watched(1, **names_of(pair), task=Letters(max_new_tokens=CAP), actions="SELF/ASK")
    name = Quantity.CALLS_PER_TOKEN.value
    cuts = CutTable({name: [0.1, 0.9]}, {name: [1e6, 1e6]}, default=0.0, elsewhere=0.0)
    policy = AskToken(env.layout, env.game.spec.actions, cut=cuts)
    assert write(pair, rule=RULE, policy=policy).calls.sum() == 0, "its cuts forbid it under every limit"
    plain = AskToken(env.layout, env.game.spec.actions)
    by_words = write(pair, rule=RULE, words=words, policy=policy)
    assert by_words.calls.sum() > 0
    assert texts_of(by_words) == texts_of(write(pair, rule=RULE, words=words, policy=plain))
    assert write(pair, rule="never ask", words=words, policy=policy).calls.sum() == 0, "the game masks it"


def test_a_student_is_told_no_rule_of_a_kind_that_it_never_read() -> None:
    pair = asking_pair(0.7)
    asked = {"policy": None, "latency": TABLE, "prices": {"call": 1.0}}
    for rule, quantity in (("at most 2 calls", "calls"), ("at most 50 ms", "latency_ms"), ("at most 2 cents", "price")):
        with pytest.raises(ValueError, match=rf"rule on calls_per_token, which .* read; got one on {quantity}: "):
            write(pair, rule=rule, **asked)
    with pytest.raises(ValueError, match="as words="):
        write(pair, rule=[*[RULE] * (len(PROMPTS) - 1), "at most 2 calls"], **asked)
    forced = write(pair, rule="at most 2 calls", words="at most 2 calls", **asked)
    assert forced.allowed.tolist() == [2.0] * len(PROMPTS), "the rule keeps the account"
    assert write(pair, rule="at most 0 calls", **asked).calls.sum() == 0
    assert write(pair, rule=Constraint(Quantity.CALLS, np.inf), **asked).calls.sum() > 0
    env = Watched(1, **names_of(pair), task=Letters(max_new_tokens=CAP), actions="SELF/ASK")
    policy = AskToken(env.layout, env.game.spec.actions, quantities=tuple(Quantity))
    assert texts_of(write(pair, rule="at most 2 calls", policy=policy))
    assert write(pair, rule="at most 2 calls").calls.max() > 0, "drafts that are verified read no rule"


def test_the_policy_beside_the_students_weights_is_the_default(tmp_path: Any) -> None:
    pair = asking_pair()
    env = Watched(1, **names_of(pair), task=Letters(max_new_tokens=CAP), actions="SELF/ASK")
    pair.student.save_pretrained(tmp_path)
    pair.tokenizer.save_pretrained(tmp_path)
    AskToken(env.layout, env.game.spec.actions, Action.ASK, cut=-1e6).save(tmp_path)
    student = type(pair.student).from_pretrained(tmp_path, dtype=torch.float64)
    out = student.generate(
        **batch(pair, PROMPTS), custom_generate=assisted, teacher=names_of(pair)["teacher"], rule=RULE,
        max_new_tokens=CAP, return_dict_in_generate=True,
    )  # fmt: skip
    assert (out.calls == out.tokens).all(), "its cut always calls"
    assert texts_of(out) == alone(pair.teacher, pair)
