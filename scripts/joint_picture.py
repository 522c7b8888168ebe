"""Pictures of joint training: what it recovers beside its rivals, and the curves of its runs.

python -m scripts.joint_picture --rows results/pronounce-joint.json --out results/pronounce-joint.png
python -m scripts.joint_picture --runs runs/joint-verify runs/joint-verify-1 --out results/curves-joint.png
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from agents.joint.deployment import TRAINED
from scripts.command import run
from scripts.joint_curves import curves_picture, read_scalars
from scripts.pictures import REACH, percents, png, styles_of, theme
from scripts.rows import GAMES, Line, Row, lines_of, name_of, read_rows, short

WORDED = ("joint", "joint+verify")
DOUBTING = ("joint-doubt", "joint-doubt+verify")  # those that ask beside their doubt (scripts.joint --doubt)
JOINT = (*WORDED, *DOUBTING)
FROZEN = ("pcl", "p-max")
FROZEN_GAMES = {"SELF/ASK": "SELF/ASK", "SELF/VERIFY": "SELF/ASK/VERIFY"}  # where the frozen pair's rows are
MARKS = {"held-out phrasing": "o", "held-out limit": "^"}
OURS, OTHERS = "#332288", "#8C8C8C"
HOLLOW: dict[str, Any] = {"linestyle": "none", "color": OURS, "markerfacecolor": "white", "markersize": 7}
LOWEST = -0.3  # recovered share below which a point is drawn at the bottom, with an arrow and its number
COLOURS = {
    "entropy": "#CC79A7",
    "words": "#8877CC",
}  # beside the fixed ones of scripts.pictures, which this picture needs, too
STROKES: dict[str, dict[str, Any]] = {"frozen": {"linestyle": ":", "linewidth": 1.8}, "distilled": {"linestyle": "-"}}


@dataclass
class Options:
    """Draw rows of joint students and their rivals, or the curves of runs."""

    rows: Path = Path("results/pronounce-joint.json")
    """What scripts.joint and scripts.joint_rivals added rows to."""
    frozen: Path | None = None
    """Rows of scripts.benchmark on the same task, for gates beside the frozen pair; None: TASK.json beside --rows, if
    it is there."""
    runs: tuple[Path, ...] = ()
    """Folders of runs of scripts.joint that differ in their seeds; with any, their curves are drawn instead of rows."""
    out: Path | None = None
    """The PNG file; None: beside --rows under its name, or results/curves-joint.png."""


def joint_rows(path: Path) -> list[Row]:
    """Rows of joint students and of their rivals.

    Raises:
        FileNotFoundError, ValueError: see `read_rows`; or rows that don't say how a rule was told.
    """
    rows = read_rows(path)
    if not all("told" in row for row in rows):
        raise ValueError(f"Expected rows of scripts.joint alone in {path}, with `told`; there are others.")
    return rows


def frozen_rows(options: Options, rows: Sequence[Row]) -> list[Row]:
    """Rows of the gates beside the frozen pair; none where there is no file."""
    path = options.frozen or options.rows.with_name(f"{rows[0]['task']}.json")
    if options.frozen is None and not path.is_file():
        return []
    return [row for row in read_rows(path) if row["agent"] in FROZEN]


def student_of(agent: str) -> tuple[str, str]:
    """Whose texts an agent of joint rows plays with, and what decides: ("distilled", "p-max")."""
    student, _, decides = agent.rpartition(" ")
    return (student or "joint", decides)


def frontier(rows: Sequence[Row], frozen: Sequence[Row] = ()) -> Figure:
    """Recovered share of the *original* pair's gap against calls per token, a panel for each game.

    Lines are means over seeds of rules told as in training, each seed faint behind; marks are rules told otherwise.
    """
    with theme(dark=False):
        figure = Figure(figsize=(13, 7))
        games = [game for game in FROZEN_GAMES if any(row["actions"] == game for row in rows)]
        axes = figure.subplots(1, max(len(games), 1), sharey=True, squeeze=False)[0]
        handles: dict[str, Line2D] = {}
        for ax, game in zip(axes, games, strict=False):
            mine = [row for row in rows if row["actions"] == game and row["recovered_gap"] is not None]
            told = [row for row in mine if row["told"] == TRAINED]
            others = [
                row | {"agent": f"frozen {row['agent']}"} for row in frozen if row["actions"] == FROZEN_GAMES[game]
            ]
            lines = [*lines_of(others, FROZEN_GAMES[game]), *lines_of(told, game)]
            styles = _styles(lines, _ours(told))
            for line in sorted(lines, key=lambda line: (line.agent in JOINT, line.agent in _ours(told))):  # on top
                seeds = [row for row in told if row["agent"] == line.agent]
                _line(ax, line, seeds, game, styles[line.agent], named=line.agent in _ours(told))
                handles.setdefault(_name(line.agent), Line2D([], [], **styles[line.agent]))
            ours = _ours(told)
            for name, marker in MARKS.items():
                _marks(ax, [row for row in mine if row["told"] == name and row["agent"] in ours], name, marker)
                handles.setdefault(f"  told {name.replace('held', 'a held')}", Line2D([], [], marker=marker, **HOLLOW))
            _dress(ax, game)
            spent = [value for line in lines for value in line.calls if value <= REACH]
            ax.set_xlim(-0.01, 1.08 * max(spent, default=0.3))
        axes[0].set(ylim=(LOWEST - 0.06, 1.09), ylabel="recovered share of the original pair's gap")
        percents(axes[0].yaxis)
        order = sorted(handles, key=lambda name: not name.startswith((*map(_name, JOINT), "  ")))
        figure.legend([handles[name] for name in order], order, loc="outside lower left", ncols=3, fontsize=9.5)
    return figure


def _name(agent: str) -> str:
    student, decides = student_of(agent)
    if agent in JOINT:
        return name_of(agent)
    return f"{name_of(student) if student in JOINT else f'{student} student'}: {name_of(decides)}"


def _ours(rows: Sequence[Row]) -> tuple[str, ...]:
    """Agents whose points are named: joint students that ask beside their doubt, where there are any."""
    return DOUBTING if any(row["agent"] in DOUBTING for row in rows) else WORDED


def _styles(lines: Sequence[Line], ours: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What decides has its colour of other pictures, the student its stroke; joint ones have their own."""
    deciding = [replace(line, agent=student_of(line.agent)[1]) for line in lines if line.agent not in JOINT]
    looks = styles_of(sorted(deciding, key=lambda line: line.agent), dark=False)
    styles = {}
    for line in lines:
        student, decides = student_of(line.agent)
        stroke = STROKES.get(student, {"linestyle": "-."})
        styles[line.agent] = (
            {"color": OURS if line.agent in ours else OTHERS, "marker": "D", "markersize": 6, "linewidth": 2.8}
            | {"zorder": 5 if line.agent in ours else 4}
            if line.agent in JOINT
            else looks[decides]
            | ({"color": COLOURS[decides]} if decides in COLOURS else {})
            | {"linewidth": 1.6, "markersize": 4.5, "zorder": 3}
            | stroke
        )
    return styles


