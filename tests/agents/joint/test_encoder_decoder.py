"""What joint training needs, with encoder-decoders: states, texts, drafts, and checkpoints that the game plays."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from agents.joint.config import JointConfig, JointData
from agents.joint.reading import Texts, all_states, anatomy_of, log_distributions, scores, states
from agents.joint.sampling import Writer
from agents.joint.student import ask_log_odds, asking_student, start_asking, tell_words_apart
from agents.joint.teacher import Teacher
from agents.joint.trainer import Joint
from agents.rollout import play_prompts
from agents.supervised import rows_loss
from tests.agents.joint import test_drafts
from tests.asking import POSITIONS, asking_source_pair
from tests.families import END, MAIN, VOCABULARY, source_pair
from tests.letters import PROMPTS, Letters, Watched, always, feature, first_texts, names_of
from tw_env import policies
from tw_env.actions import Action
from tw_env.decoding.conventions import conventions_of
from tw_env.decoding.loading import load_model, load_pair
from tw_env.generate import assisted
from tw_env.policies import AskToken

TEXTS = Texts([[3, 4, 5, END], [7, END], [3, 4, 5, END]], [[8, END], [9, 3, 2, END], [END]])
CAP = 8
RULE = "ask the teacher for at most 20% of the tokens"


def own_logits(model: PreTrainedModel, prompt: Any, output: Any) -> torch.Tensor:
    """(tokens, vocabulary) by the model's own forward pass of one text, nothing padded; `never` as the game has it."""
    conventions = conventions_of(model)
    text = [*conventions.opening, *output[:-1]]
    logits = model(torch.tensor([list(prompt)]), decoder_input_ids=torch.tensor([text])).logits[0]
    logits[:, list(conventions.never)] = -1e4
    return logits[len(conventions.opening) - 1 :]


def written_by(model: PreTrainedModel, prompt: Any) -> list[int]:
    """What the model's own `generate` writes."""
    opening = len(conventions_of(model).opening)
    with torch.inference_mode():  # a forced first token counts as new there
        text = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=CAP + opening - 1)
    return text[0, opening:].tolist()


# ---- states and texts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAIN)
def test_distributions_are_those_of_the_model_on_each_text_alone(kind: str) -> None:
    model, read = source_pair(kind).teacher, []
    anatomy_of(model)
    handle = model.get_encoder().register_forward_hook(lambda *found: read.append(found[-1].last_hidden_state.shape[0]))
    found = log_distributions(model, states(model, TEXTS), vocabulary=11)
    handle.remove()
    assert read == [2], "each prompt is read once"
    for i, (prompt, output) in enumerate(zip(TEXTS.prompts, TEXTS.outputs, strict=True)):
        expected = own_logits(model, prompt, output)[:, :11].float().log_softmax(-1)
        assert torch.allclose(found[TEXTS.starts[i] : TEXTS.starts[i + 1]], expected, atol=1e-5)
    assert torch.allclose(all_states(model, TEXTS, tokens=6), states(model, TEXTS)), "in several passes, too"


@pytest.mark.parametrize("kind", MAIN)
def test_gradients_are_those_of_supervised_training(kind: str) -> None:
    model = copy.deepcopy(source_pair(kind).student).requires_grad_(True)
    nats = -log_distributions(model, states(model, TEXTS)).gather(1, TEXTS.tokens[:, None]).mean()
    loss = rows_loss(model, list(zip(TEXTS.prompts, TEXTS.outputs, strict=True)))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    mine, theirs = (torch.autograd.grad(each, weights, allow_unused=True) for each in (nats, loss))
    never = bool(conventions_of(model).never)  # supervised training knows of none
    for one, other in zip(mine, theirs, strict=True):
        assert (one is None) == (other is None)
        assert one is None or never or torch.allclose(one, other, atol=1e-6)
    assert sum(one is not None for one in mine) > len(weights) / 2


@pytest.mark.parametrize("kind", MAIN)
def test_greedy_texts_are_the_models_own_before_and_after_a_change_of_weights(kind: str) -> None:
    pair = source_pair(kind)
    model, prompts = copy.deepcopy(pair.student), pair.tokenizer(list(PROMPTS)).input_ids
    writer = Writer(model, 1, CAP, [END], rows=4)
    for _ in range(2):
        expected = [written_by(model, ids) for ids in prompts]
        assert writer.greedy(prompts).outputs == expected
        begun = [output[: i % len(output)] for i, output in enumerate(expected)]
        rest = [output[len(before) :] for output, before in zip(expected, begun, strict=True)]
        assert writer.greedy(prompts, begun=begun).outputs == rest
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).to(weight))


