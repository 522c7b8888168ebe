"""The agent learns a constrained problem with a known optimum, resumes exactly, and saves without pickle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tw_env
import tw_env.decoding.tree
from agents.pcl import PCL, PCLConfig
from tests.agents.small import small_game
from tests.bandit import GAINS, Bandit
from tw_env.vector_env import AssistedDecodingVectorEnv

SMALL = PCLConfig(
    iterations=12, episodes=64, updates=2, batch=64, capacity=200, width=16, checkpoint_every=4, limit=0.9,
    multiplier_step=0.1,
)  # fmt: skip


def play(agent: PCL) -> np.ndarray:
    """(contexts,) P(action 1)."""
    assert agent.policy is not None
    return np.exp(agent.policy.log_probabilities(np.eye(len(GAINS), dtype=np.float32)))[:, 1]


@pytest.mark.parametrize("limit", [0.9, 1.5])
def test_it_finds_the_constrained_optimum_of_a_bandit(limit: float) -> None:
    # At the optimum P(1 | context) = sigmoid((gain - lambda) / alpha), with lambda such that 3 E[P] = limit.
    alpha = 0.1
    config = PCLConfig(
        iterations=110, episodes=128, updates=4, batch=128, alpha=alpha, alpha_final=alpha, gate_lr=5e-3, value_lr=5e-3,
        width=32, limit=limit, multiplier_step=0.1, multiplier_least=0.0, path_lengths=(1,), initial_rate=0.3,
    )  # fmt: skip
    got = play(PCL(config).learn(Bandit()))
    prices = np.linspace(-1, 2, 3001)
    spent = 3 * (1 / (1 + np.exp(-(GAINS - prices[:, None]) / alpha))).mean(axis=1)
    price = prices[np.abs(spent - limit).argmin()]
    optimum = 1 / (1 + np.exp(-(GAINS - price) / alpha))
    assert 3 * got.mean() == pytest.approx(limit, abs=0.15)
    assert np.abs(got - optimum).max() < 0.12


def test_resuming_gives_the_weights_of_an_uninterrupted_run(tmp_path: Path) -> None:
    whole = PCL(SMALL).learn(Bandit(16), folder=tmp_path / "whole")

    def stop(iteration: int, numbers: dict[str, float]) -> None:
        if iteration == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PCL(SMALL).learn(Bandit(16), folder=tmp_path / "cut", log=stop)
    rounds: list[int] = []
    resumed = PCL(SMALL).learn(Bandit(16), folder=tmp_path / "cut", resume=True, log=lambda i, _: rounds.append(i))
    assert rounds[0] == 4  # the checkpoint before the kill
    for ours, theirs in zip(whole.learner.gate.parameters(), resumed.learner.gate.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert np.array_equal(whole.learner.multiplier.value, resumed.learner.multiplier.value)


def test_resuming_in_the_game_repeats_every_bit_too(tmp_path: Path) -> None:
    # In single precision a prefix read in another batch differs in its last bits, unless it is remembered.
    def game() -> AssistedDecodingVectorEnv:
        tw_env.decoding.tree._memories.clear()  # as in a new process
        return tw_env.make_vec("tw_env/PronounceVerify-v0", 8, limit=40, reward="quality", hidden=True, rule="sample")

    config = replace(SMALL, episodes=8, batch=8, iterations=6, checkpoint_every=2)

    def stop(iteration: int, numbers: dict[str, float]) -> None:
        if iteration == 3:
            raise KeyboardInterrupt

    whole = PCL(config).learn(game(), folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        PCL(config).learn(game(), folder=tmp_path / "cut", log=stop)
    resumed = PCL(config).learn(game(), folder=tmp_path / "cut", resume=True)
    for ours, theirs in zip(whole.learner.gate.parameters(), resumed.learner.gate.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    PCL(SMALL).learn(Bandit(16), folder=tmp_path)
    with pytest.raises(ValueError, match="alpha differ"):
        PCL(replace(SMALL, alpha=0.5)).learn(Bandit(16), folder=tmp_path, resume=True)
    with pytest.raises(ValueError, match="iterations differ"):  # alpha and step sizes fall with the share that is done
        PCL(replace(SMALL, iterations=24)).learn(Bandit(16), folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("settings", "siblings"),
    [
        ({"rule": "sample"}, 8),
        ({"rule": "at most 20% of the tokens"}, 8),
        ({"rule": "at most two calls"}, 8),
        ({"rule": "at most 999 calls"}, 0),
        ({"rule": ["at most 20 ms", "at most 30 ms"]}, 8),
        ({"rule": ["at most two calls", "at most 20% of the tokens"]}, 0),
        ({"rule": "sample", "hard": True}, 0),
        ({"rule": "as often as you like"}, 0),
        ({"rule": "sample", "decoding": "sampling", "reward": "kl"}, 0),
    ],
)
def test_paths_are_told_anew_only_where_the_rules_allow_it(settings: dict[str, Any], siblings: int) -> None:
    config = replace(SMALL, episodes=32, batch=8, iterations=2, limit=None, initial_rate=0.5)
    agent = PCL(config).learn(small_game(rows=32, **settings))
    assert agent.learner.config.siblings == siblings


def test_the_rules_of_the_environment_are_those_that_are_played() -> None:
    seen: list[dict[str, float]] = []
    config = replace(SMALL, episodes=16, iterations=2, limit=None)
    PCL(config).learn(
        small_game(rows=16, rule="at most 20% of the tokens"), log=lambda _, numbers: seen.append(numbers)
    )
    allowed, tokens = (np.mean([numbers[f"sum/{name}"] for numbers in seen]) for name in ("allowed", "tokens"))
    assert allowed == pytest.approx(0.2 * tokens)


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (play(PCL(SMALL).learn(Bandit(16))) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, play(PCL(replace(SMALL, seed=1)).learn(Bandit(16))))


def test_an_untrained_agent_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="learn"):
        PCL().predict(np.zeros((1, 4), np.float32))
    with pytest.raises(RuntimeError, match="learn"):
        PCL().save(tmp_path)


@pytest.mark.gpu
def test_it_learns_in_a_game_on_a_gpu(tmp_path: Path) -> None:
    env = tw_env.make_vec(
        "tw_env/PronounceVerify-v0", 8, limit=40, reward="quality", rule="at most 20% of the tokens", device="cuda"
    )
    config = replace(SMALL, episodes=16, batch=16, iterations=4, limit=None)
    numbers: list[dict[str, float]] = []
    agent = PCL(config).learn(env, log=lambda _, seen: numbers.append(seen))
    assert all(np.isfinite(value) for seen in numbers for value in seen.values())
    agent.save(tmp_path)
    observations, _ = env.reset(seed=0)
    again = PCL.load(tmp_path)
    assert np.array_equal(*(one.predict(observations, deterministic=True)[0] for one in (agent, again)))
