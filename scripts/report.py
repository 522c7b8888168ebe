"""From benchmark rows to a page and pictures.

python -m scripts.report --rows results/pronounce.json --out results/page
python -m scripts.report --rows results/pronounce.json --out results/page --runs runs
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from matplotlib.figure import Figure

from agents.evaluation import play, play_ends
from scripts import evaluate, pictures
from scripts.examples import Example, Group, choose_groups, collect, columns_of, one_row
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
    policy: str | None = None
    """Folder of a saved policy, or name of a shipped one, to show texts token by token."""
    task: Literal["pronounce", "text"] = "pronounce"
    """Task of those texts."""
    data: str | None = None
    """For the text task: JSONL with `prompt` and `reference`, or a `datasets` name."""
    metric: str = "exact"
    """For the text task: chrf, bleu, rougeL, exact or edit."""
    student: str | None = None
    """Folder or hub id of the student; None takes the pair that ships."""
    teacher: str | None = None
    """Folder or hub id of the teacher."""
    rules: tuple[str, ...] = tuple(f"ask the teacher for at most {limit}% of the tokens" for limit in (5, 10, 20))
    """Rules of those texts, from tight to loose."""
    prompts: int = 1000
    """Held-out prompts among which those texts are looked for."""
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


def token_by_token(options: Options) -> list[tuple[Group, list[Example]]]:
    """Texts of the policy beside those of student and teacher; none without a policy."""
    if options.policy is None:
        return []
    policy = evaluate.read_policy(options.policy)
    asked = evaluate.Options(
        (options.policy,), task=options.task, data=options.data, metric=options.metric, student=options.student,
        teacher=options.teacher, prompts=options.prompts, rows=128,
    )  # fmt: skip
    env = evaluate.environment(asked, policy)
    prompts = np.arange(len(env.task.prompts))
    ends = play_ends(env.env, prompts)
    qualities = [play(env, policy, prompts, rule).outcomes.quality for rule in options.rules]
    game = one_row(env.env)
    groups = choose_groups(ends.student, ends.teacher, qualities, count=5)
    return collect(game, columns_of(game, policy, options.rules), groups)


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
    page = Page(
        rows,
        title=options.title,
        introduction=introduction(rows),
        examples=token_by_token(options),
        curves=curves,
        made_by=command,
    )
    (options.out / "page.html").write_text(page.html(), encoding="utf-8")
    print(f"written to {options.out}: page.html, {', '.join(f'{name}.png' for name in drawn)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
