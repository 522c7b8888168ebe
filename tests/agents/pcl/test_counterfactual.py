"""What is read off logged paths is what play comes to, for gates that draw and for every cut."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from agents.evaluation import play
from agents.pcl.counterfactual import LoggedPaths
from agents.pcl.logged import LoggedPlay, log_behaviour
from tests.agents.small import PROMPTS, small_game
from tw_env.policies import Gate, ObservationNetwork
from tw_env.policies.cuts import CutTable
from tw_env.rules import Constraint, Quantity

ALL = np.arange(len(PROMPTS))
LIMITS = (0.1, 0.2, 0.35)


@cache
def logged() -> tuple[Any, LoggedPlay]:
    env = small_game(rows=64, actions="SELF/VERIFY", rule="sample")
    return env, log_behaviour(env, 12 * len(PROMPTS), seed=0, each=12)


def some_gate(env: Any, temperature: float = 0.3) -> Gate:
    """At play it knows nothing, but asks here more and there less."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = ObservationNetwork(env.layout.size, 4, width=16).eval()
    network.standardise.fit(torch.from_numpy(logged()[1].episodes.observations))
    prices = np.array([0.05, 0.5]), np.array([1.0, 0.2])
    return Gate(env.layout, env.game.spec.actions, network, temperature, at_end=True, prices=prices)


def excess(env: Any, gate: Gate, limit: float, deterministic: bool, times: int = 1) -> float:
    rule = Constraint(Quantity.CALLS_PER_TOKEN, limit)
    outcomes = play(env, gate, np.tile(ALL, times), rule, deterministic=deterministic).outcomes
    return float((outcomes.spent - outcomes.allowed).mean())


def test_a_gate_that_draws_spends_what_its_logged_paths_say() -> None:
    env, log = logged()
    gate, paths = some_gate(env), LoggedPaths(log, at_end=True)
    for limit in LIMITS:
        expected, covered = paths.expected(gate, np.arange(len(ALL)), np.full(len(ALL), limit))
        assert covered.max() <= 1 + 1e-6
        assert covered.mean() > 0.9
        assert expected.mean() == pytest.approx(excess(env, gate, limit, False, times=8), abs=0.08)


def test_cuts_from_the_log_keep_their_limits_at_play_and_no_lower_one_does() -> None:
    env, log = logged()
    gate, paths = some_gate(env), LoggedPaths(log, at_end=True)
    gate.cut = table = paths.cuts(gate, LIMITS)
    cuts = table.cuts["calls_per_token"]
    for limit, cut in zip(LIMITS, cuts, strict=True):
        spent = excess(env, gate, limit, True)
        assert abs(spent) < 0.12  # calls an output; where calls are missing in the log they are taken to be the last
        lower = some_gate(env)
        lower.cut = CutTable(default=cut - 1.0)
        assert excess(env, lower, limit, True) > max(spent, 0.0)


def test_missing_paths_show_in_what_is_covered() -> None:
    env, log = logged()
    few = replace(log, episodes=log.episodes.take(np.flatnonzero(log.episodes.sums["calls"] <= 1)))
    gate, paths = some_gate(env), LoggedPaths(few, at_end=True)
    covered = paths.expected(gate, np.arange(len(paths.prompts)), np.full(len(paths.prompts), 0.3))[1]
    assert 0.2 < covered.mean() < 0.95


def test_play_that_can_not_be_told_anew_is_refused() -> None:
    _, log = logged()
    with pytest.raises(ValueError, match="got sampling"):
        LoggedPaths(replace(log, sampling=True), at_end=True)
    with pytest.raises(ValueError, match="without the sums"):
        LoggedPaths(replace(log, episodes=replace(log.episodes, sums={})), at_end=True)
