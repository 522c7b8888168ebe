"""Checks of environments: the cost channel, determinism, masks, and single against batched play."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from tw_env.testing.compare import expect, expect_same, has_tensor

EnvMaker = str | Callable[..., gymnasium.Env[Any, Any]]
Info = dict[str, Any]

ACCOUNT = ("cost", "allowance", "spent", "allowed")
MOST_STEPS = 100_000  # an episode that is still running then is taken for endless


@dataclass(frozen=True)
class Moment:
    """What a reset (action None) or a step returned."""

    step: int
    action: int | None
    observation: NDArray[np.float32]
    reward: Any
    terminated: bool
    truncated: bool
    info: Info


# ---- one environment ---------------------------------------------------------------------------------------


def check_env(env: EnvMaker, *, episodes: int = 4, seed: int = 0, **settings: Any) -> None:
    """Play random episodes, forbidden actions included, in two environments side by side, and once more.

    Checked: types and finite values; observations within their bounds; the same info keys at the reset and at
    every step; `cost` >= 0, and `spent` and `allowed` as the sums of `cost` and `allowance` from the reset
    on; no tensors in infos; SELF always allowed, `action_masks()` equal to `info["action_mask"]`, a forbidden
    call not played; the same run for the same seed; where the environment has a game and a task of this
    package, the `quality` of the final text, and the return where the reward is quality alone.

    Args:
        env: a registered id, or what makes an environment. settings: passed on to it.
        episodes: how many to play. seed: of the environment and of the actions.

    Raises:
        AssertionError: what was expected and what came.
    """
    first, second = make_env(env, settings), make_env(env, settings)
    log = []
    for one, other in zip(_play(first, seed, episodes), _play(second, seed, episodes), strict=True):
        _expect_same_moment(one, other, "two environments with the same seed")
        log.append(one)
    for one, again in zip(log, _play(first, seed, episodes), strict=True):
        _expect_same_moment(one, again, "the same environment with the same seed again")
    first.close()
    second.close()


def make_env(env: EnvMaker, settings: Info) -> gymnasium.Env[Any, Any]:
    """A single environment from its id or its maker."""
    return gymnasium.make(env, **settings) if isinstance(env, str) else env(**settings)


def _actions(env: gymnasium.Env[Any, Any]) -> int:
    space = env.action_space
    if not isinstance(space, Discrete):
        raise AssertionError(f"Expected a Discrete action space, got {space}.")
    return int(space.n)


def _play(env: gymnasium.Env[Any, Any], seed: int, episodes: int) -> Iterator[Moment]:
    """Random episodes, checked as they go."""
    rng = np.random.default_rng(seed)
    count = _actions(env)
    for episode in range(episodes):
        observation, info = env.reset(seed=seed if episode == 0 else None)
        before = Moment(0, None, observation, 0.0, False, False, info)
        keys, total = set(info), 0.0
        sums = {"spent": 0.0, "allowed": 0.0}
        _check_moment(env, before, None, keys, sums)
        yield before
        while not (before.terminated or before.truncated):
            expect(before.step < MOST_STEPS, f"Expected episodes to end, got {MOST_STEPS} steps without an end.")
            action = rng.integers(count)
            observation, reward, terminated, truncated, info = env.step(action)
            now = Moment(before.step + 1, int(action), observation, reward, terminated, truncated, info)
            _check_moment(env, now, before, keys, sums)
            total += now.reward
            before = now
            yield now
        if before.terminated:
            _check_score(env.unwrapped, before.info, total)


def _check_moment(
    env: gymnasium.Env[Any, Any], now: Moment, before: Moment | None, keys: set[str], sums: dict[str, float]
) -> None:
    at = f"step {now.step}" if now.step else "the reset"
    space = env.observation_space
    if not space.contains(now.observation):
        low, high = getattr(space, "low", -np.inf), getattr(space, "high", np.inf)
        outside = np.flatnonzero(~((now.observation >= low) & (now.observation <= high)))
        expect(False, f"Expected the observation of {at} within {space}; entries {outside.tolist()} are not.")
    for name, kind in (("reward", float), ("terminated", bool), ("truncated", bool)):
        value = getattr(now, name)
        expect(isinstance(value, kind), f"Expected {name} of {at} to be a {kind.__name__}, got {value!r}.")
    expect(math.isfinite(now.reward), f"Expected a finite reward at {at}, got {now.reward}.")
    missing = [name for name in ACCOUNT if name not in now.info]
    expect(not missing, f"Expected {', '.join(ACCOUNT)} in the info of {at}; it lacks {', '.join(missing)}.")
    expect(
        set(now.info) == keys,
        f"Expected the same info keys as at the reset, {sorted(keys)}; got {sorted(now.info)} at {at}.",
    )
    expect(not has_tensor(now.info), f"Expected no torch tensors in infos, got one at {at}: {now.info}.")
    _check_account(now.info, sums, at)
    _check_mask(env, now, before, at)


def _check_account(info: Info, sums: dict[str, float], at: str) -> None:
    for name in ACCOUNT:
        value = info[name]
        expect(
            isinstance(value, float) and math.isfinite(value),
            f"Expected {name} of {at} to be a finite float, got {value!r} ({type(value).__name__}).",
        )
    expect(info["cost"] >= 0, f"Expected a cost >= 0, got {info['cost']} at {at}.")
    for total, part in (("spent", "cost"), ("allowed", "allowance")):
        sums[total] += info[part]
        expect_same(sums[total], info[total], f"{total} as the sum of {part} up to {at}", 1e-6)


def _check_mask(env: gymnasium.Env[Any, Any], now: Moment, before: Moment | None, at: str) -> None:
    if "action_mask" not in now.info:
        return
    mask, count = now.info["action_mask"], _actions(env)
    expect(
        getattr(mask, "shape", None) == (count,) and mask.dtype == np.int8,
        f"Expected an action mask of shape ({count},) and int8 at {at}, got {mask!r}.",
    )
    expect(mask[0] == 1, f"Expected action 0 (SELF) always allowed, got the mask {mask} at {at}.")
    expect_same(mask.astype(bool), env.get_wrapper_attr("action_masks")(), f"action_masks() at {at}")
    if before is not None and now.action is not None and not before.info["action_mask"][now.action]:
        expect(
            now.info["calls"] == before.info["calls"],
            f"Expected no teacher call at {at}, where the mask forbade action {now.action}.",
        )


def _check_score(env: Any, info: Info, total: float) -> None:
    """The final text's quality, and the return where it is nothing else."""
    if not all(hasattr(env, name) for name in ("game", "task", "pair")):
        return
    game = env.game
    written = game.texts.tokens[0, : game.texts.length[0]].tolist()
    if written and written[-1] in env.pair.end_tokens:
        written.pop()
    text = env.pair.tokenizer.decode(written, skip_special_tokens=True)
    quality = env.task.quality(info["prompt"], text)
    expect_same(float(quality), info["quality"], f"quality of the final text {text!r}", 1e-9)
    if not game.spec.reward.scored:
        expect_same(game.spec.reward.quality * quality, total, f"the return for the final text {text!r}", 1e-9)


