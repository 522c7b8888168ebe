"""What the gate is shown before it plays, which prompts it learns from, and that dropout is for learning alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.baselines.calibration import CalibrationConfig
from agents.pcl import PCL, PCLConfig
from agents.pcl.paths import SiblingPlay
from agents.pcl.recipe import Recipe, train_pcl
from agents.rollout import Episodes
from tests.agents.small import PROMPTS, small_game
from tw_env.policies import ObservationNetwork, student_alone

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
    play = SiblingPlay(env, replace(SMALL, siblings=8, fresh=fresh))
    played = play.play(student_alone(env.layout, env.game.spec.actions), np.random.default_rng(0), seed=0)
    drawn: list[int] = []
    monkeypatch.setattr(play.store, "draw", lambda generator, prompts, *others: drawn.extend(prompts.tolist()))
    play.batch(np.random.default_rng(1))
    assert len(drawn) == SMALL.prompts
    assert (set(drawn) <= set(played.sums["prompt"].astype(int).tolist())) == all_of_the_last_round