@pytest.mark.parametrize("kind", MAIN)
def test_what_the_teacher_writes_is_scored_in_the_same_passes(kind: str) -> None:
    pair = source_pair(kind)
    prompts = pair.tokenizer(list(PROMPTS)).input_ids
    found = Teacher(pair.teacher, pair.vocabulary, top_k=4).write(prompts, CAP, pair.end_tokens, rows=4)
    again = Teacher(pair.teacher, pair.vocabulary, top_k=4).score(found.texts).scores
    assert torch.allclose(found.scores.distribution, again.distribution, atol=1e-5)
    alone = Watched(len(PROMPTS), **names_of(pair), task=Letters(), actions="SELF/ASK", max_new_tokens=CAP)
    texts, _ = first_texts(alone, always(1), seed=0, options={"prompts": np.arange(len(PROMPTS)), "rules": "no limit"})
    assert [tuple(output) for output in found.texts.outputs] == texts


@pytest.mark.parametrize("kind", MAIN)
def test_a_chain_is_what_verifying_again_and_again_shows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_drafts, "PAIR", source_pair(kind))
    drafts = test_drafts.chains.__wrapped__()
    lengths = np.diff(drafts.chain)
    assert lengths.max() >= 2
    for stop in range(lengths.max() + 1):
        results = test_drafts.played(Action.VERIFY, [list(range(stop))] * len(lengths))
        for i, begin in enumerate(drafts.chain[:-1]):
            settled = stop >= lengths[i]
            expected = drafts.final_quality[i] if settled else drafts.quality[begin + stop]
            assert results[i][:2] == (pytest.approx(expected), min(stop, lengths[i]))


# ---- students that ask -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAIN)
@pytest.mark.parametrize("head", ["tied", "own"])
def test_a_student_with_ask_tokens_writes_as_before(kind: str, head: str, tmp_path: Path) -> None:
    pair = source_pair(kind)
    before = copy.deepcopy(pair.student)
    if head == "own":
        weight = before.get_output_embeddings().weight
        before.get_output_embeddings().weight = nn.Parameter(weight + 0.1 * torch.randn(weight.shape).to(weight))
    student, tokenizer = asking_student(before, pair.tokenizer, reasons=3)
    start_asking(student, TEXTS, 0.2)
    assert (student.get_output_embeddings().weight is student.get_input_embeddings().weight) == (head == "tied")
    student.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), "cpu", "float64")
    with torch.no_grad():
        for prompt, output in zip(TEXTS.prompts, TEXTS.outputs, strict=True):
            mine, theirs = (own_logits(model, prompt, output) for model in (student, before))
            assert torch.allclose(mine[:, :VOCABULARY], theirs, rtol=0, atol=1e-12)  # a wider head may add otherwise
            assert torch.allclose(own_logits(loaded, prompt, output), mine)
        rate = torch.sigmoid(ask_log_odds(scores(student, states(student, TEXTS)), VOCABULARY)).mean()
    assert float(rate) == pytest.approx(0.2, rel=0.05)
    again = load_pair(str(tmp_path), pair.name.split(" < ")[1], dtype="float64", device="cpu")
    assert (again.ask_tokens, again.vocabulary, again.reads_rules) == ((13, 14, 15), VOCABULARY, True)


def test_words_are_told_apart_in_what_is_read_and_padding_gives_way(tmp_path: Path) -> None:
    pair = source_pair("t5")
    before = copy.deepcopy(pair.student)
    before.resize_token_embeddings(VOCABULARY + 5)
    with torch.no_grad():
        before.get_input_embeddings().weight[[4, 5]] = before.get_input_embeddings().weight[6].clone()
    student, tokenizer = asking_student(before, pair.tokenizer, reasons=3)
    assert student.get_input_embeddings().weight.shape[0] == len(tokenizer) == VOCABULARY + 3
    prompt, output = [3, 7, END], [8, 9, END]
    with torch.no_grad():
        mine, theirs = (own_logits(model, prompt, output)[:, :VOCABULARY] for model in (student, before))
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-12), "these words are written as before"
        one, other = (own_logits(student, [word, 7, END], output) for word in (4, 5))
    assert not torch.allclose(one, other)
    assert tell_words_apart(student) == 0
    student.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), "cpu", "float64")
    for part in (loaded.get_encoder(), loaded.get_decoder()):
        assert torch.equal(part.get_input_embeddings().weight, student.get_input_embeddings().weight)
    assert torch.equal(loaded.get_output_embeddings().weight, student.get_output_embeddings().weight)


