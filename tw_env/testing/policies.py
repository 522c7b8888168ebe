"""Check of a policy: the shapes of `predict`, masks, repeatability, saving and loading."""

from __future__ import annotations

import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tw_env.policies.policy import CONFIG, Policy
from tw_env.testing.compare import expect, expect_same
from tw_env.testing.environments import EnvMaker, make_env

PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin")


def check_policy(policy: Any, env: EnvMaker, *, steps: int = 60, seed: int = 0, **settings: Any) -> None:
    """Check that a policy plays an environment through `predict`, the signature of stable-baselines3.

    Checked: whole-numbered actions of the action space, one for an observation and (rows,) for a batch; the
    observation stays as it was; deterministic play repeats itself, and rows don't influence each other; with
    `action_masks`, only allowed actions; for a `tw_env.policies.Policy` also the same draws after the same
    `seed()`, and the same actions after `save` and `restore`.

    Args:
        policy: anything with `predict`, agents of stable-baselines3 included.
        env: a registered id, or what makes an environment. settings: passed on to it.
        steps: how many observations to try it on. seed: of environment and policy.

    Raises:
        AssertionError: what was expected and what came.
    """
    observations, count = _observations(policy, env, settings, steps, seed)
    before = observations.copy()
    sure = _sure(policy, observations)
    expect_same(sure, _sure(policy, observations), "deterministic actions, asked for twice")
    _restart(policy)
    alone = np.array([_actions(policy, one, deterministic=True) for one in observations])
    expect_same(alone, sure, "deterministic actions of a batch, against one observation at a time")
    expect_same(before, observations, "observations after predict")
    _check_range(sure, count)
    _check_range(_actions(policy, observations, deterministic=False), count)
    if "action_masks" in inspect.signature(policy.predict).parameters:
        _check_masks(policy, observations, count, seed)
    if isinstance(policy, Policy):
        _check_draws(policy, observations)
        _check_files(policy, observations, sure)


def _observations(
    policy: Any, env: EnvMaker, settings: dict[str, Any], steps: int, seed: int
) -> tuple[NDArray[np.float32], int]:
    """(steps, size) observations of the policy's own episodes, and the number of actions."""
    game = make_env(env, settings)
    count = int(game.action_space.n)  # type: ignore[attr-defined]
    if isinstance(policy, Policy):
        policy.seed(seed)
    observation, _ = game.reset(seed=seed)
    seen = []
    for _ in range(steps):
        seen.append(observation)
        action = _actions(policy, observation, deterministic=False)
        _check_range(action, count)
        observation, _, terminated, truncated, _ = game.step(np.int64(action))
        if terminated or truncated:
            observation, _ = game.reset()
    game.close()
    return np.stack(seen), count


def _actions(policy: Any, observations: NDArray[np.float32], **how: Any) -> NDArray[np.int64]:
    result = policy.predict(observations, **how)
    expect(
        isinstance(result, tuple) and len(result) == 2,
        f"Expected predict to return (actions, state), got {result!r}.",
    )
    actions = np.asarray(result[0])
    shape = observations.shape[:-1]
    expect(
        actions.shape == shape and actions.dtype.kind in "iu",
        f"Expected whole-numbered actions of shape {shape} for observations {observations.shape}, got {result[0]!r}.",
    )
    return actions


def _check_range(actions: NDArray[np.int64], count: int) -> None:
    expect(
        bool(((actions >= 0) & (actions < count)).all()),
        f"Expected actions from 0 to {count - 1}, got {np.unique(actions).tolist()}.",
    )


def _restart(policy: Any) -> None:
    """Random asking draws its numbers in deterministic play, too."""
    if isinstance(policy, Policy):
        policy.seed(1)


def _sure(policy: Any, observations: NDArray[np.float32]) -> NDArray[np.int64]:
    _restart(policy)
    return _actions(policy, observations, deterministic=True)


def _check_masks(policy: Any, observations: NDArray[np.float32], count: int, seed: int) -> None:
    masks = np.random.default_rng(seed).random((len(observations), count)) < 0.5
    masks[:, 0] = True  # the student can always go on
    for deterministic in (True, False):
        actions = _actions(policy, observations, deterministic=deterministic, action_masks=masks)
        forbidden = np.flatnonzero(~masks[np.arange(len(actions)), actions])
        expect(
            not forbidden.size,
            f"Expected only actions that the masks allow; rows {forbidden.tolist()} play forbidden ones.",
        )


def _check_draws(policy: Policy, observations: NDArray[np.float32]) -> None:
    draws = []
    for _ in range(2):
        _restart(policy)
        draws.append(_actions(policy, observations, deterministic=False))
    expect_same(draws[0], draws[1], "actions drawn after the same seed()")


def _check_files(policy: Policy, observations: NDArray[np.float32], sure: NDArray[np.int64]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy.save(folder)
        pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLES]
        expect(not pickles, f"Expected policies to be saved without pickle, got {', '.join(pickles)}.")
        restored = type(policy).restore(json.loads((folder / CONFIG).read_text()), folder)
        expect_same(sure, _sure(restored, observations), "actions after save and restore")
