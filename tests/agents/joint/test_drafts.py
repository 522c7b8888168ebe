"""Chains of drafts against episodes of the game, and the gate's values against playing its choices out."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import torch

from agents.joint.drafts import Drafts, write_drafts
from agents.joint.gate import Choices, any_ask, choices_of
from agents.joint.sampling import Writer
from tests.letters import Letters, Watched, names_of, pair_of, quality_of
from tests.tiny import END
from tw_env.actions import Action

TASK = Letters()
PAIR = pair_of(positions=40)
COUNT = len(TASK.prompts)


@cache
def chains() -> Drafts:
    """Of all prompts, from the teacher's stored texts."""
    pair = PAIR
    prompts = pair.tokenizer(TASK.prompts).input_ids
    cap = TASK.max_new_tokens
    stored = Writer(pair.teacher, 20, cap, [END]).greedy(prompts).outputs
    writer = Writer(pair.student, 30, cap, [END])
    return write_drafts(
        writer, prompts, stored, np.arange(COUNT), lambda i, text: quality_of(TASK, i, pair, list(text)), [END]
    )


def played(call: Action, calls: list[list[int]]) -> list[tuple[float, int, int]]:
    """Quality, calls and tokens of each prompt in the game, calling at the given numbers of a prompt's decisions."""
    env = Watched(COUNT, **names_of(PAIR), task=TASK, actions=f"SELF/{call.name}", reward="quality")
    observations, infos = env.reset(seed=0, options={"prompts": np.arange(COUNT)})
    decided, results = np.zeros(COUNT, int), [(0.0, 0, 0)] * COUNT
    open_rows = set(range(COUNT))
    while open_rows:
        decides = np.ones(COUNT, bool)
        if call == Action.VERIFY:
            decides = observations[:, env.layout["would_end"].start] > 0
        actions = [int(decides[row] and decided[row] in calls[row]) for row in range(COUNT)]
        decided += decides
        observations, _, terminated, _, infos = env.step(np.array(actions))
        for row in np.flatnonzero(terminated):
            if row in open_rows:
                last = {name: infos["final_info"][name][row] for name in ("quality", "calls", "tokens")}
                results[row] = (float(last["quality"]), int(last["calls"]), int(last["tokens"]))
                open_rows.discard(int(row))
    return results


def test_a_chain_is_what_verifying_again_and_again_shows() -> None:
    drafts = chains()
    lengths = np.diff(drafts.chain)
    assert lengths.max() >= 3, "some prompt needs several repairs, or the test shows little"
    for stop in range(lengths.max() + 1):
        results = played(Action.VERIFY, [list(range(stop))] * COUNT)
        for i, (begin, end) in enumerate(itertools.pairwise(drafts.chain)):
            settled = stop >= end - begin
            expected = drafts.final_quality[i] if settled else drafts.quality[begin + stop]
            assert results[i][0] == pytest.approx(expected)
            assert results[i][1] == min(stop, end - begin)
            assert results[i][2] == (drafts.final_length[i] if settled else drafts.lengths[begin + stop])


@pytest.mark.parametrize("call", [Action.ASK, Action.VERIFY])
def test_sure_choices_come_to_what_the_game_pays(call: Action) -> None:
    drafts, generator = chains(), np.random.default_rng(0)
    steps, of_step = len(drafts.texts.tokens), drafts.texts.of_step.numpy()
    places = np.arange(steps) - drafts.texts.starts.numpy()[of_step]
    for _ in range(5):
        asks = generator.random(steps) < (0.5 if call == Action.ASK else 0.15)
        if call == Action.ASK:  # what the teacher says where something went wrong before is not stored
            asks &= places <= drafts.kept[of_step]
        log_odds = torch.where(torch.from_numpy(asks), 60.0, -60.0).double()
        choices, expected = choices_of(drafts, log_odds, np.full(COUNT, 0.1), np.full(COUNT, 0.2), call, 1e-9)
        calls = decisions(drafts, asks, call)
        for i, (quality, spent, tokens) in enumerate(played(call, calls)):
            assert expected.tokens[i] == pytest.approx(tokens)
            assert expected.calls[i] == pytest.approx(spent)
            assert expected.quality[i] == pytest.approx(quality)
        assert choices.gain.shape == choices.reach.shape == choices.logit.shape


