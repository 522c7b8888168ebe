"""The actor-critic: its advantages by hand, the optimum that it shares with constrained PCL, seeds and files."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.baselines.actor_critic import ActorCritic, ActorCriticConfig, advantages
from agents.pcl import PCL, PCLConfig
from tests.agents.small import small_game
from tests.bandit import GAINS, Bandit

SMALL = ActorCriticConfig(PCLConfig(iterations=6, episodes=64, updates=2, batch=64, width=16, limit=0.9))


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_advantages_are_weighted_sums_of_what_comes_as_a_surprise(gae_lambda: float) -> None:
    generator = np.random.default_rng(0)
    starts = np.array([0, 3, 4, 9])
    gains, values, last = generator.normal(size=9), generator.normal(size=9), np.array([0.0, 2.0, 0.0])
    expected = np.zeros(9)
    for episode, (begin, end) in enumerate(pairwise(starts)):
        for step in range(begin, end):
            for later in range(step, end):
                behind = values[later + 1] if later + 1 < end else last[episode]
                expected[step] += gae_lambda ** (later - step) * (gains[later] + behind - values[later])
    assert advantages(gains, values, last, starts, gae_lambda) == pytest.approx(expected)


@pytest.mark.parametrize("limit", [0.9, 1.5])
def test_it_finds_the_constrained_optimum_of_a_bandit(limit: float) -> None:
    # At the optimum P(1 | context) = sigmoid((gain - lambda) / alpha), with lambda such that 3 E[P] = limit.
    alpha = 0.1
    config = PCLConfig(
        iterations=120, episodes=128, updates=4, batch=128, alpha=alpha, alpha_final=alpha, gate_lr=3e-3, value_lr=5e-3,
        width=32, limit=limit, multiplier_step=0.05, multiplier_least=0.0, initial_rate=0.3, averaging=0.99,
    )  # fmt: skip
    agent = ActorCritic(ActorCriticConfig(config)).learn(Bandit())
    assert agent.policy is not None
    got = np.exp(agent.policy.log_probabilities(np.eye(len(GAINS), dtype=np.float32)))[:, 1]
    prices = np.linspace(-1, 2, 3001)
    spent = 3 * (1 / (1 + np.exp(-(GAINS - prices[:, None]) / alpha))).mean(axis=1)
    price = prices[np.abs(spent - limit).argmin()]
    optimum = 1 / (1 + np.exp(-(GAINS - price) / alpha))
    assert 3 * got.mean() == pytest.approx(limit, abs=0.2)
    assert np.abs(got - optimum).max() < 0.15


def test_it_learns_in_the_game_and_saves_without_pickle(tmp_path: Path) -> None:
    config = PCLConfig(
        iterations=24, episodes=96, updates=4, batch=96, gate_lr=5e-3, value_lr=5e-3, width=32, multiplier_step=0.0,
        averaging=0.9,
    )  # fmt: skip
    seen: list[dict[str, float]] = []
    env = small_game(rows=64, rule="at most 50% of the tokens", reward="regret")  # the teacher's tokens cost no regret
    agent = ActorCritic(ActorCriticConfig(config)).learn(env, log=lambda _, numbers: seen.append(numbers))
    early, late = (np.mean([numbers["return"] for numbers in part]) for part in (seen[:4], seen[-4:]))
    assert late > 0.6 * early  # regrets are negative
    agent.save(tmp_path)
    again = ActorCritic.load(tmp_path)
    observations, _ = env.reset(seed=5)
    assert np.array_equal(*(one.predict(observations, deterministic=True)[0] for one in (agent, again)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.json", "policy.safetensors"]


def test_its_gate_is_that_of_constrained_pcl_in_the_same_game() -> None:
    config = PCLConfig(iterations=1, episodes=32, updates=1, batch=32, width=16)
    for actions in ("SELF/ASK/VERIFY", "SELF/ASK"):
        env = small_game(rows=32, actions=actions)
        ours, theirs = PCL(config).learn(env).policy, ActorCritic(ActorCriticConfig(config)).learn(env).policy
        assert ours is not None
        assert theirs is not None
        assert theirs.at_end == ours.at_end == (actions == "SELF/ASK/VERIFY")
        assert theirs.layout.record() == ours.layout.record()
        shapes = [[weights.shape for weights in gate.network.parameters()] for gate in (ours, theirs)]
        assert shapes[0] == shapes[1]
        assert ours.prices is not None
        assert theirs.prices is not None
    with pytest.raises(ValueError, match="Expected whole_text=False"):
        ActorCritic(ActorCriticConfig(replace(config, whole_text=True))).learn(env)


def test_the_same_seed_gives_the_same_run_and_global_seeds_stay() -> None:
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    contexts = np.eye(len(GAINS), dtype=np.float32)
    configs = (SMALL, SMALL, replace(SMALL, pcl=replace(SMALL.pcl, seed=1)))
    first, second, other = (ActorCritic(config).learn(Bandit(16)).policy.scores(contexts) for config in configs)  # type: ignore[union-attr]
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_what_was_not_learned_or_has_no_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="limit"):
        ActorCritic().learn(Bandit(4))
    with pytest.raises(RuntimeError, match="learn"):
        ActorCritic().predict(np.zeros((1, 4), np.float32))
