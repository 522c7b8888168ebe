"""The log's numbers against slow, obvious computations."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agents.joint import diagnostics
from agents.joint.chain import Chain, chain_of, drawn_path, values_of
from agents.joint.diagnostics import (
    LENGTHS,
    ask_rates,
    asking_numbers,
    data_shares,
    path_numbers,
    teacher_numbers,
)
from agents.joint.drafts import Drafts
from agents.joint.gate import Played, choices_of
from agents.joint.reading import Texts, log_distributions, states
from agents.joint.teacher import Teacher
from agents.joint.trainer import Joint
from agents.joint.wording import FREE, NEVER
from tests.agents.joint.test_drafts import COUNT, PAIR, TASK, chains
from tests.agents.joint.test_trainer import SHORT, data, student
from tw_env.actions import Action

ALPHA = 0.3
PRICES, LIMITS = np.linspace(0.05, 0.5, COUNT), np.linspace(0.1, 0.3, COUNT)
CALLS = [Action.ASK, Action.VERIFY]


def some_logits(chain: Chain, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=len(chain.episode))


def worth(drafts: Drafts, logits: Any, draft: int, place: int, limit: float, call: Action) -> tuple[float, float]:
    """V_R and V_C of one state, by asking what each choice leads to. `logits` maps (draft, place) to the gate's."""
    verify = call == Action.VERIFY
    length, episode = int(drafts.lengths[draft]), int(drafts.episode[draft])
    p = 1 / (1 + math.exp(-logits[draft, place]))
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    has_next = draft + 1 < len(drafts.episode) and drafts.episode[draft + 1] == episode
    as_it_is = (drafts.quality[draft], -limit * length)
    final = (drafts.final_quality[episode], -limit * drafts.final_length[episode])
    repaired = final
    if has_next:
        there = int(drafts.first[draft + 1]) if not verify else 0
        repaired = worth(drafts, logits, draft + 1, there, limit, call)
    if verify:
        alone, called = as_it_is, repaired
    else:
        at_end = place == length - 1
        onward = as_it_is if at_end else worth(drafts, logits, draft, place + 1, limit, call)
        alone = called = onward
        if place == drafts.kept[draft]:  # a mistake
            called = repaired
    reward = p * called[0] + (1 - p) * alone[0] + ALPHA * entropy
    return reward, p * (1 + called[1]) + (1 - p) * alone[1]


def keys(drafts: Drafts, call: Action) -> list[tuple[int, int]]:
    """(draft, place) of each choice, in order."""
    if call == Action.VERIFY:
        return [(draft, 0) for draft in range(len(drafts.episode))]
    return [(d, p) for d in range(len(drafts.episode)) for p in range(drafts.first[d], drafts.lengths[d])]


@pytest.mark.parametrize("call", CALLS)
def test_values_are_what_following_every_choice_comes_to(call: Action) -> None:
    drafts = chains()
    chain, named = chain_of(drafts, call), keys(drafts, call)
    logit = some_logits(chain)
    rewards, costs = values_of(chain, logit, LIMITS, ALPHA)
    by_name = dict(zip(named, logit.tolist(), strict=True))
    for index, (draft, place) in enumerate(named):
        expected = worth(drafts, by_name, draft, place, LIMITS[drafts.episode[draft]], call)
        assert (rewards[index], costs[index]) == pytest.approx(expected)