@pytest.mark.parametrize("call", [Action.ASK, Action.VERIFY])
def test_hard_play_is_that_of_a_deterministic_policy(call: Action) -> None:
    drafts = chains()
    steps, of_step = len(drafts.texts.tokens), drafts.texts.of_step.numpy()
    places = np.arange(steps) - drafts.texts.starts.numpy()[of_step]
    log_odds = 1.5 * torch.randn(steps, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    if call == Action.ASK:
        log_odds[torch.from_numpy(places > drafts.kept[of_step])] = -1.0
        asks = (log_odds > 0).numpy()
    else:
        log_odds -= 3.0
        fresh = places >= drafts.first[of_step]
        asks = np.zeros(steps, bool)
        for draft in range(len(drafts.episode)):
            at = np.flatnonzero((of_step == draft) & fresh)
            asks[at[0]] = any_ask(log_odds[at], torch.zeros(len(at), dtype=torch.long), 1) > 0
    prices, limits = np.full(COUNT, 0.1), np.full(COUNT, 0.2)
    _, soft = choices_of(drafts, log_odds, prices, limits, call, 0.1)
    _, hard = choices_of(drafts, log_odds, prices, limits, call, 0.1, hard=True)
    results = np.array(played(call, decisions(drafts, asks, call)))
    np.testing.assert_allclose(np.stack([hard.quality, hard.calls, hard.tokens], axis=1), results)
    assert 0 < hard.calls.sum() < COUNT * 4
    assert np.abs(soft.calls - hard.calls).max() > 0.1


@pytest.mark.parametrize("call", [Action.ASK, Action.VERIFY])
def test_levels_are_added_to_the_log_odds_of_calling(call: Action) -> None:
    """Under VERIFY to those of whole drafts, as a cut is that a policy has in play."""
    drafts, prices, limits = chains(), np.full(COUNT, 0.1), np.full(COUNT, 0.2)
    log_odds = torch.randn(len(drafts.texts.tokens), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    levels = np.linspace(-2.0, 2.0, COUNT)
    raised, played_ = choices_of(drafts, log_odds, prices, limits, call, 0.1, levels)
    plain, _ = choices_of(drafts, log_odds, prices, limits, call, 0.1)
    np.testing.assert_allclose(raised.logit.numpy(), plain.logit.numpy() + levels[plain.episode])
    if call == Action.ASK:
        of_step = torch.from_numpy(levels[drafts.episode])[drafts.texts.of_step]
        same, expected = choices_of(drafts, log_odds + of_step, prices, limits, call, 0.1)
        np.testing.assert_allclose(raised.gain.numpy(), same.gain.numpy())
        np.testing.assert_allclose(played_.calls, expected.calls)


def decisions(drafts: Drafts, asks: np.ndarray, call: Action) -> list[list[int]]:
    """At which decisions each prompt calls: places of its text, or numbers of its drafts; up to a mistake only."""
    of_step, starts = drafts.texts.of_step.numpy(), drafts.texts.starts.numpy()
    places = np.arange(len(of_step)) - starts[of_step]
    called: list[list[int]] = [[] for _ in range(COUNT)]
    going = [True] * COUNT
    for draft, i in enumerate(drafts.episode.tolist()):
        fresh = np.flatnonzero((of_step == draft) & (places >= drafts.first[draft]))
        if not going[i]:
            continue
        if call == Action.VERIFY:
            going[i] = bool(asks[fresh].any())
            called[i] += [int(drafts.number[draft])] if going[i] else []
            continue
        called[i] += [int(places[step]) for step in fresh if asks[step]]
        at_mistake = starts[draft] + min(drafts.kept[draft], drafts.lengths[draft] - 1)
        going[i] = bool(asks[at_mistake])
    return called


def test_the_gain_is_the_derivative_of_what_play_is_worth() -> None:
    """dJ / dlogit = reach P (1 - P) C: the policy gradient on the same states, J with its entropy."""
    drafts, alpha = chains(), 0.3
    log_odds = torch.randn(len(drafts.texts.tokens), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    prices, limits = np.linspace(0.05, 0.5, COUNT), np.linspace(0.1, 0.3, COUNT)

    def worth(log_odds: torch.Tensor) -> float:
        choices, expected = choices_of(drafts, log_odds, prices, limits, Action.VERIFY, alpha)
        ask = torch.sigmoid(choices.logit)
        entropy = torch.special.entr(ask) + torch.special.entr(1 - ask)
        money = expected.quality - prices * (expected.calls - limits * expected.tokens)
        return float(money.sum() + alpha * (choices.reach * entropy).sum())

    log_odds.requires_grad_(True)
    choices, _ = choices_of(drafts, log_odds, prices, limits, Action.VERIFY, alpha)
    ask = torch.sigmoid(choices.logit.detach())
    slope = choices.reach * ask * (1 - ask) * choices.residual(alpha).detach()
    (expected,) = torch.autograd.grad((choices.logit * slope).sum(), log_odds)
    for step in range(0, len(log_odds), 2):
        nudge = torch.zeros_like(log_odds)
        nudge[step] = 1e-4
        measured = (worth(log_odds.detach() + nudge) - worth(log_odds.detach() - nudge)) / 2e-4
        assert measured == pytest.approx(float(expected[step]), abs=1e-6)


def test_the_optimal_gate_has_no_residual() -> None:
    """Gate logit = (gap - lambda) / alpha in every state, found by solving for it."""
    drafts, alpha = chains(), 0.2
    prices, limits = np.full(COUNT, 0.3), np.full(COUNT, 0.2)
    log_odds = torch.zeros(len(drafts.texts.tokens), dtype=torch.float64)
    fresh = torch.arange(len(log_odds)) - drafts.texts.starts[drafts.texts.of_step]
    fresh = (fresh >= torch.from_numpy(drafts.first)[drafts.texts.of_step]).nonzero()[:, 0]
    for _ in range(40):
        choices, _ = choices_of(drafts, log_odds, prices, limits, Action.ASK, alpha)
        log_odds[fresh] = choices.gain / alpha
    choices, _ = choices_of(drafts, log_odds, prices, limits, Action.ASK, alpha)
    assert choices.residual(alpha).abs().max() < 1e-9
    assert float(choices.loss(alpha)) == pytest.approx(0.0, abs=1e-12)


def test_any_ask_is_one_minus_the_product_of_silences() -> None:
    log_odds = torch.tensor([-3.0, 0.5, -40.0, 2.0, -30.0], dtype=torch.float64)
    of_draft = torch.tensor([0, 0, 1, 1, 2])
    expected = [1 - (1 - p(-3.0)) * (1 - p(0.5)), 1 - (1 - p(-40.0)) * (1 - p(2.0)), p(-30.0)]
    assert torch.sigmoid(any_ask(log_odds, of_draft, 3)).tolist() == pytest.approx(expected, rel=1e-6)


def p(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))


def test_a_gate_that_is_sure_enough_is_left_alone() -> None:
    logit = torch.tensor([-8.0, -8.0, 8.0, 2.0, -30.0, -30.0], dtype=torch.float64, requires_grad=True)
    gain = torch.tensor([-3.0, 0.5, 3.0, 3.0, -0.7, -0.5], dtype=torch.float64)  # wanted: ten times as much
    one = torch.ones(6, dtype=torch.float64)
    choices = Choices(logit, gain, one, one, np.arange(6))
    choices.loss(0.1, span=6.0).backward()
    assert logit.grad is not None
    assert (logit.grad == 0).tolist() == [True, False, True, False, True, False]
    assert logit.grad[1] < 0, "it has to come back"
    torch.testing.assert_close(choices.loss(0.1, span=9.0), choices.loss(0.1))
