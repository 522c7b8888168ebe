"""PPO-Lagrangian: the priced reward, a price that moves, files without pickle, and no global seeds."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.baselines.lagrangian import Priced
from agents.baselines.ppo_lagrangian import PPOLagrangian, PPOLagrangianConfig
from agents.pcl.multiplier import Multiplier
from agents.rollout import final
from tests.agents.small import small_game
from tw_env.adapters.sb3 import SB3VecEnv

TINY = PPOLagrangianConfig(steps=1024, rollout=8, batch=128, epochs=2, width=16, initial_rate=0.5)


def learned(**settings: object) -> PPOLagrangian:
    return PPOLagrangian(TINY).learn(small_game(rule="at most 5% of the tokens", **settings))


def test_the_reward_holds_the_price_of_the_rows_own_rule() -> None:
    multiplier = Multiplier(np.array([0.1, 0.5]))
    multiplier.value = np.array([2.0, 0.5])
    rules = ["at most 10% of the tokens", "at most 50% of the tokens", "as often as you like"]
    env = small_game(rows=3, actions="SELF/ASK", reward="regret", scoring="eager")
    priced = Priced(SB3VecEnv(env), env.layout["limit"].start, multiplier)
    priced.set_options({"prompts": [0, 1, 2], "rules": rules})
    twin = small_game(rows=3, actions="SELF/ASK", reward="regret", scoring="eager")
    priced.reset()
    twin.reset(options={"prompts": [0, 1, 2], "rules": rules})
    asks = np.array([1, 0, 1])
    rewards = priced.step(asks)[1]
    _, plain, terminated, truncated, infos = twin.step(asks)
    done = terminated | truncated
    excess = final(infos, "cost", done) - final(infos, "allowance", done)
    assert excess == pytest.approx([0.9, -0.5, 0.0])
    price = np.array([2.0, 0.5, 0.0])
    assert rewards == pytest.approx((plain - price * excess) / (1 + price), abs=1e-6)


def test_a_tiny_run_raises_the_price_where_too_much_is_spent() -> None:
    seen: list[dict[str, float]] = []
    agent = PPOLagrangian(TINY).learn(
        small_game(rule="at most 5% of the tokens"), log=lambda steps, numbers: seen.append(numbers)
    )
    at = TINY.limits.index(0.05)
    assert agent.multiplier.value[at] > 0.02
    assert agent.multiplier.value[-1] == 0.0  # nobody played under that rule
    prices = [numbers["lambda/0.05"] for numbers in seen]
    assert prices == sorted(prices)


def test_saved_and_loaded_it_plays_the_same_and_nothing_is_pickled(tmp_path: Path) -> None:
    agent = learned(hidden=True)
    agent.save(tmp_path)
    again = PPOLagrangian.load(tmp_path)
    observations, _ = small_game(hidden=True).reset(seed=5)
    assert agent.policy is not None
    assert again.policy is not None
    ours, theirs = (one.policy.log_probabilities(observations) for one in (agent, again))
    assert np.array_equal(ours, theirs)
    for one in (agent, again):
        one.seed(3)
    assert np.array_equal(agent.predict(observations)[0], again.predict(observations)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.json", "policy.safetensors"]


def test_a_masked_call_is_never_drawn() -> None:
    agent = learned()
    observations, infos = small_game(rule="never").reset(seed=1)
    actions, _ = agent.predict(observations, action_masks=infos["action_mask"].astype(bool))
    assert (actions == 0).all()


def test_the_same_seed_gives_the_same_run_and_global_seeds_stay() -> None:
    random.seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    observations, _ = small_game().reset(seed=5)
    first, second = (learned().policy.log_probabilities(observations) for _ in range(2))
    assert np.array_equal(first, second)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_what_was_not_learned_or_is_another_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="learn"):
        PPOLagrangian().predict(np.zeros((1, 4), np.float32))
    (tmp_path / "policy.json").write_text('{"kind": "gate"}')
    with pytest.raises(ValueError, match="got 'gate'"):
        PPOLagrangian.load(tmp_path)
