"""What chooses actions in the game: the face that all policies share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from tw_env.actions import Action, parse_actions
from tw_env.observations import Layout

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Observations = NDArray[np.float32]

CONFIG = "policy.json"


class Policy:
    """Chooses actions from observations; `predict` has the signature of stable-baselines3.

    A policy knows the layout of the observations that it was made for and the action set that it plays.

    Args:
        layout: of the environment, `env.layout`.
        actions: the environment's action set, `env.game.spec.actions`.
    """

    kind = "policy"

    def __init__(self, layout: Layout, actions: tuple[Action, ...]) -> None:
        self.layout, self.actions = layout, actions
        self.generator = np.random.default_rng(0)

    def seed(self, seed: int) -> None:
        """Restart the random numbers of policies that use any."""
        self.generator = np.random.default_rng(seed)

    def choose(self, observations: Observations, deterministic: bool, masks: NDArray[np.bool_] | None) -> IntArray:
        """(rows,) indices into the action set for observations (rows, size)."""
        raise TypeError(f"{type(self).__name__} must define `choose`.")

    def predict(
        self,
        observation: Observations,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64] | np.int64, Any]:
        """Actions for observations (rows, size), or one action for an observation (size,).

        Args:
            state, episode_start: passed through; these policies read all they need from the observation.
            deterministic: take the likeliest action instead of a draw.
            action_masks: (rows, actions) true where an action can be afforded.

        Raises:
            ValueError: observations of another size than the layout's.
        """
        observations = np.atleast_2d(observation)
        if observations.shape[-1] != self.layout.size:
            raise ValueError(
                f"Expected observations of size {self.layout.size}, as this {self.kind} policy was made for, got "
                f"{observations.shape[-1]}. Make the environment with the same `hidden` and `top_k`."
            )
        masks = None if action_masks is None else np.atleast_2d(action_masks).astype(bool)
        actions = self.choose(observations, deterministic, masks)
        if masks is not None:
            allowed = masks[np.arange(len(actions)), actions]
            actions = np.where(allowed, actions, 0)  # SELF is always affordable
        return (actions[0] if np.ndim(observation) == 1 else actions), state

    # ---- files -------------------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """What, beside weights, makes the policy again: numbers and words only."""
        return {}

    def save(self, folder: str | Path) -> None:
        """Write `policy.json` (and weights as safetensors, where there are any) into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "kind": self.kind,
            "actions": "/".join(getattr(action, "name", str(action)) for action in self.actions),
            "layout": self.layout.record(),
            **self.config(),
        }
        (folder / CONFIG).write_text(json.dumps(record, indent=2) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read a policy of this kind that `save` wrote.

        Raises:
            FileNotFoundError: no policy in the folder.
            ValueError: a policy of another kind.
        """
        path = Path(folder) / CONFIG
        if not path.is_file():
            raise FileNotFoundError(f"Expected {CONFIG} in {Path(folder).absolute()}, as `save` writes it; found none.")
        record = json.loads(path.read_text())
        if record.get("kind") != cls.kind:
            raise ValueError(
                f"Expected a policy of kind {cls.kind!r} in {folder}, got {record.get('kind')!r}. Read it with the "
                "class that wrote it, or with tw_env.policies.load."
            )
        return cast(Self, cls.restore(record, Path(folder)))

    @classmethod
    def restore(cls, record: dict[str, Any], folder: Path) -> Policy:
        """Make the policy that `save` wrote."""
        return cls(*frame(record))


def frame(record: dict[str, Any]) -> tuple[Layout, tuple[Action, ...]]:
    """The layout and the action set of a saved policy."""
    names = record["actions"]
    if names.replace("/", "").isdigit():  # of another environment than the game
        return Layout.restore(record["layout"]), tuple(map(int, names.split("/")))  # type: ignore[arg-type]
    return Layout.restore(record["layout"]), parse_actions(names)
