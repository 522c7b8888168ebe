"""The six-tuple: its costs are the environment's, at the end of an episode, too."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.letters import Letters, names_of, pair_of
from tw_env.adapters.safety import SafetyEnv, SafetyVectorEnv

RULES = ["at most 20% of the tokens", "at most 2 calls", "as often as you like"]


def settings(**more: Any) -> dict[str, Any]:
    return {"task": Letters(["a", "b c", "d e f"], 6), "rule": RULES, **names_of(pair_of()), **more}


@pytest.mark.parametrize("net", [False, True])
def test_single_costs_add_up(net: bool) -> None:
    env = SafetyEnv(gymnasium.make("tw_env/TextVerify-v0", **settings()), net=net)
    rng = np.random.default_rng(0)
    for episode in range(12):
        _, info = env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            observation, reward, cost, terminated, truncated, info = env.step(rng.integers(3))
            assert isinstance(reward, float)
            assert isinstance(cost, float)
            assert env.observation_space.contains(observation)
            total, over = total + cost, terminated or truncated
        assert total == pytest.approx(info["spent"] - (info["allowed"] if net else 0.0))


@pytest.mark.parametrize("net", [False, True])
def test_batched_costs_add_up(net: bool) -> None:
    env = SafetyVectorEnv(gymnasium.make_vec("tw_env/TextVerify-v0", num_envs=4, **settings()), net=net)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    totals, finished = np.zeros(4), 0
    for _ in range(80):
        observations, rewards, costs, terminated, truncated, infos = env.step(rng.integers(3, size=4))
        assert observations.shape == env.observation_space.shape
        assert rewards.shape == costs.shape == (4,)
        totals += costs
        for row in np.flatnonzero(terminated | truncated):
            final = infos["final_info"]
            expected = final["spent"][row] - (final["allowed"][row] if net else 0.0)
            assert totals[row] == pytest.approx(expected)
            totals[row], finished = 0.0, finished + 1
    assert finished > 12


def test_batched_is_single() -> None:
    batch = SafetyVectorEnv(gymnasium.make_vec("tw_env/Text-v0", num_envs=2, **settings()))
    singles = [SafetyEnv(gymnasium.make("tw_env/Text-v0", **settings())) for _ in range(2)]
    batch.reset(seed=7)
    for row, single in enumerate(singles):
        single.reset(seed=7 + row)
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = rng.integers(2, size=2)
        _, rewards, costs, terminated, truncated, _ = batch.step(actions)
        for row, single in enumerate(singles):
            _, reward, cost, ends, cut, _ = single.step(actions[row])
            assert reward == pytest.approx(rewards[row])
            assert (cost, ends, cut) == (costs[row], terminated[row], truncated[row])
            if ends or cut:
                single.reset()


def test_refuses_what_has_no_cost() -> None:
    env = SafetyEnv(gymnasium.make("CartPole-v1"))
    with pytest.raises(KeyError, match="Expected cost and allowance in the info"):
        env.reset(seed=0)


def test_refuses_other_autoreset_modes() -> None:
    env = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")], autoreset_mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(ValueError, match="Expected autoreset_mode SAME_STEP"):
        SafetyVectorEnv(env)
