"""`generate(custom_generate=assisted)`: the game of the environments, and what streams of it."""

from __future__ import annotations

import io
from collections import Counter
from functools import partial
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, TextIteratorStreamer

from agents.rollout import play_prompts
from tests.asking import asking_pair
from tests.families import MAIN, family
from tests.letters import PROMPTS, Letters, Watched, first_texts, names_of, pair_of
from tests.test_decoding_equivalence import generated
from tests.test_sampling import CAP as SAMPLED_CAP
from tests.test_sampling import PAIR as SAMPLED_PAIR
from tests.test_sampling import UNLIKELY, distribution, p_value
from tests.tiny import END, tiny_tokenizer
from tw_env import policies
from tw_env.actions import Action, Writer
from tw_env.costs import CostModel
from tw_env.decoding.accept import Accept
from tw_env.decoding.conventions import conventions_of
from tw_env.decoding.loading import Pair
from tw_env.generate import Assisted, MarkedStreamer, assisted
from tw_env.generate.playing import Terms, find_policy, play, set_up
from tw_env.policies import AskToken, Policy, speculative
from tw_env.render import marked
from tw_env.rules import Constraint, Quantity
from tw_env.schedule import Starts
from tw_env.tasks import pronounce

CAP = 8
RULE = "ask the teacher for at most 20% of the tokens"
WORDS = 25
TABLE = {"student_ms": 1.0, "teacher_ms": 10.0, "teacher_ms_per_token": 0.5}


def batch(pair: Pair, prompts: Any) -> dict[str, torch.Tensor]:
    """The prompts, padded on the left."""
    pair.tokenizer.padding_side = "left"
    return dict(pair.tokenizer(list(prompts), padding=True, return_tensors="pt", return_token_type_ids=False))


def write(pair: Pair, prompts: Any = PROMPTS, door: Any = assisted, **options: Any) -> Assisted:
    """A batch by the student with its teacher, and all that is told of it."""
    defaults = {
        "max_new_tokens": CAP,
        "do_sample": False,
        "rule": RULE,
        "teacher": pair.teacher,
        "policy": "speculative",
    }
    options = defaults | {"tokenizer": pair.tokenizer} | options
    door = partial(door, tokenizer=options.pop("tokenizer"))
    return pair.student.generate(
        **batch(pair, prompts), custom_generate=door, return_dict_in_generate=True, **options
    )  # fmt: skip


def texts_of(out: Assisted) -> list[tuple[int, ...]]:
    """The new tokens of each row, without padding."""
    assert out.sequences is not None
    assert out.writers is not None
    assert out.tokens is not None
    new = out.sequences[:, -out.writers.shape[1] :].tolist()
    assert ((out.writers >= 0).sum(dim=1) == out.tokens).all()
    return [tuple(row[:count]) for row, count in zip(new, out.tokens.tolist(), strict=True)]


def alone(model: PreTrainedModel, pair: Pair, prompts: Any = PROMPTS) -> list[tuple[int, ...]]:
    """What the model's own `generate` writes."""
    return [generated(model, tuple(ids), CAP, END) for ids in pair.tokenizer(list(prompts)).input_ids]


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


# ---- streaming -------------------------------------------------------------------------------------------------


class Heard:
    """A streamer that keeps what it hears."""

    def __init__(self) -> None:
        self.parts: list[list[int]] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        assert not self.ended
        self.parts.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


class Listening(Policy):
    """Plays another policy and notes down how many tokens were told at each decision."""

    def __init__(self, other: Policy, heard: Heard) -> None:
        super().__init__(other.layout, other.actions)
        self.other, self.heard, self.told = other, heard, []

    def choose(self, observations: Any, deterministic: bool, masks: Any) -> Any:
        self.told.append(len(self.heard.parts) - 1)
        return self.other.choose(observations, deterministic, masks)


@pytest.mark.parametrize("bound", [False, True], ids=["given to generate", "bound"])
@pytest.mark.parametrize("policy", ["student", "speculative-2", "teacher"])
def test_what_streams_is_the_prompt_and_then_the_final_text(policy: str, bound: bool) -> None:
    pair = pair_of()
    for prompt in PROMPTS:
        heard = Heard()
        how = {"door": partial(assisted, streamer=heard)} if bound else {"streamer": heard}
        out = write(pair, [prompt], policy=policy, **how)
        assert heard.ended == 1
        assert heard.parts[0] == pair.tokenizer(prompt).input_ids
        assert all(len(part) == 1 for part in heard.parts[1:])
        assert tuple(part[0] for part in heard.parts[1:]) == texts_of(out)[0]


def test_tokens_stream_once_no_call_can_take_them_back() -> None:
    pair = pair_of()
    env = Watched(1, **names_of(pair), task=Letters(max_new_tokens=CAP), actions="SELF/VERIFY")
    asks = Watched(1, **names_of(pair), task=Letters(max_new_tokens=CAP), actions="SELF/ASK")
    lags = Counter()
    for prompt in PROMPTS:
        heard = Heard()
        policy = Listening(speculative(env.layout, env.game.spec.actions, 2), heard)
        length = len(texts_of(write(pair, [prompt], policy=policy, streamer=heard))[0])
        assert policy.told == sorted(policy.told)
        lags.update(0 < told < length for told in policy.told)
        heard = Heard()
        policy = Listening(policies.random_calls(asks.layout, asks.game.spec.actions, 0.3), heard)
        length = len(texts_of(write(pair, [prompt], policy=policy, streamer=heard))[0])
        assert policy.told == list(range(length)), "without VERIFY every token is certain at once"
    assert lags[True] > len(PROMPTS), "some tokens stream before the text ends"


@pytest.mark.parametrize("policy", ["student", "speculative-2", "teacher"])
def test_a_marked_stream_shows_the_writers_of_the_final_text(policy: str) -> None:
    pair, file = pair_of(), io.StringIO()
    streamer, expected = MarkedStreamer(pair.tokenizer, colour=False, file=file), ""
    for prompt in PROMPTS:
        out = write(pair, [prompt], policy=policy, streamer=streamer)
        expected += marked(pair.tokenizer, texts_of(out)[0], out.writers[0].tolist(), colour=False) + "\n"
    assert file.getvalue() == expected


def test_transformers_own_streamer_yields_the_text() -> None:
    pair = pair_of()
    streamer = TextIteratorStreamer(pair.tokenizer, skip_prompt=True, timeout=30, skip_special_tokens=True)
    thread = Thread(target=write, args=(pair, ["a b c"]), kwargs={"streamer": streamer})
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == pair.tokenizer.decode(alone(pair.teacher, pair, ["a b c"])[0], skip_special_tokens=True)


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