@pytest.mark.parametrize("kind", MAIN)
@pytest.mark.parametrize("remember", [0, 10_000])
def test_the_game_shows_the_log_odds_after_rule_source_and_text(kind: str, remember: int) -> None:
    pair, words = asking_source_pair(kind), ["a b c 3", "c c e f"]
    env = Watched(
        4, **names_of(pair), task=Letters(), actions="SELF/ASK/VERIFY", remember=remember, max_new_tokens=4
    )  # fmt: skip
    options = {"prompts": np.arange(4), "rules": RULE, "words": [words[row % 2] for row in range(4)]}
    observations, _ = env.reset(seed=0, options=options)
    for _ in range(4):  # the last place may be forced: the gate's logit is not
        shown = feature(env, observations, "ask")
        for row in range(4):
            rule = pair.tokenizer(words[row % 2] + ".", add_special_tokens=False).input_ids
            source = [*rule, *pair.tokenizer(env.task.prompts[env.game.prompt[row]]).input_ids]
            text = env.game.texts.tokens[row, : env.game.texts.length[row]].tolist()
            with torch.no_grad():
                logits = own_logits(pair.student, source, [*text, END])[-1]
            assert shown[row] == pytest.approx(float(ask_log_odds(logits, VOCABULARY)), abs=1e-4)
        observations, _, terminated, _, _ = env.step(np.zeros(4, np.int64))
        if terminated.any():
            break


@pytest.mark.parametrize("kind", MAIN)
@pytest.mark.parametrize("at_end", [False, True])
def test_generate_plays_what_the_game_plays(kind: str, at_end: bool) -> None:
    pair, every = asking_source_pair(kind), range(len(PROMPTS))
    env = Watched(len(PROMPTS), **names_of(pair), task=Letters(), actions="SELF/ASK/VERIFY", max_new_tokens=CAP)
    options = {"prompts": np.arange(len(PROMPTS)), "rules": RULE, "words": [RULE] * len(PROMPTS)}
    usual = float(np.median(feature(env, env.reset(seed=0, options=options)[0], "ask")))
    policy = AskToken(env.layout, env.game.spec.actions, at_end=at_end, cut=usual)
    outcomes = play_prompts(env, policy, every, RULE, 0, deterministic=True, words=[RULE] * len(PROMPTS))
    inputs = pair.tokenizer(list(PROMPTS), padding=True, return_tensors="pt", return_token_type_ids=False)
    out = pair.student.generate(
        **inputs, custom_generate=partial(assisted, tokenizer=pair.tokenizer), teacher=pair.teacher, policy=policy,
        rule=RULE, max_new_tokens=CAP, do_sample=False, return_dict_in_generate=True,
    )  # fmt: skip
    assert out.calls.tolist() == outcomes.calls.tolist()
    assert out.tokens.tolist() == outcomes.tokens.tolist()
    assert 0 < out.calls.sum() < out.tokens.sum()


# ---- training --------------------------------------------------------------------------------------------------

SHORT = JointConfig(
    start=1, clone=2, pcl=3, episodes=8, texts=8, limits=(0.05, 0.2), checkpoint_every=2, learning_rate=2e-3
)


@pytest.mark.parametrize("kind", MAIN)
@pytest.mark.parametrize("call", ["VERIFY", "ASK"])
def test_a_few_updates_make_a_checkpoint_that_the_game_plays(kind: str, call: Any, tmp_path: Path) -> None:
    pair, task = source_pair(kind, POSITIONS), Letters(max_new_tokens=CAP)
    prompts = pair.tokenizer(task.prompts).input_ids
    stored = Teacher(pair.teacher, pair.vocabulary, top_k=1).write(prompts, CAP, pair.end_tokens).texts.outputs

    def quality(index: int, text: Any) -> float:
        return task.quality(index, pair.tokenizer.decode(text, skip_special_tokens=True))

    every = np.arange(len(prompts))
    data = JointData(prompts, [[one] for one in stored], stored, every, every, quality, (END,), CAP, scale=5.0)
    student, tokenizer = asking_student(pair.student, pair.tokenizer, reasons=4)
    numbers: dict[int, dict[str, float]] = {}
    joint = Joint(student, tokenizer, data, replace(SHORT, call=call, embedding_rate=5.0))
    model = joint.run(lambda update, told: numbers.update({update: told}))
    assert 0 <= numbers[6]["quality/alone"] <= 1, "as the metric says it, whatever it is worth"
    pairs = list(zip(model.parameters(), pair.student.parameters(), strict=True))
    assert sum(not torch.equal(one, other) for one, other in pairs) > len(pairs) / 2
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    names = {"student": str(tmp_path), "teacher": names_of(pair)["teacher"], "dtype": "float64", "device": "cpu"}
    env = Watched(4, **names, task=task, actions=f"SELF/{call}", reward="quality")
    policy = AskToken(env.layout, env.game.spec.actions, at_end=call == "VERIFY")
    policy.save(tmp_path)
    outcomes = play_prompts(env, policies.load(tmp_path), every, RULE, 0, False, words=[RULE] * len(every))
    assert (outcomes.tokens > 0).all()
    inputs = tokenizer(task.prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
    out = load_model(str(tmp_path), "cpu", "float64").generate(
        **inputs, custom_generate=assisted, teacher=pair.teacher, rule=RULE, max_new_tokens=CAP, do_sample=False
    )
    assert out.shape[0] == len(task.prompts)
