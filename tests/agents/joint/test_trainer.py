"""Joint training on a handful of words: it learns to read rules, resumes to the same weights, and refuses nonsense."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)

from agents.joint.config import JointConfig, JointData, Stage
from agents.joint.gate import choices_of
from agents.joint.marking import marked
from agents.joint.reading import Texts, states
from agents.joint.student import ask_log_odds, asking_student, set_doubt, start_asking
from agents.joint.trainer import Joint
from agents.joint.wording import FREE, NEVER, Wording
from tw_env.actions import Action
from tw_env.decoding.reading import RuleReader
from tw_env.rules import HELD_OUT, parse
from tw_env.tasks import pronounce
from tw_env.tasks.pronounce import Pronounce

WORDS, END = 24, 2
SHORT = JointConfig(
    start=2,
    clone=2,
    pcl=2,
    episodes=8,
    texts=8,
    limits=(0.05, 0.2),
    checkpoint_every=2,
    learning_rate=2e-3,
    level_rate=0.1,
)


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(pronounce.STUDENT)


def student(kind: str = "llama") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    t5 = T5Config(
        vocab_size=len(tokenizer()), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, dropout_rate=0.0,
        pad_token_id=0, eos_token_id=END, decoder_start_token_id=0,
    )  # fmt: skip
    llama = LlamaConfig(
        vocab_size=len(tokenizer()), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=1, eos_token_id=END, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = T5ForConditionalGeneration(t5) if kind == "t5" else LlamaForCausalLM(llama)
    return asking_student(model, tokenizer(), reasons=8)


@cache
def data() -> JointData:
    """Short words; the teacher's text is the first pronunciation, and nothing else is right."""
    task = Pronounce("dev", limit=400)
    short = [i for i, word in enumerate(task.words) if len(word) <= 4][:WORDS]
    ids = tokenizer().get_vocab()
    prompts = [[1, *(ids[token] for token in task.prompts[i].split())] for i in short]
    stored = [[*(ids[token] for token in task.references[i][0].split()), END] for i in short]
    every = np.arange(len(short))
    return JointData(
        prompts, [[one] for one in stored], stored, every, every, lambda i, text: float([*text, END] == stored[i]),
        (END,), 12,
    )  # fmt: skip


def calls_under(joint: Joint, model: PreTrainedModel, words: str, call: Action) -> float:
    """Calls an output that the gate expects when it reads this rule."""
    prompts = joint.told.wording.before(np.random.default_rng(0), [words] * WORDS, data().prompts)
    drafts = joint._play.drafts(prompts, np.arange(WORDS))
    joint.student.load_state_dict(model.state_dict())
    with torch.no_grad():
        _, log_odds = joint.told.thoughts(drafts.texts)
    _, played = choices_of(drafts, log_odds, np.zeros(WORDS), np.zeros(WORDS), call, 1e-6)
    return float(played.calls.mean())


@pytest.mark.parametrize(("kind", "call"), [("llama", "VERIFY"), ("llama", "ASK"), ("t5", "VERIFY")])
def test_rules_in_words_are_learnt(kind: str, call: Any) -> None:
    config = replace(
        SHORT, call=call, start=0, clone=0, pcl=80, episodes=16, texts=4, extremes=0.5, learning_rate=1e-2,
        write_weight=0.1, alpha=0.1, alpha_end=0.05, misread=0.0,
    )  # fmt: skip
    if kind == "t5":  # its embeddings are large, its logits are scaled
        config = replace(config, pcl=50, embedding_rate=30.0)
    joint = Joint(*student(kind), data(), config)
    model = joint.run()
    never = calls_under(joint, model, "never ask the teacher", config.action)
    free = calls_under(joint, model, "ask the teacher as often as you like", config.action)
    assert never < 0.3
    assert free > 0.8


def test_a_run_in_pieces_ends_with_the_same_weights(tmp_path: Path) -> None:
    unbroken = Joint(*student(), data(), SHORT)
    whole = unbroken.run()
    Joint(*student(), data(), SHORT, tmp_path).run(until=5)
    resumed = Joint(*student(), data(), SHORT, tmp_path)
    before = resumed.cost
    told: list[int] = []
    again = resumed.run(lambda update, numbers: told.append(update))
    assert told == [6]
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (before.updates, before.env_steps > 0) == (5, True)
    assert resumed.cost.seconds > before.seconds > 0
    assert replace(resumed.cost, seconds=0.0) == replace(unbroken.cost, seconds=0.0)
    assert unbroken.cost.updates == 6
    assert unbroken.cost.env_steps >= SHORT.pcl * SHORT.episodes, "a token for each episode at least"
    with pytest.raises(ValueError, match="gate_weight differ"):
        Joint(*student(), data(), replace(SHORT, gate_weight=2.0), tmp_path)
    doubting, words = student()
    set_doubt(doubting, 1.0)
    with pytest.raises(ValueError, match="doubt differ"):
        Joint(doubting, words, data(), SHORT, tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.25])
def test_each_stage_trains_what_it_should(kept: float) -> None:
    numbers: dict[int, dict[str, float]] = {}
    config = replace(SHORT, clone_kept=kept)
    Joint(*student(), data(), config).run(lambda update, told: numbers.update({update: told}))
    assert [SHORT.stage(update) for update in range(6)] == [Stage.START] * 2 + [Stage.CLONE] * 2 + [Stage.PCL] * 2
    assert [("clone" in numbers[u], "gate" in numbers[u]) for u in (1, 3, 5)] == [
        (False, False), (True, False), (kept > 0, True),
    ]  # fmt: skip
    assert {"lambda/0.05", "lambda/0.2", "residual", "quality", "nats"} <= set(numbers[6])


