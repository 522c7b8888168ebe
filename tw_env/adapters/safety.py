"""The six-tuple of Safety-Gymnasium: observation, reward, cost, terminated, truncated, info."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Env, Wrapper
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

Infos = dict[str, Any]


class SafetyEnv(Wrapper[Any, Any, Any, Any]):
    """A single environment whose `step` returns the cost in third place, as Safety-Gymnasium's do.

    Args:
        env: an environment with `cost` and `allowance` in its infos.
        net: return cost - allowance instead of the cost. An algorithm that keeps the episode's summed cost
            below one number then keeps every rule with the number 0; what a reset allows counts in the first
            step.
    """

    def __init__(self, env: Env[Any, Any], net: bool = False) -> None:
        super().__init__(env)
        self.net = net
        self._granted = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Infos]:
        """Start an episode.

        Raises:
            KeyError: the environment has no cost channel.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        _require(info)
        self._granted = float(info["allowance"])
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, float, bool, bool, Infos]:  # type: ignore[override]
        """Play one action: observation, reward, cost, terminated, truncated, info."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        cost = float(info["cost"])
        if self.net:
            cost -= float(info["allowance"]) + self._granted
            self._granted = 0.0
        return observation, float(reward), cost, terminated, truncated, info


class SafetyVectorEnv(VectorWrapper):
    """The batched version; a finished row's cost is the last one of its episode, not the 0 of the reset.

    Args:
        env: a `VectorEnv` with SAME_STEP autoreset and `cost` and `allowance` in its infos.
        net: as in `SafetyEnv`.

    Raises:
        ValueError: another autoreset mode.
    """

    def __init__(self, env: VectorEnv, net: bool = False) -> None:
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ValueError(f"Expected autoreset_mode SAME_STEP, which tells final costs; got {mode}.")
        self.net = net
        self._granted = np.zeros(env.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, Infos]:
        """Start all rows anew.

        Raises:
            KeyError: the environment has no cost channel.
        """
        observations, infos = self.env.reset(seed=seed, options=options)
        _require(infos)
        self._granted = np.array(infos["allowance"], np.float64)
        return observations, infos

    def step(  # type: ignore[override]
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Infos]:
        """Play one action a row: observations, rewards, costs, terminated, truncated, infos."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        done = terminated | truncated
        last = infos["final_info"] if done.any() else infos
        costs = np.where(done, last["cost"], infos["cost"]).astype(np.float64)
        if self.net:
            costs -= np.where(done, last["allowance"], infos["allowance"]) + self._granted
            self._granted = np.where(done, infos["allowance"], 0.0)
        return observations, rewards, costs, terminated, truncated, infos


def _require(info: Infos) -> None:
    missing = [name for name in ("cost", "allowance") if name not in info]
    if missing:
        raise KeyError(
            f"Expected cost and allowance in the info from the reset on; it lacks {', '.join(missing)} and "
            f"has {', '.join(info) or 'nothing'}. tw_env.testing.check_env names what a cost channel needs."
        )
