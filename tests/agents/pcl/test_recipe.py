"""What the gate is shown before it plays, which prompts it learns from, and that dropout is for learning alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.baselines.calibration import CalibrationConfig
from agents.evaluation import play
from agents.pcl import PCL, PCLConfig
from agents.pcl.paths import SiblingPlay
from agents.pcl.recipe import Recipe, train_pcl
from agents.rollout import Episodes
from tests.agents.small import PROMPTS, small_game
from tw_env.policies import ObservationNetwork, student_alone
from tw_env.rules import parse

SMALL = PCLConfig(iterations=2, episodes=64, updates=2, prompts=16)
CUTS = CalibrationConfig(limits=(0.1, 0.3), prompts=20, rounds=2)


def test_exploration_shows_paths_of_all_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[np.ndarray] = []  # of each run: how many paths of each prompt the gate was shown
    show = SiblingPlay.demonstrate

    def watched(play: SiblingPlay, episodes: Episodes | None) -> None:
        show(play, episodes)
        counts.append(np.bincount(play.store.everything()[1], minlength=len(PROMPTS)))

    monkeypatch.setattr(SiblingPlay, "demonstrate", watched)
    recipe = Recipe(SMALL, demonstrations=60, calibration=CUTS)
    for exploration in (0, 4 * len(PROMPTS)):
        train_pcl(small_game(rows=64), replace(recipe, exploration=exploration))
    few, many = counts
    assert few.min() == 0
    assert many.min() >= 1
    assert (many > 1).mean() > (few > 1).mean() + 0.3


def test_dropout_is_on_in_every_gradient_step_and_off_in_play(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: dict[bool, set[float]] = {True: set(), False: set()}  # by whether a gradient was wanted
    forward = ObservationNetwork.forward

    def watched(network: ObservationNetwork, observations: torch.Tensor) -> torch.Tensor:
        shares[torch.is_grad_enabled()].add(network.dropout.p if network.training else 0.0)
        return forward(network, observations)

    monkeypatch.setattr(ObservationNetwork, "forward", watched)
    gate = PCL(replace(SMALL, dropout=0.5, initial_rate=0.5)).learn(small_game(rows=64)).policy
    assert gate is not None
    assert not gate.network.training
    assert shares == {True: {0.5}, False: {0.0}}


@pytest.mark.parametrize(("fresh", "all_of_the_last_round"), [(1.0, True), (0.0, False)])
def test_fresh_is_the_share_of_prompts_that_were_played_last(
    fresh: float, all_of_the_last_round: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = small_game(rows=64)
    siblings = SiblingPlay(env, replace(SMALL, siblings=8, fresh=fresh))
    played = siblings.play(student_alone(env.layout, env.game.spec.actions), np.random.default_rng(0), seed=0)
    drawn: list[int] = []
    monkeypatch.setattr(siblings.store, "draw", lambda generator, prompts, *others: drawn.extend(prompts.tolist()))
    siblings.batch(np.random.default_rng(1))
    assert len(drawn) == SMALL.prompts
    assert (set(drawn) <= set(played.sums["prompt"].astype(int).tolist())) == all_of_the_last_round


@pytest.mark.parametrize(
    ("rules", "account"),
    [
        (["at most 25 ms per output", "at most 40 ms per output"], "latency_ms"),
        (["at most one call", "at most two calls"], "calls"),
    ],
)
def test_rules_on_time_or_calls_are_learned_and_kept(rules: list[str], account: str) -> None:
    env = small_game(rows=64, rule=rules, reward="regret")
    recipe = Recipe(
        PCLConfig(iterations=20, episodes=128, updates=4, prompts=16), demonstrations=200,
        calibration=CalibrationConfig(prompts=len(PROMPTS), rounds=8),
    )  # fmt: skip
    agent = train_pcl(env, recipe)
    assert agent.policy is not None
    assert set(agent.policy.cut.limits) == {parse(rules[0]).quantity.value}
    assert agent.policy.at_end == (account == "calls"), "what a call at the end drops takes time"
    everything, alone = np.arange(len(PROMPTS)), student_alone(env.layout, env.game.spec.actions)
    helped = [play(env, agent.policy, everything, rule).outcomes for rule in rules]
    for rule, outcomes in zip(rules, helped, strict=True):
        assert 0.5 * parse(rule).limit < outcomes.spent.mean() <= parse(rule).limit + 1e-6
    unhelped = play(env, alone, everything, "never").outcomes.returns.mean()
    least, more = (outcomes.returns.mean() for outcomes in helped)
    assert 0 > more > least > unhelped, "regret"
