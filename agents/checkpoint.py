"""Checkpoints of training runs: one file, replaced atomically, readable without pickled code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

FILE = "checkpoint.pt"


def save_checkpoint(folder: Path, iteration: int, state: dict[str, Any]) -> None:
    """Write the state before round `iteration`. A kill at any moment leaves the old file or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / (FILE + ".tmp")
    torch.save({"iteration": iteration, "state": _pack(state)}, temporary)
    temporary.replace(folder / FILE)


def drop_checkpoint(folder: Path) -> int:
    """Remove an older run's checkpoint, lest a later `resume` goes on from it. Returns 0, the round to begin with."""
    (folder / FILE).unlink(missing_ok=True)
    return 0


def load_checkpoint(
    folder: Path,
    current: Callable[[], dict[str, Any]],
    restore: Callable[[dict[str, Any]], None],
    device: torch.device | None = None,
) -> int:
    """Restore the folder's checkpoint and return its round; 0 where there is none.

    Args:
        device: where its tensors are put; None leaves them where they were.

    Raises:
        ValueError: the run there had another configuration.
    """
    path = folder / FILE
    if not path.is_file():
        return 0
    saved = torch.load(path, weights_only=True, map_location=device)
    state = _unpack(saved["state"])
    mine = _unpack(_pack(current()))["config"]
    if state["config"] != mine:
        changed = sorted(k for k in mine if state["config"].get(k) != mine[k])
        raise ValueError(
            f"Expected the configuration of the run in {folder}; {', '.join(changed)} differ. "
            "Give the same settings to resume, or another folder to start anew."
        )
    restore(state)
    return int(saved["iteration"])


def _pack(value: Any) -> Any:
    """numpy arrays as tensors and tuples as lists, so that the file holds plain data only."""
    if isinstance(value, np.ndarray):
        return {"__array__": torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, dict):
        return {key: _pack(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item) for item in value]
    return value


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            return value["__array__"].cpu().numpy()  # wherever the other tensors went
        return {key: _unpack(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    return value