def test_prices_of_never_and_of_no_limit() -> None:
    joint = Joint(*student(), data(), SHORT)
    prices = joint.prices.of(np.array([NEVER, 0.05, FREE]))
    assert prices[0] == SHORT.price_largest
    assert prices[1] == pytest.approx(SHORT.price * 2**0.5)
    assert prices[2] == 0.0


def test_the_first_row_asks_near_the_wanted_rate() -> None:
    model, _ = student()
    texts = Texts(data().prompts, data().stored)
    for rate in (0.05, 0.4):
        start_asking(model, texts, rate)
        with torch.no_grad():
            hidden = states(model, texts)
            logits = model.get_output_embeddings()(hidden)
        log_odds = ask_log_odds(logits, model.config.ask_token_ids[0])
        assert float(torch.sigmoid(log_odds).mean()) == pytest.approx(rate, rel=0.05)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        start_asking(model, texts, 1.5)


def test_marks_are_as_many_as_the_rule_allows() -> None:
    nats = torch.tensor([0.1, 3.0, 0.2, 2.0, 0.3, 0.1, 5.0, 0.2, 0.1, 0.4])
    of_step = torch.tensor([0] * 5 + [1] * 5)

    def places(*limits: float, action: Action = Action.ASK) -> list[int]:
        return marked(nats, of_step, torch.tensor(limits), action).nonzero()[:, 0].tolist()

    assert places(0.2, 0.2) == [1, 6]
    assert places(0.0, 0.4) == [6, 9]  # of the four most surprising places of all
    assert places(0.1, 0.4) == [6, 9]
    assert places(float("inf"), 0.0) == [0, 1, 2, 3, 4]
    assert places(0.4, 0.4, action=Action.VERIFY) == [1, 6]  # no more than there are texts
    assert places(float("inf"), 0.0, action=Action.VERIFY) == [0, 1, 2, 3, 4]


def test_held_out_phrasings_are_never_trained_on() -> None:
    wording = Wording(RuleReader(tokenizer()), (0.05, 0.1, 0.2))
    limits, words = wording.draw(np.random.default_rng(0), 2000)
    assert {parse(said).limit for said in words} == {0.0, 0.05, 0.1, 0.2, float("inf")}
    assert [parse(said).limit for said in words] == limits.tolist()
    fixed = [template for template in HELD_OUT if "{" not in template]
    assert fixed
    assert not set(fixed) & set(words)
    unknown = tokenizer().unk_token_id
    said = sorted(set(words))
    read = wording.before(np.random.default_rng(0), said, data().prompts[:1] * len(said))
    assert all(unknown not in ids for ids in read)


def test_misread_rules_differ_in_words_that_only_rules_have() -> None:
    config = replace(SHORT, misread=0.5)
    told = Joint(*student(), data(), config).told
    sentence, reader = "ask the teacher for at most 5 % of the tokens", RuleReader(tokenizer())
    rule, generator = reader.ids(sentence), np.random.default_rng(0)
    words = [sentence] * 400
    read = told.wording.before(generator, words, data().prompts[:1] * 400)
    assert {ids[len(rule) :] for ids in read} == {tuple(data().prompts[0][1:])}  # prompts stay
    assert {ids[0] for ids in read} == {rule[0]}
    changed = [[a != b for a, b in zip(ids, rule, strict=False)] for ids in read]
    assert 0.4 < np.mean([any(one) for one in changed]) < 0.6
    assert 0.25 < np.mean([np.mean(one[1:]) for one in changed if any(one)]) < 0.42
    written = {token for text in (*data().prompts, *data().stored) for token in text}
    drawn = {ids[i] for ids, one in zip(read, changed, strict=True) for i, other in enumerate(one) if other}
    assert len(drawn) > 100
    assert not drawn & written
    assert not drawn & set(tokenizer().all_special_ids)


@pytest.mark.parametrize(("stage", "weight"), [(Stage.CLONE, 0.5), (Stage.PCL, 0.125)])
def test_asking_is_cloned_from_the_teachers_texts_alone(stage: Stage, weight: float) -> None:
    config = replace(
        SHORT, start=0, texts=16, gold_share=0.5, misread=0.0, write_weight=0.0, clone_weight=0.5, clone_kept=0.125
    )
    joint = Joint(*student(), data(), config)
    joint._begin()
    write, numbers = joint._writing.loss(np.random.default_rng(0), stage)
    loss = write(0)
    loss.backward()
    assert loss.item() == pytest.approx(weight * numbers["clone"])
    limits, gold, texts = joint._writing._texts(np.random.default_rng(0), stage)
    assert 2 < gold.sum() < 14
    nats, log_odds = joint.told.nats(texts)
    theirs = ~torch.from_numpy(gold)[texts.of_step]
    marks = marked(nats[theirs], texts.of_step[theirs], torch.from_numpy(limits).to(nats), config.action)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(log_odds[theirs], marks)
    assert numbers["clone"] == pytest.approx(expected.item(), rel=1e-5)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="alpha_end <= alpha"):
        replace(SHORT, alpha_end=0.5)
    with pytest.raises(ValueError, match="1 in all"):
        replace(SHORT, start=0, clone=0, pcl=0)
    config = LlamaConfig(vocab_size=10, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlamaForCausalLM(config)
    with pytest.raises(ValueError, match="student with ask tokens"):
        Joint(model, tokenizer(), data(), SHORT)
