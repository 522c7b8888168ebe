"""From benchmark rows to a page and pictures.

python -m scripts.report --rows results/pronounce.json --out results/page
python -m scripts.report --rows results/pronounce.json --out results/page --runs runs
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib.figure import Figure

from scripts import pictures
from scripts.page import Page
from scripts.rows import Row

LOG = "log.jsonl"
NEEDED = (
    "task", "actions", "accept", "agent", "kind", "seed", "rule", "quantity", "limit", "quality", "recovered_gap",
    "recovered_gap_low", "recovered_gap_high", "calls_per_token",
)  # fmt: skip


@dataclass
class Options:
    """Write page.html and the pictures of a benchmark."""

    rows: Path
    """What `scripts.benchmark` or `scripts.demo` wrote."""
    out: Path
    """Folder of the page and the pictures; what it holds under their names is replaced."""
    runs: Path | None = None
    """Folder with training runs, searched for log.jsonl, for learning curves."""
    title: str = "When should a small model ask a big one?"
    """Headline of the page."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a benchmark file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it isn't JSON, or not a list of rows with the fields that a report needs.
    """
    try:
        rows = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"Expected rows as JSON in {path}, got something else: {error}.") from None
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"Expected a list of at least one row in {path}; scripts.benchmark writes such files.")
    for number, row in enumerate(rows):
        missing = [name for name in NEEDED if not isinstance(row, dict) or name not in row]
        if missing:
            raise ValueError(f"Expected the fields of scripts.benchmark in row {number} of {path}; missing: {missing}.")
    return rows


def read_runs(folder: Path | None) -> dict[str, pictures.Curves]:
    """Learning curves by the name of the run.

    Raises:
        FileNotFoundError: a folder without any log.
    """
    if folder is None:
        return {}
    logs = sorted(folder.rglob(LOG))
    if not logs:
        raise FileNotFoundError(f"Expected runs with {LOG} below {folder}, as scripts.train writes them; found none.")
    return {str(log.parent.relative_to(folder)): pictures.read_curves(log) for log in logs}


def introduction(rows: Sequence[Row]) -> list[str]:
    """What was measured, in a sentence."""
    tasks = ", ".join(dict.fromkeys(str(row["task"]) for row in rows))
    seeds, prompts = len({row["seed"] for row in rows}), max(int(row.get("prompts") or 0) for row in rows)
    counted = f" on {prompts:,} held-out prompts" if prompts else ""
    return [
        "A small student model writes; a big teacher is better, but its calls cost. At every token a policy decides "
        "who writes, and may have the teacher check what was written.",
        f"Task: {tasks}{counted}, {seeds} seed{'' if seeds == 1 else 's'}; means over seeds are shown.",
    ]


def main(options: Options) -> None:
    """Draw and write everything."""
    rows, curves = read_rows(options.rows), read_runs(options.runs)
    options.out.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Figure] = {"frontier": pictures.frontier(rows), "spend": pictures.spend(rows)}
    for name, run in curves.items():
        drawn[f"learning-{name.replace('/', '-')}" if name != "." else "learning"] = pictures.learning(run)
    for name, figure in drawn.items():
        (options.out / f"{name}.png").write_bytes(pictures.png(figure))
    command = f"python -m scripts.report --rows {options.rows} --out {options.out}"
    page = Page(rows, title=options.title, introduction=introduction(rows), curves=curves, made_by=command)
    (options.out / "page.html").write_text(page.html(), encoding="utf-8")
    print(f"written to {options.out}: page.html, {', '.join(f'{name}.png' for name in drawn)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
