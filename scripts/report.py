"""From benchmark rows to a page and pictures.

python -m scripts.report --rows results/pronounce.json --out results/page
python -m scripts.report --rows results/pronounce.json --out results/page --runs runs
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure

from agents.evaluation import play, play_ends
from scripts import evaluate, learning_curves, pictures
from scripts.command import run
from scripts.examples import Example, Group, choose_groups, collect, columns_of, one_row
from scripts.outcomes import recall_commands
from scripts.page import Page
from scripts.rows import Row, read_rows
from scripts.summary import Game, pooled, summarise
from scripts.workers import LOG


@dataclass
class Options:
    """Write page.html and the pictures of a benchmark."""

    rows: Path
    """What `scripts.benchmark` or `scripts.demo` wrote."""
    out: Path
    """Folder of the page and the pictures; what it holds under their names is replaced."""
    outcomes: Path | None = None
    """Folder of what came of every prompt, as scripts.benchmark keeps it, for paired tests; None: beside --rows."""
    runs: Path | None = None
    """Folder with training runs, searched for log.jsonl, for learning curves; None: the sweep's runs of seed 0."""
    policy: str | None = None
    """Folder of a saved policy, or name of a shipped one, to show texts token by token."""
    task: Literal["pronounce", "translate", "summarize", "text"] = "pronounce"
    """Task of those texts."""
    data: str | None = None
    """JSONL with `prompt` and `reference`, or a `datasets` name; for translate also two languages: en-it."""
    metric: str | None = None
    """chrf, bleu, rouge1, rouge2, rougeL, exact or edit; None takes the task's."""
    template: str | None = None
    """What models read, with {text} where the text goes; None leaves the wording to the task."""
    chat: bool = False
    """Write each prompt as a user's turn in the tokenizer's chat template."""
    student: str | None = None
    """Folder or hub id of the student; None takes the pair that ships."""
    teacher: str | None = None
    """Folder or hub id of the teacher."""
    agents: tuple[str, ...] = ()
    """Only the rows of these agents; all without any."""
    rules: tuple[str, ...] = tuple(f"ask the teacher for at most {limit}% of the tokens" for limit in (5, 10, 20))
    """Rules of those texts, from tight to loose."""
    prompts: int = 1000
    """Held-out prompts among which those texts are looked for."""
    title: str = "When should a small model ask a big one?"
    """Headline of the page."""


def read_runs(folder: Path | None, outcomes: Path) -> dict[str, learning_curves.Curves]:
    """Learning curves by the name of the run; without a folder, those of seed 0 that a sweep kept, if any.

    Raises:
        FileNotFoundError: a folder without any log.
    """
    if folder is None:
        return {log.parent.name: learning_curves.read_curves(log) for log in sorted(outcomes.glob(f"*-0/{LOG}"))}
    logs = sorted(folder.rglob(LOG))
    if not logs:
        raise FileNotFoundError(f"Expected runs with {LOG} below {folder}, as scripts.train writes them; found none.")
    return {str(log.parent.relative_to(folder)): learning_curves.read_curves(log) for log in logs}


def token_by_token(options: Options) -> list[tuple[Group, list[Example]]]:
    """Texts of the policy beside those of student and teacher; none without a policy."""
    if options.policy is None:
        return []
    policy = evaluate.read_policy(options.policy)
    asked = evaluate.Options(
        (options.policy,), task=options.task, data=options.data, metric=options.metric, template=options.template,
        chat=options.chat, student=options.student, teacher=options.teacher, prompts=options.prompts, rows=128,
    )  # fmt: skip
    env = evaluate.environment(asked, policy)
    prompts = np.arange(len(env.task.prompts))
    ends = play_ends(env.env, prompts)
    qualities = [play(env, policy, prompts, rule).outcomes.quality for rule in options.rules]
    game = one_row(env.env)
    groups = choose_groups(ends.student, ends.teacher, qualities, count=5)
    return collect(game, columns_of(game, policy, options.rules), groups)


def rows_of(options: Options) -> list[Row]:
    """The rows of the wanted agents.

    Raises:
        FileNotFoundError, ValueError: see `read_rows`; or an agent without rows.
    """
    rows = read_rows(options.rows)
    found = dict.fromkeys(str(row["agent"]) for row in rows)
    missing = [agent for agent in options.agents if agent not in found]
    if missing:
        raise ValueError(f"Expected --agents out of {', '.join(found)}; got {', '.join(missing)}.")
    return [row for row in rows if row["agent"] in options.agents] if options.agents else rows


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


def draw(rows: Sequence[Row], curves: dict[str, learning_curves.Curves]) -> dict[str, Figure]:
    """The pictures by their names."""
    drawn: dict[str, Figure] = {"frontier": pictures.frontier(rows), "spend": pictures.spend(rows)}
    if all("within_rule" in row for row in rows):
        drawn["within"] = pictures.within(rows)
    for name, of_run in curves.items():
        drawn[f"learning-{name.replace('/', '-')}" if name != "." else "learning"] = learning_curves.learning(of_run)
    return drawn


def summary_text(games: Sequence[Game]) -> str:
    """Standings and paired tests as JSON."""
    return json.dumps([game.record() for game in games], indent=1) + "\n"


def made_by(options: Options, outcomes: Path) -> str:
    """The commands that make rows and page, a line each; those of the rows where `scripts.benchmark` kept them."""
    words: list[str] = []
    for one in fields(options):
        value = getattr(options, one.name)
        if value != one.default:
            words += [f"--{one.name}", *map(str, value if isinstance(value, tuple) else [value])]
    return "\n".join([*recall_commands(outcomes), shlex.join(["python", "-m", "scripts.report", *words])])


def main(options: Options) -> None:
    """Draw and write everything."""
    outcomes = options.outcomes or options.rows.with_suffix(".outcomes")
    rows, curves = rows_of(options), read_runs(options.runs, outcomes)
    merged = pooled(rows, outcomes)
    games = summarise(rows, merged, outcomes)
    options.out.mkdir(parents=True, exist_ok=True)
    drawn = draw(merged, curves)
    for name, figure in drawn.items():
        (options.out / f"{name}.png").write_bytes(pictures.png(figure))
    (options.out / "summary.json").write_text(summary_text(games))
    page = Page(
        merged,
        games,
        title=options.title,
        introduction=introduction(rows),
        examples=token_by_token(options),
        curves=curves,
        made_by=made_by(options, outcomes),
        raw=rows,
    )
    (options.out / "page.html").write_text(page.html(), encoding="utf-8")
    print(f"written to {options.out}: page.html, summary.json, {', '.join(f'{name}.png' for name in drawn)}")


if __name__ == "__main__":
    run(main, Options, __doc__)
