"""The priced reward, the account of finished episodes, and the price that moves."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from agents.baselines.lagrangian import MovePrice, MultiplierConfig, Priced, excess_of, free
from agents.pcl.agent import ONLY_LIMIT, describe
from agents.pcl.multiplier import Multiplier
from agents.rollout import final
from tests.agents.small import small_game
from tests.bandit import GAINS, Bandit
from tw_env.adapters.sb3 import SB3VecEnv


def test_the_reward_holds_the_price_of_the_rows_own_rule() -> None:
    multiplier = Multiplier(np.array([0.1, 0.5]))
    multiplier.value = np.array([2.0, 0.5])
    rules = ["at most 10% of the tokens", "at most 50% of the tokens", "as often as you like"]
    env = small_game(rows=3, actions="SELF/ASK", reward="regret", scoring="eager")
    priced = Priced(SB3VecEnv(env), env.layout, multiplier.of)
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


def test_an_episode_keeps_the_price_that_it_began_with() -> None:
    prices = [0.5]
    env = Bandit(2, length=2)
    env.reset(seed=0)
    priced = Priced(SB3VecEnv(env), describe(env)[0], lambda limits: np.full(len(limits), prices[0]))
    priced.reset()
    for price, kept in ((0.5, 0.5), (3.0, 0.5), (3.0, 3.0)):  # it moves in the middle of the first episode
        prices[0] = price
        gains = GAINS[env.context]
        rewards = priced.step(np.ones(2, np.int64))[1]
        assert rewards == pytest.approx((gains - kept) / (1 + kept), abs=1e-6)


@pytest.mark.parametrize("rule", ["at most 30% of the tokens", "at most 2 calls"])
def test_violations_are_what_the_environment_counts(rule: str) -> None:
    env = small_game(rows=8, rule=rule)
    adapter = SB3VecEnv(env)
    priced = Priced(adapter, env.layout, free)
    generator = np.random.default_rng(0)
    priced.reset()
    counted: list[float] = []
    for _ in range(40):
        _, _, dones, infos = priced.step(generator.integers(3, size=8))
        counted += [infos[row]["spent"] - infos[row]["allowed"] for row in np.flatnonzero(dones)]
    assert priced.finished == len(counted) > 20
    _, violation, returns = priced.drain()
    assert violation == pytest.approx(counted)
    assert ((returns >= 0) & (returns <= 1)).all()
    assert priced.finished == 0


def test_without_a_rule_in_the_observation_the_limit_is_the_one_given() -> None:
    env = Bandit(4)
    env.reset(seed=0)
    layout = describe(env)[0]
    priced = Priced(SB3VecEnv(env), layout, free, limit=0.9)
    priced.reset()
    for _ in range(3):
        priced.step(np.array([0, 0, 1, 1]))
    limits, violation, _ = priced.drain()
    assert (limits == ONLY_LIMIT).all()
    assert violation == pytest.approx([-0.9, -0.9, 2.1, 2.1])
    assert MultiplierConfig(limit=0.9).multiplier(layout).limits.tolist() == [ONLY_LIMIT]
    assert MultiplierConfig().multiplier(small_game().layout).limits.tolist() == list(MultiplierConfig().limits)


class WithCost(gymnasium.Wrapper):
    """A push to the right costs .5; nothing is told at a reset."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | {"cost": 0.5 * float(action)}


def test_a_batch_of_single_environments_is_counted_too() -> None:
    env = gymnasium.make_vec(
        "CartPole-v1", 2, "sync", wrappers=[WithCost], vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    env.reset(seed=0)
    priced = Priced(SB3VecEnv(env), describe(env)[0], lambda limits: np.ones(len(limits)), limit=3.0)
    priced.reset()
    paid = np.zeros(2)
    while not priced.finished:
        rewards = priced.step(np.array([1, 1]))[1]
        assert rewards == pytest.approx([0.25, 0.25])
        paid += rewards
    _, violation, returns = priced.drain()
    assert violation == pytest.approx(0.5 * returns - 3.0)
    assert returns[0] == pytest.approx(4 * paid[0])


def test_an_environment_without_costs_or_limit_is_refused() -> None:
    with pytest.raises(KeyError, match="'cost'"):
        excess_of([{"cost": 0.0}, {"allowance": 1.0}])
    with pytest.raises(ValueError, match="limit"):
        MultiplierConfig().multiplier(describe(Bandit(2))[0])


def test_the_price_moves_once_enough_episodes_are_finished() -> None:
    env = Bandit(4)
    env.reset(seed=0)
    layout = describe(env)[0]
    multiplier = Multiplier(np.array([ONLY_LIMIT]), step=0.1)
    priced = Priced(SB3VecEnv(env), layout, multiplier.of, limit=0.9)
    logged: list[dict[str, float]] = []
    move = MovePrice(priced, multiplier, 8, lambda steps, numbers: logged.append(numbers))
    priced.reset()
    for _ in range(6):
        assert multiplier.value[0] == 0
        priced.step(np.ones(4, np.int64))
        move.model = SimpleNamespace(num_timesteps=4)  # type: ignore[assignment]
        move.on_step()
    assert multiplier.value[0] == pytest.approx(0.21)
    assert logged[0]["violation"] == pytest.approx(2.1)
