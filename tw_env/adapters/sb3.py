"""A Gymnasium `VectorEnv` as a stable-baselines3 `VecEnv`; the only module that imports that library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium import Wrapper
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

Info = dict[str, Any]


class SB3VecEnv(VecEnv):
    """Any batched environment of this package, or one like it, for the algorithms of stable-baselines3.

    >>> import gymnasium, tw_env
    >>> from stable_baselines3 import PPO
    >>> from stable_baselines3.common.vec_env import VecMonitor
    >>> from tw_env.adapters.sb3 import SB3VecEnv
    >>> envs = SB3VecEnv(gymnasium.make_vec("tw_env/Pronounce-v0", num_envs=16))  # doctest: +SKIP
    >>> PPO("MlpPolicy", VecMonitor(envs, info_keywords=("spent", "allowed")), gamma=1.0)  # doctest: +SKIP

    Infos are one dict a row, of Python numbers and small arrays. Where an episode ends, the row's dict is
    that of the finished episode (its last `cost`, its `spent`), with `terminal_observation` and
    `TimeLimit.truncated`; what the reset of the next episode told stands in `reset_infos`. sb3-contrib's
    MaskablePPO finds `action_masks`.

    Args:
        env: a `VectorEnv` with SAME_STEP autoreset and Discrete actions, wrapped or not.

    Raises:
        TypeError: something else than a `VectorEnv`.
        ValueError: another autoreset mode, or actions that are not Discrete.
    """

    def __init__(self, env: VectorEnv) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(
                f"Expected a gymnasium VectorEnv, got {type(env).__name__}. Make one with "
                "gymnasium.make_vec; stable-baselines3 wraps a single environment itself."
            )
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                f"Expected autoreset_mode SAME_STEP, got {mode}: in other modes a finished row needs a step "
                "of its own. Give make_vec vector_kwargs={'autoreset_mode': AutoresetMode.SAME_STEP}."
            )
        if not isinstance(env.single_action_space, Discrete):
            raise ValueError(f"Expected Discrete actions, got {env.single_action_space}.")
        self.env = env
        self._actions = np.zeros(env.num_envs, np.int64)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    # ---- the game ------------------------------------------------------------------------------------------

    def reset(self) -> NDArray[Any]:
        """Start all rows anew, with the seeds of `seed()` and the options of `set_options()`, which count
        once.

        Raises:
            ValueError: options that differ between rows.
        """
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError("Expected the same options for all rows, got different ones: pass set_options one dict.")
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        # Gymnasium annotates `seed` of the base class without the list of seeds that its vector envs take.
        observations, infos = self.env.reset(seed=seeds, options=options or None)  # type: ignore[arg-type]
        self.reset_infos = split_infos(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Remember one action (rows,) for each row."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Play the remembered actions: observations (rows, size), rewards (rows,), dones (rows,), infos."""
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        dones = terminated | truncated
        rows = split_infos({key: value for key, value in infos.items() if "final_" not in key}, self.num_envs)
        if dones.any():
            finals = split_infos(infos["final_info"], self.num_envs)
            for row in np.flatnonzero(dones).tolist():
                self.reset_infos[row] = rows[row]
                rows[row] = finals[row] | {"terminal_observation": np.array(infos["final_obs"][row])}
        for info, out_of_time in zip(rows, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = out_of_time
        return observations, rewards.astype(np.float32), dones, rows

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def render(self, mode: str | None = None) -> Any:
        """What the `VectorEnv` draws; `mode` must be None or the one that it was made with."""
        if mode not in (None, self.render_mode):
            raise ValueError(f"Expected render mode {self.render_mode!r}, as in the env, got {mode!r}.")
        return self.env.render()

    # ---- attributes and methods by row ---------------------------------------------------------------------

    def _find(self, name: str) -> Any:
        """An attribute of the outermost environment in the chain of wrappers that has it."""
        env: Any = self.env
        while not hasattr(env, name):
            if env is env.unwrapped:
                raise AttributeError(f"Expected an attribute of {type(env).__name__}, which has no {name!r}.")
            env = env.env
        return getattr(env, name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute for each row: of its own environment, where rows have one, else that of the
        `VectorEnv`.

        A method of the `VectorEnv` that returns one value a row becomes one callable a row.

        Raises:
            AttributeError: there is none of this name.
        """
        rows = list(self._get_indices(indices))
        if hasattr(self.env.unwrapped, "call"):
            values = self.env.unwrapped.call(attr_name)
            return [values[row] for row in rows]
        value = self._find(attr_name)
        if callable(value):
            return [partial(self._of_row, attr_name, row) for row in rows]
        return [value] * len(rows)

    def _of_row(self, method_name: str, row: int, *arguments: Any, **named: Any) -> Any:
        return self.env_method(method_name, *arguments, indices=row, **named)[0]

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """What a method that returns one value a row, such as `action_masks`, returns for these rows.

        Raises:
            AttributeError: there is none of this name.
            ValueError: it returns something else than one value a row.
        """
        if hasattr(self.env.unwrapped, "call"):
            values = self.env.unwrapped.call(method_name, *method_args, **method_kwargs)
        else:
            values = self._find(method_name)(*method_args, **method_kwargs)
        if not isinstance(values, list | tuple | np.ndarray) or len(values) != self.num_envs:
            raise ValueError(
                f"Expected {method_name} to return one value for each of {self.num_envs} rows, got "
                f"{values!r}; call it on `.env` instead."
            )
        return [values[row] for row in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refused: rows share one game, whose settings are fixed when it is made.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(
            f"Expected settings to be made with the environment, got set_attr({attr_name!r}): its rows share "
            "one game. Make another environment with the settings that you want."
        )

    def env_is_wrapped(
        self, wrapper_class: type[Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether single-environment wrappers of this class are around the rows: never."""
        return [False for _ in self._get_indices(indices)]


def split_infos(infos: Mapping[str, Any], rows: int) -> list[Info]:
    """One dict a row out of Gymnasium's batched infos, without the masks that say which rows have a key.

    Numbers become Python's own; arrays with more axes are cut along the first one.
    """
    split: list[Info] = [{} for _ in range(rows)]
    for name, batch in infos.items():
        if name.startswith("_") and name[1:] in infos:
            continue
        present = infos.get("_" + name, np.ones(rows, bool))
        for info, value, has in zip(split, _by_row(batch, rows), present, strict=True):
            if has:
                info[name] = value
    return split


def _by_row(batch: Any, rows: int) -> Sequence[Any]:
    if isinstance(batch, Mapping):
        return split_infos(batch, rows)
    if isinstance(batch, np.ndarray):
        return batch.tolist() if batch.ndim == 1 else [np.array(one) for one in batch]
    return list(batch)
