"""The whole residual: its closed form with a student that may move, its cuts behind calls, and learning along walks."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

import tw_env
from agents.joint.config import JointConfig, JointData
from agents.joint.losses import path_loss
from agents.joint.reading import Texts
from agents.joint.student import ask_log_odds, asking_student, start_asking
from agents.joint.teacher import Teacher
from agents.joint.trainer import Joint
from agents.joint.training_cost import PLAY
from agents.joint.walks import joined, walk
from agents.joint.whole import gains_of, stretches, whole_residuals
from tests.agents.joint.test_trainer import tokenizer
from tw_env.decoding.loading import register_model
from tw_env.settings import encode_prompts
from tw_env.tasks.pronounce import Pronounce
from tw_env.vector_env import AssistedDecodingVectorEnv

WORDS, CAP, ROWS, NAME = 24, 6, 8, "memory:walking"
CONFIG = JointConfig(
    call="ASK", objective="whole", clone=0, pcl=4, episodes=ROWS, texts=4, limits=(0.1, 0.3), alpha=1.0, alpha_end=1.0,
    price=1.0, price_step=0.05, price_largest=10.0, learning_rate=2e-3, checkpoint_every=2, replay=2, warmup=1,
)  # fmt: skip


@cache
def task() -> Pronounce:
    return Pronounce("dev", limit=WORDS)


def model(seed: int, sharpness: float = 25.0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer()), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        made.lm_head.weight *= sharpness
    return made


def setup() -> tuple[PreTrainedModel, PreTrainedTokenizerBase, JointData, AssistedDecodingVectorEnv]:
    """A student, what it learns from, and the game that plays it beside its teacher."""
    student, tokens = asking_student(model(0), tokenizer(), reads_rules=True, reasons=4)
    register_model(NAME, student, tokens)
    register_model(NAME + "-teacher", model(1, sharpness=8.0), tokenizer())  # softer: it can be learnt in seconds
    env = tw_env.make_vec(
        "tw_env/Text-v0", ROWS, task=task(), student=NAME, teacher=NAME + "-teacher", actions="SELF/ASK",
        decoding="sampling", reward="kl", device="cpu", max_new_tokens=CAP,
    )  # fmt: skip
    prompts = encode_prompts(task(), env.pair, CAP)
    stored = Teacher(env.pair.teacher, env.pair.vocabulary).write(prompts, CAP, env.pair.end_tokens).texts.outputs
    start_asking(student, Texts(prompts, stored), 0.3)
    every = np.arange(WORDS)
    data = JointData(prompts, [[one] for one in stored], stored, every, every, lambda i, text: 0.0, (2,), CAP)
    return student, tokens, data, env


def walked(seed: int = 0):
    _, _, data, env = setup()
    limits = np.where(np.arange(WORDS) % 2, 0.1, np.inf)
    words = ["at most 10 % of the tokens" if limit < 1 else "no limit" for limit in limits]
    return data, env, words, *walk(env, np.arange(WORDS), data.prompts, limits, words, seed)


def test_walks_are_what_was_played_and_what_the_teacher_said() -> None:
    data, env, words, walks, outcomes = walked()
    assert [len(text) for text in walks.texts.outputs] == outcomes.tokens.tolist()
    calls = np.bincount(walks.texts.of_step.numpy(), walks.asked.numpy(), minlength=WORDS)
    assert calls.tolist() == outcomes.calls.tolist()
    assert 0.05 < walks.asked.float().mean() < 0.7
    assert {text[-1] == 2 or len(text) == CAP for text in walks.texts.outputs} == {True}
    for read, said, prompt in zip(walks.texts.prompts, words, data.prompts, strict=True):
        assert tuple(read[-len(prompt) + 1 :]) == tuple(prompt[1:])
        assert env.pair.tokenizer.decode(read).replace("<bos>", "").strip().startswith(said.split()[0])
    bare = Texts(data.prompts, walks.texts.outputs)
    scored = Teacher(env.pair.teacher, env.pair.vocabulary).score(bare).scores.written
    torch.testing.assert_close(walks.teacher[~walks.asked], scored[~walks.asked], rtol=1e-4, atol=1e-4)
    assert (walks.teacher[walks.asked] == 0).all()


def test_a_student_whose_weights_moved_walks_otherwise() -> None:
    _, env, words, walks, _ = walked()
    data = setup()[2]
    env.pair.student.get_output_embeddings().weight.data.mul_(-1.0)
    again, _ = walk(env, np.arange(WORDS), data.prompts, walks.limits.double().numpy(), words, 0)
    assert again.texts.outputs != walks.texts.outputs
    both = joined([walks, again]).take([0, WORDS])
    assert both.texts.outputs == [walks.texts.outputs[0], again.texts.outputs[0]]


def test_stretches_end_behind_calls() -> None:
    starts, asked = torch.tensor([0, 4, 6]), torch.tensor([False, True, False, False, True, True])
    cuts, of_step = stretches(starts, asked)
    assert cuts.tolist() == [0, 2, 4, 5, 6]
    assert of_step.tolist() == [0, 0, 1, 1, 2, 3]
    values = torch.arange(6.0, requires_grad=True)
    found = whole_residuals(torch.ones(6), values, starts, asked)
    assert found[None].tolist() == [2 + 2 - 0, 1 + 2 - 1, 2 + 0 - 2, 1 + 0 - 3, 1 + 5 - 4, 1 + 0 - 5]
    found[None][1].backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, -1, 0, 0, 0, 0]  # none into the state that the teacher's draw led to


@pytest.mark.parametrize("price", [0.0, 1.0])
def test_a_student_that_may_move_becomes_its_teacher_and_asks_by_the_price_alone(price: float) -> None:
    """Texts of two tokens, every walk there is: p_S = p_T and P(ask) = sigmoid(-lambda / alpha) in all states."""
    alpha, generator = 0.7, torch.Generator().manual_seed(0)
    teacher = torch.randn(4, 3, generator=generator, dtype=torch.float64).log_softmax(-1)  # at the start, behind each
    scores = torch.randn(4, 5, generator=generator, dtype=torch.float64).requires_grad_(True)  # two ask tokens
    values = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    steps = [(token, ask) for token in range(3) for ask in (False, True)]
    walks = list(itertools.product(steps, steps))
    tokens = torch.tensor([[first[0], second[0]] for first, second in walks])
    asked = torch.tensor([[first[1], second[1]] for first, second in walks]).flatten()
    states = torch.stack([torch.zeros(len(walks), dtype=torch.long), tokens[:, 0] + 1], dim=1).flatten()
    tokens, starts = tokens.flatten(), torch.arange(0, 2 * len(walks) + 1, 2)
    prices = torch.full((len(tokens),), price, dtype=torch.float64)
    optimizer = torch.optim.Adam([scores, values], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for _ in range(1500):
        student = scores[:, :3].log_softmax(-1)[states, tokens]
        log_odds = ask_log_odds(scores, 3)[states]
        said = torch.where(asked, 0.0, teacher[states, tokens])
        gains = gains_of(student, said, log_odds, asked, prices, torch.zeros_like(prices), alpha)
        loss = path_loss(whole_residuals(gains, values[states], starts, asked), *stretches(starts, asked))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(scores[:, :3].log_softmax(-1), teacher, rtol=0, atol=2e-3)
    logits = ask_log_odds(scores, 3)
    torch.testing.assert_close(logits, torch.full_like(logits, -price / alpha), rtol=0, atol=2e-3)
    one = alpha * np.log1p(np.exp(-price / alpha))  # a gate's entropy less its price, for each token to come
    torch.testing.assert_close(values, torch.tensor([2 * one, one, one, one]), rtol=0, atol=2e-3, check_dtype=False)


def test_a_few_updates_bring_the_student_nearer_and_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    student, tokens, data, env = setup()
    told: list[dict[str, float]] = []
    longer = replace(CONFIG, pcl=100, write_weight=0.0, learning_rate=1e-2, extremes=0.5, misread=0.0)
    joint = Joint(student, tokens, data, longer, game=env)
    joint.run(lambda update, numbers: told.append(numbers))
    assert joint.cost.teacher_tokens == {PLAY: env.game.texts.teacher_tokens}, "the teacher reads what is played"
    assert joint.cost.env_steps > 0
    assert {"drift/writing", "drift/gate"} <= told[9].keys()
    assert told[9]["drift/writing"] == 0.0, "texts have no weight here"
    first, last = (np.mean([numbers["kl/walks"] for numbers in part]) for part in (told[:8], told[-8:]))
    assert last < 0.7 * first
    assert {"residual/1", "residual/4", "residual/end", "value/mean", "share/own"} <= told[0].keys()

    student, tokens, data, env = setup()
    whole = Joint(student, tokens, data, CONFIG, game=env).run(lambda update, numbers: told.append(numbers))
    assert any("calls_per_token" in numbers for numbers in told[-4:])
    student, tokens, data, env = setup()
    Joint(student, tokens, data, CONFIG, tmp_path, game=env).run(until=2)
    student, tokens, data, env = setup()
    again = Joint(student, tokens, data, CONFIG, tmp_path, game=env).run()
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, msg=name)


def test_what_does_not_fit_is_refused() -> None:
    student, tokens, data, _ = setup()
    with pytest.raises(ValueError, match="call='ASK' and accumulate=1"):
        replace(CONFIG, call="VERIFY")
    with pytest.raises(ValueError, match="Expected a game and one process"):
        Joint(student, tokens, data, CONFIG)
    greedy = tw_env.make_vec(
        "tw_env/Text-v0", 2, task=task(), student=NAME, teacher=NAME + "-teacher", actions="SELF/ASK", device="cpu"
    )
    with pytest.raises(ValueError, match="SELF/ASK in sampling"):
        walk(greedy, [0], data.prompts[:1], np.array([0.1]), ["max 10 %"], 0)


def test_own_tokens_move_the_student_as_the_reverse_divergence_does_and_leave_the_ask_tokens() -> None:
    """d = 1, V = 0, nobody asked: E[d C^2 / 2] over own tokens is the gradient of KL(p_S || p_T), z_ask stays."""
    generator = torch.Generator().manual_seed(1)
    teacher = torch.randn(4, generator=generator, dtype=torch.float64).log_softmax(-1)
    scores = torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_(True)  # two ask tokens
    logprobs, tokens = scores[:4].log_softmax(-1), torch.arange(4)
    starts, asked = torch.arange(5), torch.zeros(4, dtype=torch.bool)
    odds, none = ask_log_odds(scores, 4).expand(4), torch.zeros(4, dtype=torch.float64)
    gains = gains_of(logprobs[tokens], teacher[tokens], odds, asked, none, none, 0.0)
    residual = whole_residuals(gains, none, starts, asked)[1]
    drawn = logprobs.exp().detach()  # how often each token is drawn
    (found,) = torch.autograd.grad((drawn * residual.square() / 2).sum(), scores, retain_graph=True)
    divergence = (logprobs.exp() * (logprobs - teacher)).sum()
    (expected,) = torch.autograd.grad(divergence, scores)
    torch.testing.assert_close(found, expected)
    assert (found[4:] == 0).all()


def test_the_value_is_zero_at_the_teacher_if_nobody_may_ask() -> None:
    teacher = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
    starts, asked = torch.tensor([0, 3]), torch.zeros(3, dtype=torch.bool)
    never, none = torch.full((3,), -80.0, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    gains = gains_of(teacher, teacher, never, asked, torch.full_like(none, 5.0), none, 1.0)
    for residual in whole_residuals(gains, none, starts, asked).values():
        torch.testing.assert_close(residual, none)
