"""What came of every prompt, kept beside the rows: a small compressed file for each row, for paired tests.

Beside them stand the commands that made the rows.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from agents.evaluation import Ends
from agents.rollout import Outcomes
from scripts.rows import Row

ENDS, COMMANDS = "ends.npz", "commands.txt"


@dataclass(frozen=True)
class Kept:
    """Of every prompt, (prompts,) each."""

    quality: NDArray[np.float64]
    calls: NDArray[np.int64]
    tokens: NDArray[np.int64]


def file_of(folder: Path, row: Row) -> Path:
    """Where the outcomes of a row are kept."""
    names = [str(row[name]) for name in ("agent", "actions", "accept", "seed")]
    words = [re.sub(r"[^A-Za-z0-9._]+", "-", name) for name in names]
    return folder / f"{'.'.join(words)}.{zlib.crc32(str(row['rule']).encode()):08x}.npz"


def keep(folder: Path, row: Row, outcomes: Outcomes) -> None:
    """Write the outcomes of a row."""
    arrays = {name: getattr(outcomes, name).astype(np.uint16) for name in ("calls", "tokens")}
    _write(file_of(folder, row), quality=_small(outcomes.quality), **arrays)


def recall(folder: Path, row: Row) -> Kept | None:
    """The outcomes of a row; None where there are none, or none of as many prompts.

    Raises:
        ValueError: a file that can't be read.
    """
    found = _read(file_of(folder, row))
    if found is None or len(found["quality"]) != row.get("prompts"):
        return None
    return Kept(found["quality"].astype(float), found["calls"].astype(np.int64), found["tokens"].astype(np.int64))


def keep_ends(folder: Path, ends: Ends) -> None:
    """Write the qualities of student and teacher alone."""
    _write(folder / ENDS, student=_small(ends.student), teacher=_small(ends.teacher))


def recall_ends(folder: Path) -> Ends | None:
    """The qualities of student and teacher alone; None where there are none.

    Raises:
        ValueError: a file that can't be read.
    """
    found = _read(folder / ENDS)
    return None if found is None else Ends(found["student"].astype(float), found["teacher"].astype(float))


def keep_command(folder: Path, command: str) -> None:
    """Write down a command that made rows, once."""
    known = recall_commands(folder)
    if command not in known:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / COMMANDS).write_text("".join(f"{line}\n" for line in [*known, command]))


def recall_commands(folder: Path) -> list[str]:
    """The commands that made the rows, in the order in which they were first given; none where none were kept."""
    path = folder / COMMANDS
    return path.read_text().splitlines() if path.is_file() else []


def _small(quality: NDArray[np.float64]) -> NDArray[Any]:
    return quality.astype(np.uint8 if np.isin(quality, (0.0, 1.0)).all() else np.float32)


def _write(path: Path, **arrays: Any) -> None:
    """Replace a file; a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    temporary.replace(path)


def _read(path: Path) -> dict[str, NDArray[Any]] | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return dict(found)
    except (BadZipFile, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"Expected the outcomes that scripts.benchmark keeps in {path}, got a file that can't be read ({error}). "
            "Delete it; the report then leaves its row out of paired tests."
        ) from None
