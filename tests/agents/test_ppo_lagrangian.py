"""PPO under a price, fixed or moving: it learns, keeps the limit, saves without pickle, touches no global seeds."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.baselines.ppo_fixed_price import PPOFixedPrice, PPOFixedPriceConfig
from agents.baselines.ppo_lagrangian import PPOLagrangian, PPOLagrangianConfig
from tests.agents.small import small_game
from tests.bandit import GAINS, Bandit
from tw_env.policies import Gate, load

TINY = PPOLagrangianConfig(steps=1024, rollout=8, batch=128, epochs=2, width=16, initial_rate=0.5)
BANDIT = PPOLagrangianConfig(
    steps=40_000, rollout=12, batch=256, lr=3e-3, entropy=0.02, width=32, initial_rate=0.3, limit=0.9,
    multiplier_step=0.02, multiplier_least=0.0, multiplier_episodes=64,
)  # fmt: skip


def learned(**settings: object) -> PPOLagrangian:
    return PPOLagrangian(TINY).learn(small_game(rule="at most 5% of the tokens", **settings))


def calls(gate: Gate | None) -> np.ndarray:
    """(contexts,) P(action 1) in the bandit."""
    assert gate is not None
    return np.exp(gate.log_probabilities(np.eye(len(GAINS), dtype=np.float32)))[:, 1]


def test_it_keeps_the_limit_of_a_bandit_where_a_call_is_worth_most() -> None:
    # The best that .9 calls in three contexts buy: always call in the best context, sometimes in the next.
    prices: list[float] = []
    agent = PPOLagrangian(BANDIT).learn(Bandit(), log=lambda _, numbers: prices.append(numbers["lambda/mean"]))
    got = calls(agent.policy)
    assert 3 * got.mean() == pytest.approx(0.9, abs=0.25)
    assert got[3] > 0.8
    assert got[:2].max() < 0.15
    assert 0.4 < np.mean(prices[len(prices) // 2 :]) < 1.0  # about what the last call bought is worth


def test_a_fixed_price_buys_what_is_worth_more_than_it() -> None:
    config = PPOFixedPriceConfig(
        steps=30_000, rollout=12, batch=256, lr=3e-3, entropy=0.02, width=32, initial_rate=0.3, price=0.45
    )
    got = calls(PPOFixedPrice(config).learn(Bandit()).policy)
    assert got[2:].min() > 0.7
    assert got[:2].max() < 0.15


def test_a_tiny_run_raises_the_price_where_too_much_is_spent() -> None:
    seen: list[dict[str, float]] = []
    config = replace(TINY, multiplier_episodes=32, multiplier_least=0.0)
    agent = PPOLagrangian(config).learn(
        small_game(rule="at most 5% of the tokens"), log=lambda steps, numbers: seen.append(numbers)
    )
    assert agent.multiplier is not None
    at = TINY.limits.index(0.05)
    assert agent.multiplier.value[at] > 0.02
    assert agent.multiplier.value[-1] == 0.0  # nobody played under that rule
    prices = [numbers["lambda/0.05"] for numbers in seen]
    assert prices == sorted(prices)


def test_saved_and_loaded_it_plays_the_same_and_nothing_is_pickled(tmp_path: Path) -> None:
    agent = learned(hidden=True)
    agent.save(tmp_path)
    observations, _ = small_game(hidden=True).reset(seed=5)
    assert agent.policy is not None
    ours, theirs = (one.log_probabilities(observations) for one in (agent.policy, load(tmp_path)))  # type: ignore[attr-defined]
    assert np.array_equal(ours, theirs)
    again = PPOLagrangian.load(tmp_path)
    for one in (agent, again):
        one.seed(3)
    assert np.array_equal(agent.predict(observations)[0], again.predict(observations)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.json", "policy.safetensors"]


def test_a_masked_call_is_never_drawn() -> None:
    agent = learned()
    observations, infos = small_game(rule="never").reset(seed=1)
    actions, _ = agent.predict(observations, action_masks=infos["action_mask"].astype(bool))
    assert (actions == 0).all()


@pytest.mark.parametrize("kind", [PPOLagrangian, PPOFixedPrice])
def test_the_same_seed_gives_the_same_run_and_global_seeds_stay(kind: type) -> None:
    random.seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    config = TINY if kind is PPOLagrangian else PPOFixedPriceConfig(steps=1024, rollout=8, batch=128, width=16)
    observations, _ = small_game().reset(seed=5)
    first, second, other = (
        kind(replace(config, seed=seed)).learn(small_game()).policy.log_probabilities(observations)
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_what_was_not_learned_is_refused() -> None:
    with pytest.raises(RuntimeError, match="learn"):
        PPOLagrangian().predict(np.zeros((1, 4), np.float32))
