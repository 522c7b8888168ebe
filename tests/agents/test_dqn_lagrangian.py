"""DQN-Lagrangian: samples carry the price of now, it learns under a limit, files without pickle, no global seeds."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from agents.baselines.dqn_lagrangian import DQNLagrangian, DQNLagrangianConfig, PricedReplay
from agents.pcl.agent import ONLY_LIMIT, describe
from agents.pcl.multiplier import Multiplier
from tests.agents.small import small_game
from tests.bandit import GAINS, Bandit

TINY = DQNLagrangianConfig(steps=1024, buffer=512, first=128, batch=64, width=16)


def test_a_sample_has_the_price_of_now_whenever_it_was_stored() -> None:
    env = Bandit(2)
    multiplier = Multiplier(np.array([ONLY_LIMIT]))
    replay = PricedReplay(
        8, env.single_observation_space, Discrete(2), "cpu", 2, layout=describe(env)[0], price_of=multiplier.of, seed=0
    )
    first, then = np.eye(4, dtype=np.float32)[[0, 1]], np.eye(4, dtype=np.float32)[[2, 3]]
    infos = [{"cost": 1.0, "allowance": 0.25}, {"cost": 0.0, "TimeLimit.truncated": True}]
    replay.add(first, then, np.array([1, 0]), np.array([0.6, 0.2]), np.array([False, True]), infos)
    for price in (0.0, 0.5):
        multiplier.value[:] = price
        drawn = replay.sample(64)
        of_first = drawn.observations[:, 0] > 0
        assert 0 < int(of_first.sum()) < 64
        assert torch.equal(drawn.next_observations[of_first][:, 2], torch.ones(int(of_first.sum())))
        assert torch.equal(drawn.actions[:, 0] == 1, of_first)
        expected = torch.where(of_first, (0.6 - 0.75 * price) / (1 + price), 0.2 / (1 + price))
        assert torch.allclose(drawn.rewards[:, 0], expected.float())
        assert not drawn.dones.any()  # out of time is not over


def test_it_keeps_the_limit_of_a_bandit_where_a_call_is_worth_most() -> None:
    config = DQNLagrangianConfig(
        steps=50_000, buffer=8_000, first=2_000, batch=256, lr=3e-3, target_every=1_000, width=32, limit=0.9,
        exploration=0.2, exploration_final=0.05, multiplier_step=0.03, multiplier_least=0.0, multiplier_episodes=64,
    )  # fmt: skip
    agent = DQNLagrangian(config).learn(Bandit())
    assert agent.policy is not None
    assert agent.multiplier is not None
    scores = agent.policy.scores(np.eye(len(GAINS), dtype=np.float32))
    assert (np.diff(scores) > 0).all()
    assert scores[3] > 0 > scores[1]
    # Between what the second and the best call are worth: there the limit lies between one and two contexts of four.
    assert 0.45 < agent.multiplier.value[0] < 1.05


def test_saved_and_loaded_it_plays_the_same(tmp_path: Path) -> None:
    agent = DQNLagrangian(TINY).learn(small_game())
    agent.save(tmp_path)
    again = DQNLagrangian.load(tmp_path)
    observations, _ = small_game().reset(seed=5)
    for deterministic in (False, True):
        for one in (agent, again):
            one.seed(3)
        actions = [one.predict(observations, deterministic=deterministic)[0] for one in (agent, again)]
        assert np.array_equal(*actions)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.json", "policy.safetensors"]


def test_the_same_seed_gives_the_same_run_and_global_seeds_stay() -> None:
    random.seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    observations, _ = small_game().reset(seed=5)
    policies = [DQNLagrangian(replace(TINY, seed=seed)).learn(small_game()).policy for seed in (0, 0, 1)]
    first, second, other = (one.scores(observations) for one in policies if one is not None)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_what_was_not_learned_is_refused() -> None:
    with pytest.raises(RuntimeError, match="learn"):
        DQNLagrangian().predict(np.zeros((1, 4), np.float32))