def _expect_same_moment(one: Moment, other: Moment, what: str, tolerance: float = 0.0) -> None:
    for name in ("observation", "reward", "terminated", "truncated", "info"):
        where = f"{what}: {name} after {one.step} steps"
        expect_same(getattr(one, name), getattr(other, name), where, tolerance)


# ---- batched against single --------------------------------------------------------------------------------


def check_vector_env(
    env: EnvMaker,
    vector: Callable[..., gymnasium.vector.VectorEnv] | None = None,
    *,
    num_envs: int = 3,
    steps: int = 80,
    seed: int = 0,
    tolerance: float = 1e-4,
    **settings: Any,
) -> None:
    """Play a vector environment beside `num_envs` single ones with the seeds seed .. seed + num_envs - 1.

    Checked, with SAME_STEP autoreset: observations, rewards, ends and every entry of the infos agree; where a
    row ends, `final_obs` and `final_info` are the single environment's last ones and the rest is that of its
    next reset.

    Args:
        env: a registered id, or what makes a single environment. settings: passed on to both.
        vector: what makes a vector environment from `num_envs=` and the settings; None for
            `gymnasium.make_vec`.
        num_envs, steps: how many rows and steps to play. seed: of the rows and of the actions.
        tolerance: of floats. In single precision, two tokens that are as good as equally likely can change
            places with the shape of the batch; make the environments with `dtype="float64"` for an exact
            comparison.

    Raises:
        AssertionError: what was expected and what came.
    """
    if vector is None:
        expect(isinstance(env, str), "Expected `vector=`, which makes the vector environment, beside a callable.")
        batch = gymnasium.make_vec(str(env), num_envs=num_envs, **settings)
    else:
        batch = vector(num_envs=num_envs, **settings)
    singles = [make_env(env, settings) for _ in range(num_envs)]
    mode = batch.metadata.get("autoreset_mode")
    expect(mode == AutoresetMode.SAME_STEP, f"Expected metadata['autoreset_mode'] SAME_STEP, got {mode!r}.")
    observations, infos = batch.reset(seed=seed)
    for row, single in enumerate(singles):
        observation, info = single.reset(seed=seed + row)
        _expect_row(observation, info, observations, infos, row, "the reset", tolerance)
    rng = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        actions = rng.integers(batch.single_action_space.n, size=num_envs)  # type: ignore[attr-defined]
        _check_vector_step(batch, singles, actions, f"step {step}", tolerance)
    batch.close()
    for single in singles:
        single.close()


def _check_vector_step(
    batch: gymnasium.vector.VectorEnv,
    singles: list[gymnasium.Env[Any, Any]],
    actions: NDArray[np.int64],
    at: str,
    tolerance: float,
) -> None:
    observations, rewards, terminated, truncated, infos = batch.step(actions)
    for row, single in enumerate(singles):
        where = f"{at}, row {row}"
        observation, reward, ends, cut, info = single.step(actions[row])
        expect_same(float(reward), float(rewards[row]), f"reward of {where}", tolerance)
        # Gymnasium's TimeLimit also truncates an episode that terminates in its last step.
        outcome = [bool(terminated[row]), bool(truncated[row] and not terminated[row])]
        expect_same([ends, cut and not ends], outcome, f"terminated and truncated of {where}")
        if ends or cut:
            lost = [key for key in ("final_obs", "final_info") if key not in infos or not infos["_" + key][row]]
            expect(not lost, f"Expected {' and '.join(lost)} of the episode that ends at {where}.")
            _expect_row(observation, info, infos["final_obs"], infos["final_info"], row, f"end at {at}", tolerance)
            observation, info = single.reset()
        _expect_row(observation, info, observations, infos, row, at, tolerance)


def _expect_row(
    observation: Any, info: Info, observations: Any, infos: Info, row: int, at: str, tolerance: float
) -> None:
    where = f"row {row} at {at}"
    expect_same(observation, observations[row], f"observation of {where}", tolerance)
    for name, value in info.items():
        has = name in infos and "_" + name in infos and bool(infos["_" + name][row])
        expect(has, f"Expected infos[{name!r}] and its mask for {where}.")
        if isinstance(value, float):
            kind = infos[name].dtype.kind
            expect(
                kind == "f",
                f"Expected floats in infos[{name!r}], as in the single environment; got {kind!r}.",
            )
        expect_same(value, infos[name][row], f"{name} of {where}", tolerance)