def _line(ax: Axes, line: Line, rows: Sequence[Row], game: str, style: dict[str, Any], named: bool) -> None:
    """A mean, and its seeds behind it; where they are to be named, points are, by their limits."""
    ax.plot(line.calls, line.gap, **style)
    seeds = {row["seed"] for row in rows}
    for seed in seeds if len(seeds) > 1 else ():
        (one,) = lines_of([row for row in rows if row["seed"] == seed], game)
        ax.plot(one.calls, one.gap, **style | {"alpha": 0.3, "linewidth": 0.9, "markersize": 2.5, "zorder": 2})
    if named:
        for calls, gap, limit in zip(line.calls, line.gap, line.limit, strict=True):
            words = "no limit" if math.isnan(limit) else "never" if limit == 0 else short("calls_per_token", limit)
            place, ha = ((8, -4), "left") if limit == 0 else ((-6, 6), "right")
            _label(ax, words, calls, gap, place, ha)


def _label(ax: Axes, words: str, calls: float, gap: float, place: tuple[int, int], ha: str) -> None:
    """Beside a point, readable on lines, too; none where the point lies outside the panel."""
    halo = [withStroke(linewidth=2.5, foreground="white")]
    ax.annotate(words, (calls, gap), place, textcoords="offset points", fontsize=8.5, color=OURS, ha=ha, zorder=7,
                annotation_clip=True, path_effects=halo)  # fmt: skip


def _marks(ax: Axes, rows: Sequence[Row], told: str, marker: str) -> None:
    """Means over seeds as hollow marks, each seed faint; what lies far below stands at the bottom with its number."""
    if not rows:
        return
    for row in rows:
        ax.plot(row["calls_per_token"], row["recovered_gap"], marker=marker, color=OURS, alpha=0.3, markersize=3)
    for line in lines_of(rows, str(rows[0]["actions"])):
        for calls, gap, limit in zip(line.calls, line.gap, line.limit, strict=True):
            ax.plot(calls, max(gap, LOWEST), marker=marker, zorder=8, **HOLLOW)
            words = short("calls_per_token", limit) if told == "held-out limit" else ""
            if gap < LOWEST:
                words = f"{words} \N{DOWNWARDS ARROW} {gap:.0%}"
            _label(ax, words, calls, max(gap, LOWEST), (6, -9), "left")


def _dress(ax: Axes, game: str) -> None:
    ink = "#1c1c1c"
    ax.set(title=GAMES.get(game, game), xlabel="teacher calls per written token  (cheaper \N{LEFTWARDS ARROW})")
    percents(ax.xaxis)
    for level, words, side in ((1, "teacher alone", 0), (0, "student of the original pair, alone", 1)):  # free sides
        ax.axhline(level, color=ink, linewidth=1, linestyle=(0, (1, 3)))
        ax.annotate(words, (side, level), (2 - 4 * side, 3), xycoords=("axes fraction", "data"), fontsize=8.5,
                    textcoords="offset points", color=ink, ha=("left", "right")[side])  # fmt: skip


def main(options: Options) -> None:
    """Draw and write one picture."""
    if options.runs:
        out, dpi = options.out or Path("results/curves-joint.png"), 90  # many small panels
        figure = curves_picture([read_scalars(folder) for folder in options.runs])
    else:
        rows = joint_rows(options.rows)
        out, dpi = options.out or options.rows.with_suffix(".png"), 150
        figure = frontier(rows, frozen_rows(options, rows))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(png(figure, dpi))
    print(f"written to {out}")


if __name__ == "__main__":
    run(main, Options, __doc__)
