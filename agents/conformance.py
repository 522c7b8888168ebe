"""Check of an agent: what the benchmark and its readers rely on. Run it on yours."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from agents.base import Agent
from tw_env.testing.compare import expect, expect_same
from tw_env.testing.policies import PICKLES

Learn = Callable[[Agent, VectorEnv], Agent]


def check_agent(
    make: Callable[[int], Agent],
    env: Callable[[], VectorEnv],
    learn: Learn | None = None,
    steps: int = 60,
) -> None:
    """Check that an agent learns, plays, repeats and is kept as the benchmark expects.

    Checked: an untrained agent says so; `learn` returns the agent and leaves the random numbers of the process alone;
    the same seed learns the same play; actions are whole numbers that the masks allow; `save` writes no pickle, and
    `load` gives an agent that plays the same.

    Args:
        make: an untrained agent from a seed, set to learn for a few seconds at most.
        env: a fresh vector environment with SAME_STEP autoreset, the same each time.
        learn: how the agent learns; by default `agent.learn(env)`.
        steps: of play.

    Raises:
        AssertionError: what was expected and what came.
    """
    learn = learn or (lambda agent, where: agent.learn(where))
    _check_untrained(make(0), env())
    before = _random_numbers()
    agent = make(0)
    learned = learn(agent, env())
    expect(learned is agent, f"Expected learn() to return the agent itself, got {type(learned).__name__}.")
    expect_same(before, _random_numbers(), "the process's random numbers after learn()")
    played = _play(agent, env(), steps)
    again = make(0)
    learn(again, env())
    expect_same(played, _play(again, env(), steps), "actions of two agents that learned with the same seed")
    with tempfile.TemporaryDirectory() as name:
        agent.save(name)
        pickles = [path.name for path in Path(name).rglob("*") if path.suffix in PICKLES]
        expect(not pickles, f"Expected agents to be saved without pickle, got {', '.join(pickles)}.")
        expect_same(played, _play(type(agent).load(name), env(), steps), "actions after save and load")


def _check_untrained(agent: Agent, env: VectorEnv) -> None:
    observations, _ = env.reset(seed=0)
    try:
        agent.predict(observations)
    except RuntimeError:
        return
    raise AssertionError("Expected an untrained agent to raise RuntimeError in predict(), got actions.")


def _random_numbers() -> NDArray[np.float64]:
    """What the process's generators would draw next, without drawing it."""
    kept = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    drawn = np.array([random.random(), np.random.random(), torch.rand(()).item()])  # noqa: NPY002
    random.setstate(kept[0])
    np.random.set_state(kept[1])  # noqa: NPY002
    torch.random.set_rng_state(kept[2])
    return drawn


def _play(agent: Any, env: VectorEnv, steps: int) -> NDArray[np.int64]:
    """(2 steps, rows) actions of deterministic and of drawn play."""
    played = []
    for deterministic in (True, False):
        agent.seed(1)
        observations, infos = env.reset(seed=1)
        state = None
        for _ in range(steps):
            masks = np.asarray(infos["action_mask"]).astype(bool) if "action_mask" in infos else None
            actions, state = agent.predict(observations, state, deterministic=deterministic, action_masks=masks)
            actions = np.asarray(actions)
            _check_actions(actions, env, masks)
            played.append(actions)
            observations, _, _, _, infos = env.step(actions)
    return np.stack(played)


def _check_actions(actions: NDArray[Any], env: VectorEnv, masks: NDArray[np.bool_] | None) -> None:
    expect(
        actions.shape == (env.num_envs,) and actions.dtype.kind in "iu",
        f"Expected whole-numbered actions of shape ({env.num_envs},), got {actions.dtype} of shape {actions.shape}.",
    )
    expect(
        bool(env.action_space.contains(actions.astype(np.int64))),
        f"Expected actions of {env.single_action_space}, got {np.unique(actions).tolist()}.",
    )
    if masks is not None:
        forbidden = np.flatnonzero(~masks[np.arange(len(actions)), actions])
        expect(not forbidden.size, f"Expected only actions that the masks allow, not in rows {forbidden.tolist()}.")
