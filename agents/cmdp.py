"""Small constrained decision processes as Gymnasium environments, and their exact optimum by a linear programme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from scipy.optimize import linprog

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Optimum:
    """The most return that an expected cost allows, and a policy (states, actions) that has it."""

    value: float
    cost: float
    policy: FloatArray


@dataclass(frozen=True)
class CMDP:
    """A tabular constrained decision process, undiscounted, whose episodes end with probability one.

    Attributes:
        transitions: (states, actions, states), rows sum to 1 or less; what is missing ends the episode.
        rewards, costs: (states, actions), costs at least 0.
        start: (states,) distribution of the first state.
    """

    transitions: FloatArray
    rewards: FloatArray
    costs: FloatArray
    start: FloatArray

    @staticmethod
    def random(states: int = 6, actions: int = 3, successors: int = 2, end: float = 0.2, seed: int = 0) -> CMDP:
        """A Garnet problem (Bhatnagar et al. 2009, section 5), undiscounted: each step ends the episode with
        probability `end`. The first action costs nothing, dearer actions tend to pay more.
        """
        rng = np.random.default_rng(seed)
        transitions = np.zeros((states, actions, states))
        for state in range(states):
            for action in range(actions):
                reached = rng.choice(states, successors, replace=False)
                transitions[state, action, reached] = (1 - end) * rng.dirichlet(np.ones(successors))
        costs = np.sort(rng.uniform(0, 1, (states, actions)), axis=1)
        costs[:, 0] = 0.0
        rewards = 0.6 * costs + 0.6 * rng.uniform(0, 1, (states, actions))
        return CMDP(transitions, rewards, costs, np.full(states, 1 / states))

    def evaluate(self, policy: FloatArray) -> tuple[float, float]:
        """Exact expected return and cost of an episode under a policy (states, actions)."""
        moves = np.einsum("sa,sat->ts", policy, self.transitions)
        visits = np.linalg.solve(np.eye(len(self.start)) - moves, self.start)
        return float(visits @ (policy * self.rewards).sum(1)), float(visits @ (policy * self.costs).sum(1))

    def optimum(self, limit: float = np.inf) -> Optimum:
        """The best policy whose expected cost is at most `limit`, by a linear programme over expected numbers of
        visits x(s, a) (Altman 1999, Constrained Markov Decision Processes, chapter 9):

            max sum x r   subject to   sum_a x(t, a) - sum_{s, a} x(s, a) P(t | s, a) = start(t),  sum x c <= limit

        Raises:
            ValueError: no policy spends so little.
        """
        states, actions = self.rewards.shape
        flow = np.repeat(np.eye(states), actions, axis=1) - self.transitions.reshape(-1, states).T
        bounded = np.isfinite(limit)
        found = linprog(
            -self.rewards.ravel(), A_eq=flow, b_eq=self.start,
            A_ub=self.costs.reshape(1, -1) if bounded else None, b_ub=[limit] if bounded else None,
        )  # fmt: skip
        if not found.success:
            raise ValueError(f"Expected a limit that some policy keeps, got {limit}. ({found.message})")
        visits = found.x.reshape(states, actions)
        mass = visits.sum(axis=1, keepdims=True)
        policy = np.where(mass > 1e-12, visits / np.maximum(mass, 1e-12), 1 / actions)
        return Optimum(float((visits * self.rewards).sum()), float((visits * self.costs).sum()), policy)

    def soft_optimum(self, limit: float, alpha: float) -> Optimum:
        """The best policy when entropy is worth `alpha` per nat: what a learner with that temperature tends to.

        Soft value iteration for a price of the cost, and bisection on the price. The value is without the entropy.
        """
        low, high = 0.0, 10.0
        if self.evaluate(self._soft_policy(low, alpha))[1] <= limit:
            high = low
        while high - low > 1e-4:
            middle = (low + high) / 2
            low, high = (middle, high) if self.evaluate(self._soft_policy(middle, alpha))[1] > limit else (low, middle)
        policy = self._soft_policy(high, alpha)
        return Optimum(*self.evaluate(policy), policy)

    def _soft_policy(self, price: float, alpha: float) -> FloatArray:
        gains, values = self.rewards - price * self.costs, np.zeros(len(self.start))
        for _ in range(400):
            scaled = (gains + self.transitions @ values) / alpha  # (states, actions)
            peak = scaled.max(axis=1)
            values = alpha * (peak + np.log(np.exp(scaled - peak[:, None]).sum(axis=1)))
        return np.exp(scaled - values[:, None] / alpha)


class TabularVectorEnv(VectorEnv):
    """A `CMDP` played in a batch, with SAME_STEP autoreset; the observation is the state, one-hot.

    Each step tells `info["cost"]` of the action taken; a finished episode's last one stands in `final_info`.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, problem: CMDP, num_envs: int = 64) -> None:
        states, actions = problem.rewards.shape
        self.problem, self.num_envs = problem, num_envs
        self.single_observation_space = Box(0, 1, (states,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = Discrete(actions)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._start, self._chances = problem.start.cumsum(), problem.transitions.cumsum(axis=2)
        self.state = np.zeros(num_envs, np.int64)

    def _observe(self, states: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.eye(len(self.problem.start), dtype=np.float32)[states]

    def _begin(self, rows: int) -> NDArray[np.int64]:
        drawn = np.searchsorted(self._start, self.np_random.random(rows), side="right")
        return np.minimum(drawn, len(self._start) - 1)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """As Gymnasium's."""
        super().reset(seed=seed)
        self.state = self._begin(self.num_envs)
        return self._observe(self.state), {"cost": np.zeros(self.num_envs)}

    def step(self, actions: NDArray[np.int64]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As Gymnasium's."""
        rewards, cost = self.problem.rewards[self.state, actions], self.problem.costs[self.state, actions]
        uniforms = self.np_random.random((self.num_envs, 1))
        after = (self._chances[self.state, actions] <= uniforms).sum(axis=1)
        done = after == len(self._start)
        infos: dict[str, Any] = {"cost": np.where(done, 0.0, cost)}
        self.state = np.where(done, 0, after)
        if done.any():
            last = np.empty(self.num_envs, object)
            last[:] = list(np.zeros((self.num_envs, len(self._start)), np.float32))  # no state is left
            infos |= {"final_info": {"cost": cost}, "final_obs": last}
            self.state[done] = self._begin(int(done.sum()))
        return self._observe(self.state), rewards, done, np.zeros(self.num_envs, bool), infos
