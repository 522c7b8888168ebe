"""Data that `scripts.prepare` makes on the user's own machine: where they live, and how they are found."""

from __future__ import annotations

import os
from pathlib import Path

from tw_env.tasks.pronounce import SPLITS

HOME = "TRAINING_WHEELS_DATA"
"""Environment variable: the folder of prepared data; without it, `~/.cache/training-wheels`."""
META = "meta.json"
"""Beside the parts: counts, releases, hashes and the score of trivial outputs."""
SUMMARIZE = "summarize"
"""Name of the summarisation data; translation data are named after their languages."""


def data_home() -> Path:
    """The folder of prepared data; it need not exist."""
    named = os.environ.get(HOME)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "training-wheels"


def debian_folder(name: str) -> Path:
    """Where `scripts.prepare debian` puts "en-it" (or whatever pair of languages) and "summarize"."""
    return data_home() / "debian" / name


def prepared_part(name: str, split: str) -> Path:
    """The JSONL file of a part.

    Raises:
        ValueError: no such part.
        FileNotFoundError: the data aren't there yet; the message says how to make them.
    """
    if split not in SPLITS:
        raise ValueError(f"Expected the split of {name} to be one of {', '.join(SPLITS)}, got {split!r}.")
    path = debian_folder(name) / f"{split}.jsonl"
    if not path.is_file():
        wanted = "--task summarize" if name == SUMMARIZE else f"--pair {name}"
        raise FileNotFoundError(
            f"Expected the data {name} in {path.parent}, where they are not yet. On a Debian or Ubuntu machine, make "
            f"them with `python -m scripts.prepare debian {wanted}`. Elsewhere, set {HOME} to a folder prepared on "
            "such a machine, or play data of your own: data='mine.jsonl', or a dataset's name."
        )
    return path