@pytest.mark.parametrize("call", CALLS)
def test_values_without_entropy_are_what_the_trainer_expects(call: Action) -> None:
    drafts = chains()
    log_odds = torch.randn(len(drafts.texts.tokens), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    choices, played = choices_of(drafts, log_odds, PRICES, LIMITS, call, ALPHA)
    chain = chain_of(drafts, call)
    rewards, costs = values_of(chain, choices.logit.numpy(), LIMITS, 0.0)
    assert rewards[chain.first] == pytest.approx(played.quality)
    assert costs[chain.first] == pytest.approx(played.calls - LIMITS * played.tokens)


@pytest.mark.parametrize("call", CALLS)
def test_what_calling_gains_is_the_difference_of_what_follows(call: Action) -> None:
    """The trainer's own recursion against the chain's values, entropy of later choices included."""
    drafts = chains()
    log_odds = torch.randn(len(drafts.texts.tokens), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    choices, _ = choices_of(drafts, log_odds, PRICES, LIMITS, call, ALPHA)
    chain = chain_of(drafts, call)
    rewards, costs = values_of(chain, choices.logit.numpy(), LIMITS, ALPHA)
    price = PRICES[chain.episode]
    behind = np.where(chain.ends, chain.quality, (rewards - price * costs)[chain.following])
    behind += price[:, None] * LIMITS[chain.episode][:, None] * chain.tokens
    assert choices.gain.numpy() == pytest.approx(behind[:, 1] - price - behind[:, 0])


@pytest.mark.parametrize("call", CALLS)
def test_segments_are_sums_along_the_drawn_path(call: Action) -> None:
    chain = chain_of(chains(), call)
    logit = some_logits(chain)
    rewards, costs = values_of(chain, logit, LIMITS, ALPHA)
    values = rewards - PRICES[chain.episode] * costs
    path = drawn_path(chain, logit, np.random.default_rng([5]))
    squares: dict[int | None, list[float]] = {d: [] for d in LENGTHS}
    for episode, (begin, end) in enumerate(itertools.pairwise(path.starts)):
        gains = []
        for choice, called in zip(path.choice[begin:end], path.called[begin:end], strict=True):
            p = 1 / (1 + math.exp(-logit[choice]))
            allowance = LIMITS[episode] * chain.tokens[choice, called]
            earned = chain.quality[choice, called] - PRICES[episode] * (called - allowance)
            gains.append(earned - ALPHA * math.log(p if called else 1 - p))
        steps = end - begin
        for d in LENGTHS:
            for first in range(steps):
                last = steps if d is None else min(first + d, steps)
                far = values[path.choice[begin + last]] if last < steps else 0.0
                residual = -values[path.choice[begin + first]] + far + sum(gains[first:last])
                squares[d].append(residual**2 / (last - first))
    found = path_numbers(chain, logit, PRICES, LIMITS, ALPHA, [5])
    for d in LENGTHS:
        assert found[f"residual/{d or 'end'}"] == pytest.approx(math.sqrt(np.mean(squares[d])))


@pytest.mark.parametrize("call", CALLS)
def test_the_optimal_gate_has_no_residual_at_any_length(call: Action) -> None:
    chain = chain_of(chains(), call)
    logit = np.zeros(len(chain.episode))
    price = PRICES[chain.episode]
    for _ in range(60):
        rewards, costs = values_of(chain, logit, LIMITS, ALPHA)
        values = rewards - price * costs
        behind = np.where(chain.ends, chain.quality, values[chain.following])
        behind += price[:, None] * LIMITS[chain.episode][:, None] * chain.tokens
        logit = (behind[:, 1] - price - behind[:, 0]) / ALPHA
    found = path_numbers(chain, logit, PRICES, LIMITS, ALPHA, [0])
    assert max(found[f"residual/{d or 'end'}"] for d in LENGTHS) < 1e-9


@pytest.mark.parametrize("call", CALLS)
def test_many_drawn_paths_return_what_v_expects(call: Action) -> None:
    chain = chain_of(chains(), call)
    logit = some_logits(chain, 1)
    found = [path_numbers(chain, logit, PRICES, LIMITS, ALPHA, [seed]) for seed in range(400)]
    for name in ("reward", "cost"):
        drawn = [one[f"value/{name}_drawn"] for one in found]
        error = 4 * np.std(drawn) / math.sqrt(len(drawn))
        assert np.mean(drawn) == pytest.approx(found[0][f"value/{name}"], abs=error)
    sure = path_numbers(chain, np.where(logit > 0, 60.0, -60.0), PRICES, LIMITS, ALPHA, [0])
    assert sure["value/reward_explained"] == pytest.approx(1.0)
    assert sure["value/cost_explained"] == pytest.approx(1.0)


def test_asking_is_ranked_by_pairs_of_places() -> None:
    drafts = chains()
    steps = len(drafts.texts.tokens)
    generator = torch.Generator().manual_seed(0)
    log_odds = torch.randn(steps, generator=generator)
    logprobs = torch.randn(steps, 9, generator=generator).log_softmax(-1)
    wrong, right = [], []
    for step, draft in enumerate(drafts.texts.of_step.tolist()):
        place = step - int(drafts.texts.starts[draft])
        if drafts.first[draft] <= place <= drafts.kept[draft]:
            (wrong if place == drafts.kept[draft] else right).append(step)
    found = asking_numbers(drafts, log_odds, logprobs)
    for name, score in (("auc", log_odds), ("auc_p_max", -logprobs.max(1).values)):
        wins = [float(score[one] > score[other]) for one in wrong for other in right]
        assert found[f"asking/{name}"] == pytest.approx(np.mean(wins))


@pytest.mark.parametrize("top_k", [None, 3])
def test_the_teacher_sees_distance_and_gap(top_k: int | None) -> None:
    drafts = chains()
    prompts = PAIR.tokenizer(TASK.prompts).input_ids
    first = np.flatnonzero(drafts.number == 0)
    texts = Texts(prompts, [drafts.texts.outputs[i] for i in first])
    log_odds = torch.randn(len(drafts.texts.tokens), generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        mine = log_distributions(PAIR.student, states(PAIR.student, drafts.texts))
        own = log_distributions(PAIR.student, states(PAIR.student, texts))
        theirs = log_distributions(PAIR.teacher, states(PAIR.teacher, texts))
    found = teacher_numbers(drafts, prompts, log_odds, mine, Teacher(PAIR.teacher, top_k=top_k))
    exact = float((own.exp() * (own - theirs)).sum(1).mean())
    assert found["kl/own"] == (pytest.approx(exact, rel=1e-4) if top_k is None else pytest.approx(exact, rel=0.5))
    assert top_k is None or found["kl/own"] < exact
    ask = torch.sigmoid(log_odds[torch.isin(drafts.texts.of_step, torch.from_numpy(first))])
    gap = theirs.max(1).values - theirs.gather(1, texts.tokens[:, None])[:, 0]
    small = (gap > 1e-6) & (gap <= 1)
    assert found["asking/gap_none"] == pytest.approx(float(ask[gap < 1e-6].mean()))
    assert found["asking/gap_below_1"] == pytest.approx(float(ask[small].mean()))
    same = teacher_numbers(drafts, prompts, log_odds, mine, Teacher(PAIR.student, top_k=None))
    assert same["kl/own"] == pytest.approx(0.0, abs=1e-6)
    assert "asking/rank_with_gap" not in same


def test_rates_and_shares_are_sums_over_sums() -> None:
    limits = np.array([0.05, NEVER, 0.05, FREE])
    played = Played(np.zeros(4), np.array([1.0, 0.0, 0.5, 3.0]), np.array([10.0, 5.0, 20.0, 6.0]))
    assert ask_rates(limits, played) == pytest.approx({"asked/0.05": 0.05, "asked/never": 0.0, "asked/free": 0.5})
    assert data_shares({"own": 30, "gold": 10, "teacher": 0}) == {
        "share/own": 0.75, "share/gold": 0.25, "share/teacher": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("call", ["VERIFY", "ASK"])
def test_the_log_moves_no_weight(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SHORT, call=call)
    silent = Joint(*student(), data(), config).run()
    monkeypatch.setattr(diagnostics, "EVERY", 1)
    monkeypatch.setattr(diagnostics, "TEACHER_EVERY", 1)
    numbers: dict[int, dict[str, float]] = {}
    model, tokenizer = student()
    teacher = Teacher(student()[0].eval(), vocabulary=model.config.ask_token_ids[0])
    told = Joint(model, tokenizer, data(), config, teacher=teacher).run(lambda u, n: numbers.update({u: n}))
    for one, other in zip(silent.parameters(), told.parameters(), strict=True):
        assert torch.equal(one, other)
    groups = {name.split("/")[0] for name in numbers[SHORT.updates]}
    assert {"residual", "value", "asked", "asking", "kl", "nats", "share", "lambda"} <= groups
    assert {"drift/writing", "drift/gate"} <= set(numbers[SHORT.updates])
    assert not any(name.startswith("drift") for name in numbers[1])
    assert numbers[1]["share/own"] == 0.0
    assert 0.0 < numbers[SHORT.updates]["share/own"] < 1.0
    assert all(math.isfinite(value) for value in numbers[SHORT.updates].values())
