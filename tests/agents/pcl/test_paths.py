"""Paths told anew under a limit are what playing them under it shows; the store keeps distinct ones and resumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agents.limits import limited
from agents.pcl import losses
from agents.pcl.paths import PathStore, relabel
from agents.rollout import Collector, Episodes
from tests.agents.small import small_game
from tw_env.rules import Constraint, Quantity

ROWS = 8
PRICES = {"call": 0.01, "read": 0.001, "written": 0.002}


class Script:
    """Plays row by row what it is told, SELF afterwards."""

    def __init__(self, actions: np.ndarray) -> None:
        self.actions, self.time = actions, 0

    def predict(self, observation: np.ndarray, *args: Any, **kwargs: Any) -> tuple[np.ndarray, None]:
        chosen = self.actions[:, self.time] if self.time < self.actions.shape[1] else np.zeros(len(observation), int)
        self.time += 1
        return chosen, None


def play(
    actions: np.ndarray, prompts: np.ndarray, limits: np.ndarray, quantity: Quantity = Quantity.CALLS_PER_TOKEN
) -> tuple[Episodes, Any]:
    """One episode for each row."""
    env = small_game(rows=ROWS, prices=PRICES)
    collector = Collector(env, 0)
    rules = [Constraint(quantity, float(limit)) for limit in limits]
    collector.restart(0, options={"prompts": prompts, "rules": rules})
    return collector.collect_first(Script(actions), ROWS), env


def some_play(seed: int, limits: np.ndarray, quantity: Quantity = Quantity.CALLS_PER_TOKEN) -> tuple[Episodes, Any]:
    generator = np.random.default_rng(seed)
    actions = generator.choice(3, p=[0.6, 0.2, 0.2], size=(ROWS, 12))
    return play(actions, generator.integers(258, size=ROWS), limits, quantity)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_path_under_another_limit_is_what_playing_it_shows(seed: int) -> None:
    limits = np.random.default_rng(seed).uniform(0.02, 0.9, ROWS)
    played, env = some_play(seed, np.full(ROWS, 0.1))
    wanted, _ = some_play(seed, limits)
    told = relabel(played, env.layout, limits)
    np.testing.assert_allclose(told.observations, wanted.observations, atol=1e-5)
    np.testing.assert_allclose(told.costs, wanted.costs)
    np.testing.assert_allclose(told.allowances, wanted.allowances, atol=1e-9)
    np.testing.assert_allclose(told.violation, wanted.violation, atol=1e-9)


@pytest.mark.parametrize(
    ("quantity", "usual"), [(Quantity.CALLS, 2.0), (Quantity.LATENCY_MS, 30.0), (Quantity.PRICE, 0.02)]
)
def test_so_it_is_under_limits_on_anything_else_but_for_the_unit(quantity: Quantity, usual: float) -> None:
    limits = usual * np.random.default_rng(3).uniform(0.3, 2.0, ROWS)
    limits = np.ceil(limits) if quantity == Quantity.CALLS else limits
    played, env = some_play(3, np.full(ROWS, usual), quantity)
    wanted, _ = some_play(3, limits, quantity)
    ours = limited(env, quantity, limits.tolist())
    told, wanted = relabel(played, env.layout, limits, ours), ours.in_calls(wanted)
    assert played.costs.any()
    for name in ("observations", "costs", "allowances", "before", "violation"):
        np.testing.assert_allclose(getattr(told, name), getattr(wanted, name), atol=1e-5)
    np.testing.assert_allclose(told.sums["spent"] - told.sums["allowed"], ours.unit * told.violation)
    assert np.all(told.costs[told.actions > 0] >= 1 - 1e-9), "a call reads a token at least"


def test_the_store_keeps_distinct_paths_and_the_latest_of_them() -> None:
    quiet = np.zeros((ROWS, 1), int)
    prompts = np.full(ROWS, 57)
    played, env = play(quiet, prompts, np.full(ROWS, 0.1))
    store = PathStore(env.layout, most=2)
    store.add(played)
    assert len(store) == 1  # the same words and the same actions in every row
    for number in range(3):
        actions = np.zeros((ROWS, 3), int)
        actions[:, number] = 1
        store.add(play(actions, prompts, np.full(ROWS, 0.1))[0])
    assert len(store) == 2
    kept, _ = store.everything()
    firsts = [kept.actions[start : start + 3].tolist() for start in kept.starts[:-1]]
    assert firsts == [[0, 1, 0], [0, 0, 1]]


def test_siblings_are_of_one_prompt_and_state_restores_them() -> None:
    store: PathStore | None = None
    for seed in range(12):
        generator = np.random.default_rng(seed)
        actions = generator.choice(3, p=[0.6, 0.2, 0.2], size=(ROWS, 12))
        played, env = play(actions, np.repeat(np.arange(4) + 100, 2), np.full(ROWS, 0.1))
        store = store or PathStore(env.layout, most=5)
        store.add(played)
    assert store is not None
    again = PathStore(store.layout, most=5)
    again.restore(store.state())
    limits = np.linspace(0.05, 0.5, 4)
    drawn, same = (one.draw(np.random.default_rng(1), np.arange(4) + 100, limits, 4) for one in (store, again))
    assert drawn is not None
    assert same is not None
    np.testing.assert_array_equal(drawn.episodes.observations, same.episodes.observations)
    np.testing.assert_array_equal(drawn.group, [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4)
    first = drawn.episodes.observations[drawn.episodes.starts[:-1]]
    np.testing.assert_allclose(first[:, store.layout["limit"].start], limits[drawn.group], rtol=1e-6)
    for group in range(4):  # the same first state, up to nothing: one prompt, one limit
        assert np.ptp(first[drawn.group == group], axis=0).max() < 1e-5
    assert store.draw(np.random.default_rng(1), np.array([3]), np.array([0.1]), 4) is None


def test_residuals_of_siblings_vanish_exactly_at_the_optimum() -> None:
    # One decision worth 1 - lambda against 0: at alpha, log P is worth / alpha - log Z, and nothing is left over.
    alpha, worth = 0.3, torch.tensor([0.0, 0.4])
    of_step, group = torch.tensor([0, 1]), torch.tensor([0, 0])
    optimal = (worth / alpha).log_softmax(0)
    assert losses.sibling_residuals(worth - alpha * optimal, of_step, group, 1).abs().max() < 1e-6
    other = torch.tensor([0.0, 0.0]).log_softmax(0)
    residual = losses.sibling_residuals(worth - alpha * other, of_step, group, 1)
    torch.testing.assert_close(residual, torch.tensor([-0.2, 0.2]))
