"""The picture of scripts.latency: recovered share of the gap against milliseconds per output by the clock."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scripts.pictures import png, styles_of, theme
from scripts.rows import FloatArray, Line, Row, name_of

GROUPS = ("speculative", "assisted", "lossy", "oracle")  # families of fixed policies: one colour each, a point each
STYLES: dict[str, dict[str, Any]] = {
    "speculative": {"color": "#D55E00", "marker": "*", "markersize": 14},
    "assisted": {"color": "#5c5c5c", "marker": "x", "markersize": 8, "markeredgewidth": 2},
    "lossy": {"color": "#CC79A7", "marker": "^", "markersize": 7},
    "oracle": {"color": "#009E73", "marker": "P", "markersize": 9},
}
LABELS = {
    "speculative": "speculative decoding, lossless (draft length)",
    "assisted": "assisted generation of transformers (draft length)",
    "lossy": "speculative decoding, lossy",
    "oracle": "oracle that asks where the two differ",
}
JOINT = ("#332288", "#882255", "#56B4E9")  # of students that were trained with their asking
PLACES = {  # of names: offset in points, alignment
    "speculative": ((0, 9), "center", "bottom"),
    "assisted": ((0, 24), "center", "bottom"),
    "lossy": ((7, 0), "left", "center"),
    "oracle": ((0, 9), "center", "bottom"),
}
ALONE = {"generate-student": "student alone", "generate-teacher": "teacher alone"}
UNNAMED = {"assisted": "default"}  # of a policy that is called as its family
SHIPPED = re.compile(r"[a-z]+-(pcl(?:-[a-z]+)?)")
NEAR = 0.06  # of the time, within which points share a name
AIMS = ((0.99, 1.3), (0.9, 2.0))  # recovered share, times as fast as the fastest lossless speculation


def picture(rows: Sequence[Row]) -> bytes:
    """A PNG of rows as `scripts.latency` writes them."""
    with theme(dark=False):
        figure = Figure(figsize=(8.6, 6.6))
        ax = figure.subplots()
        drawn = [row for row in rows if row["recovered_gap"] is not None]
        _frontiers(ax, drawn)
        for group in GROUPS:
            _points(ax, [row for row in drawn if row["policy"].split("-")[0] == group], group)
        _ends(ax, drawn)
        _aims(ax, drawn)
        speed = "wall clock" if rows[0]["clock"] == "wall" else rows[0]["clock"]
        ax.set(xlabel=f"milliseconds per output at batch 1, {speed}  (faster \N{LEFTWARDS ARROW})",
               ylabel="recovered share of the teacher's advantage",
               title=f"{rows[0]['task']}: quality against latency")  # fmt: skip
        ax.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
        ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        ax.set_xlim(left=0)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
        return png(figure)


def _frontiers(ax: Axes, rows: Sequence[Row]) -> None:
    """A line for each policy that is played under rules, with its intervals as a band."""
    lines = []
    for name in dict.fromkeys(row["policy"] for row in rows if row["rule"]):
        mine = [row for row in rows if row["policy"] == name]  # from tight to loose, as they were played
        columns = ("calls_per_token", "clock_ms", "recovered_gap", "recovered_gap_low", "recovered_gap_high")
        limit, *numbers = (_column(mine, column) for column in columns)
        gate = mine[0]["kind"] == "learned" and SHIPPED.fullmatch(name)  # one that ships for the task
        lines.append(Line(gate.group(1) if gate else name, mine[0]["kind"], limit, *numbers))
    styles = styles_of([line for line in lines if line.kind != "joint"], dark=False)
    names = {line.agent: name_of(line.agent) for line in lines}
    for place, line in enumerate(line for line in lines if line.kind == "joint"):
        styles[line.agent] = {"color": JOINT[place % len(JOINT)], "marker": "D", "linewidth": 2.2, "linestyle": "-."}
        names[line.agent] = f"student trained with its asking ({line.agent.removeprefix('joint ')})"
    for line in lines:
        style = styles[line.agent]
        ax.plot(line.calls, line.gap, label=names[line.agent], **style)
        ax.fill_between(line.calls, line.low, line.high, color=style["color"], alpha=0.12, linewidth=0)


def _points(ax: Axes, rows: Sequence[Row], group: str) -> None:
    """Policies without a rule, named beside their points; those that nearly coincide share a name."""
    shared: list[tuple[Row, list[str]]] = []
    for row in sorted(rows, key=lambda row: float(row["clock_ms"])):
        tag = row["accept"] if group == "lossy" else row["policy"].partition("-")[2] or UNNAMED.get(group, "")
        last = shared[-1][0] if shared and group != "lossy" else None
        if last is not None and row["clock_ms"] < (1 + NEAR) * last["clock_ms"]:
            shared[-1][1].append(tag)
        else:
            shared.append((row, [tag]))
        label = LABELS[group] if row is shared[0][0] else None
        ax.plot(row["clock_ms"], row["recovered_gap"], linestyle="none", label=label, zorder=6, **STYLES[group])
    place, ha, va = PLACES[group]
    for row, tags in shared:
        ax.annotate(", ".join(tags), (row["clock_ms"], row["recovered_gap"]), xytext=place, ha=ha, va=va,
                    textcoords="offset points", fontsize=8, color=STYLES[group]["color"])  # fmt: skip


def _ends(ax: Axes, rows: Sequence[Row]) -> None:
    """Both models by themselves, as `generate` plays them: the game's teacher has the student step beside it."""
    for row in rows:
        if row["policy"] in ALONE:
            ax.plot(row["clock_ms"], row["recovered_gap"], "o", color="#1c1c1c", markersize=6, zorder=6)
            ax.annotate(ALONE[row["policy"]], (row["clock_ms"], row["recovered_gap"]), xytext=(6, -4),
                        textcoords="offset points", fontsize=9, va="top")  # fmt: skip
    ax.axhline(1, color="#1c1c1c", linewidth=1, linestyle=":")


def _aims(ax: Axes, rows: Sequence[Row]) -> None:
    """Corners that a learned policy should reach: so much of the gap, so much faster than lossless speculation."""
    ours = [row["clock_ms"] for row in rows if row["policy"].startswith("speculative")]
    if not ours:
        return
    for share, faster in AIMS:
        at = min(ours) / faster
        ax.plot([0, at, at], [share, share, 1.12], color="#8c8c8c", linewidth=1, linestyle="--", zorder=1)
        inwards = "right" if faster == max(faster for _, faster in AIMS) else "left"  # side by side, the fastest left
        ax.annotate(f"{share:.0%}, {faster:g}\N{MULTIPLICATION SIGN} as fast", (at, 1.12), xytext=(0, 2), fontsize=8,
                    textcoords="offset points", color="#5c5c5c", ha=inwards)  # fmt: skip


def _column(rows: Sequence[Row], name: str) -> FloatArray:
    return np.array([row[name] for row in rows], np.float64)
