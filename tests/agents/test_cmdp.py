"""Constrained agents beside exact optima: a tabular problem, and cart-pole with dear pushes to the right.

An agent of one's own joins with a line in `AGENTS`: it needs `learn(env)` and `predict`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from scipy.optimize import linprog

from agents.cmdp import CMDP, TabularVectorEnv
from agents.pcl import PCL, PCLConfig
from agents.rollout import Collector

PROBLEM = CMDP.random(seed=0)
FREE = PROBLEM.optimum()

# ---- agents: (limit, actions) -> what learns ---------------------------------------------------------------------


def pcl_for_tables(limit: float, actions: int) -> PCL:
    return PCL(PCLConfig.general(
        limit, actions, iterations=100, episodes=128, updates=4, batch=128, capacity=2000, alpha=0.1, alpha_final=0.03,
        gate_lr=5e-3, value_lr=5e-3, width=32, multiplier_step=0.05, multiplier_proportional=0.25,
        multiplier_derivative=0.25, averaging=0.99,
    ))  # fmt: skip


def pcl_for_cart_pole(limit: float, actions: int) -> PCL:
    return PCL(PCLConfig.general(
        limit, actions, iterations=60, episodes=48, updates=6, batch=64, replayed=0.0, alpha=0.5, alpha_final=0.1,
        gate_lr=3e-3, value_lr=5e-3, width=64, multiplier_step=0.02, multiplier_proportional=0.06, averaging=0.96,
        path_lengths=(0,), stochastic=False,
    ))  # fmt: skip


AGENTS: dict[str, tuple[Callable[[float, int], Any], Callable[[float, int], Any]]] = {
    "pcl": (pcl_for_tables, pcl_for_cart_pole),
}

# ---- a table -----------------------------------------------------------------------------------------------------


def test_the_optimum_keeps_its_limit_and_is_what_play_earns() -> None:
    best = PROBLEM.optimum(1.0)
    assert PROBLEM.evaluate(best.policy) == pytest.approx((best.value, best.cost))
    assert best.cost == pytest.approx(1.0)
    env = TabularVectorEnv(PROBLEM, 64)
    rng = np.random.default_rng(0)

    class Best:
        def predict(self, observation: np.ndarray, *args: object, **kwargs: object) -> tuple[np.ndarray, None]:
            chances = best.policy[observation.argmax(1)].cumsum(1)
            return (chances <= rng.random((len(chances), 1))).sum(1), None

    played = Collector(env, 0).collect(Best(), 4000)
    assert played.total(played.rewards).mean() == pytest.approx(best.value, rel=0.05)
    assert played.violation.mean() == pytest.approx(best.cost, rel=0.05)


def test_no_policy_does_better_than_the_optimum_and_the_soft_one_tends_to_it() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        policy = rng.dirichlet(np.full(3, 0.3), size=6)
        value, cost = PROBLEM.evaluate(policy)
        assert value <= PROBLEM.optimum(cost).value + 1e-9
    soft = [PROBLEM.soft_optimum(1.0, alpha) for alpha in (0.2, 0.05, 0.01)]
    assert [best.cost for best in soft] == pytest.approx([1.0] * 3, abs=5e-3)
    values = [best.value for best in soft]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(PROBLEM.optimum(1.0).value, rel=0.01)
    with pytest.raises(ValueError, match="some policy keeps"):
        PROBLEM.optimum(-1.0)


def learned_policy(agent: Any, states: int, actions: int) -> np.ndarray:
    """(states, actions) shares of its actions when they are drawn."""
    draws = 4000
    seen = np.repeat(np.eye(states, dtype=np.float32), draws, axis=0)
    chosen = np.asarray(agent.predict(seen, deterministic=False)[0]).reshape(states, draws)
    return np.stack([np.bincount(row, minlength=actions) for row in chosen]) / draws


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_agents_come_close_to_the_exact_constrained_optimum(name: str, share: float) -> None:
    limit = share * FREE.cost
    agent = AGENTS[name][0](limit, 3).learn(TabularVectorEnv(PROBLEM, 64))
    value, cost = PROBLEM.evaluate(learned_policy(agent, 6, 3))
    best = PROBLEM.optimum(limit)
    print(f"{name}: limit {limit:.3f}, cost {cost:.3f}, return {value:.3f}, optimum {best.value:.3f}")
    assert cost == pytest.approx(limit, abs=0.05 * FREE.cost)
    assert value > 0.97 * PROBLEM.optimum(cost).value
    assert value > 0.93 * best.value


# ---- cart-pole: every push to the right costs 1, episodes of 50 steps ---------------------------------------------

STEPS = 50


class DearRight(gymnasium.Wrapper):
    """The whole adapter that a single environment needs."""

    def step(self, action: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, "cost": float(action == 1)}


def cart_pole(*wrappers: Any, rows: int = 16) -> VectorEnv:
    return gymnasium.make_vec(
        "CartPole-v1", rows, vectorization_mode="sync", max_episode_steps=STEPS, wrappers=list(wrappers),
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )  # fmt: skip


def fewest_pushes(steps: int) -> float:
    """A lower bound on the pushes to the right of a cart-pole that stands for so many steps from the middle.

    The dynamics are linearised (the pole stays within 12 degrees), pushes may be fractions: a linear programme.
    """
    gravity, cart, pole, half, force, tau = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02  # as in Gymnasium's source
    mass = cart + pole
    inertia = half * (4 / 3 - pole / mass)
    forward, push = np.eye(4), np.zeros(4)  # of (x, dx, angle, dangle), per step and per newton
    forward[0, 1] = forward[2, 3] = tau
    forward[3, 2] = tau * gravity / inertia
    forward[1, 2] = -tau * pole * half / mass * gravity / inertia
    push[3], push[1] = -tau / (mass * inertia), tau * (1 / mass + pole * half / (mass**2 * inertia))
    effect = np.zeros((4, steps))  # of each push on the state, while time goes on
    rows, bounds = [], []
    for time in range(1, steps):
        effect = forward @ effect
        effect[:, time - 1] = push
        for where, most in ((0, 2.4), (2, np.radians(12))):
            left_only = -force * effect[where].sum()
            rows += [2 * force * effect[where], -2 * force * effect[where]]
            bounds += [most - left_only, most + left_only]
    found = linprog(np.ones(steps), A_ub=np.array(rows), b_ub=bounds, bounds=(0, 1))
    assert found.success
    return float(found.fun)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("limit", [18.0, 21.0])
def test_agents_balance_a_cart_pole_with_few_pushes_to_the_right(name: str, limit: float) -> None:
    # The optimum is known where the limit is above the fewest pushes that standing to the end takes: every step of
    # the episode. A policy that just balances pushes to the right half of the time. Below that, return is nearly
    # proportional to cost: at the multiplier's equilibrium all lengths are alike, and no gradient method settles there.
    assert fewest_pushes(STEPS) < 15 < limit < STEPS / 2
    agent = AGENTS[name][1](limit, 2).learn(cart_pole(DearRight))
    played = Collector(cart_pole(DearRight), 99).collect(agent.learned(), 200)
    value, cost = played.total(played.rewards).mean(), played.total(played.costs).mean()
    print(f"{name}: limit {limit}, cost {cost:.2f}, return {value:.2f}, optimum {STEPS}")
    assert value > 0.9 * STEPS
    assert cost < limit + 1


# ---- what is refused, and how the message mends it ----------------------------------------------------------------


class Told(gymnasium.Wrapper):
    """Tells what it is given as the cost of each step, None for nothing."""

    def __init__(self, env: gymnasium.Env, cost: Callable[[], object]) -> None:
        super().__init__(env)
        self.cost = cost

    def step(self, action: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        cost = self.cost()
        return observation, reward, terminated, truncated, info if cost is None else {**info, "cost": cost}


def test_costs_that_would_be_lost_are_refused() -> None:
    agent = PCL(PCLConfig.general(1.0, 2, iterations=1, episodes=4, width=8))
    with pytest.raises(KeyError, match="on every step"):
        agent.learn(cart_pole(rows=2))
    turns = iter([0.5, None] * 1000)
    with pytest.raises(KeyError, match="some rows told only"):
        agent.learn(cart_pole(lambda env: Told(env, lambda: next(turns)), rows=2))
    with pytest.raises(TypeError, match="to be a float, got int64"):
        agent.learn(cart_pole(lambda env: Told(env, lambda: 0), rows=2))
    with pytest.raises(ValueError, match=r"Give PCLConfig\(limit=\.\.\.\)"):
        PCL(PCLConfig(iterations=1, episodes=4, width=8)).learn(cart_pole(DearRight, rows=2))


def test_other_spaces_are_refused_with_the_wrapper_that_mends_them() -> None:
    config = PCLConfig.general(1.0, 4, iterations=1, updates=1, episodes=4, width=8)
    made = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}}
    with pytest.raises(ValueError, match="FlattenObservation"):
        PCL(config).learn(gymnasium.make_vec("FrozenLake-v1", 2, wrappers=[DearRight], **made))
    flat = gymnasium.make_vec("FrozenLake-v1", 2, wrappers=[DearRight, gymnasium.wrappers.FlattenObservation], **made)
    observations, _ = flat.reset(seed=0)
    assert PCL(config).learn(flat).predict(observations)[0].shape == (2,)
