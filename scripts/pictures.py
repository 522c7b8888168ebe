"""Pictures of benchmark rows: frontier, spend against the rule, and how all pictures look."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from scripts.rows import GAMES, OURS, TOLERATED, Line, Row, by_rule, games_of, lines_of, mean, name_of

Panel = tuple[str, list[Line], dict[str, Any]]  # game, lines, styles by agent

REACH = 0.45  # calls per token: the widest frontier that is drawn

# Okabe and Ito's colours, told apart with any kind of colour vision; the learned policy has one for itself.
OURS_COLOUR = {False: "#0072B2", True: "#56B4E9"}
_CYCLE = ("#E69F00", "#009E73", "#CC79A7", "#D55E00", "#8C8C8C", "#B8A200")
_FIXED = {  # the same in every picture: colour, marker
    "random": ("#8C8C8C", "o"),
    "p-max": ("#009E73", "s"),
    "surprise-at-end": ("#E69F00", "D"),
    "big-little": ("#CC79A7", "^"),
    "speculative": ("#D55E00", "*"),
    "pcl-time": ("#7B2CBF", "p"),
}
_MARKERS = "vP<>hXpd"
# of all others: solid lines are ours and those above
_DASHES = ("-.", ":", (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2, 2, 2)))
LEGEND_LINES, LEGEND_LINE = 4, 0.2  # lines of the legend for which there is room, and inches for each further one
CROWD = 8  # lines in a panel beyond which only learned agents have bands
_THEMES = {
    False: {"axes.facecolor": "white", "figure.facecolor": "white", "text.color": "#1c1c1c"},
    True: {"axes.facecolor": "#1b1f24", "figure.facecolor": "#1b1f24", "text.color": "#e6e6e6"},
}


def ink(dark: bool) -> str:
    """The colour of words and of lines that belong to nobody."""
    return _THEMES[dark]["text.color"]


def theme(dark: bool) -> AbstractContextManager[None]:
    """matplotlib's settings for all pictures, on white or on dark ground."""
    colour = ink(dark)
    settings: dict[str, Any] = {
        **_THEMES[dark],
        "axes.edgecolor": colour, "axes.labelcolor": colour, "xtick.color": colour, "ytick.color": colour,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
        "axes.titlesize": 11, "axes.titlelocation": "left", "font.size": 10, "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }  # fmt: skip
    return matplotlib.rc_context(settings)  # type: ignore[arg-type]


def png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def data_uri(image: bytes) -> str:
    """A PNG as text that HTML can hold."""
    return "data:image/png;base64," + base64.b64encode(image).decode()


def styles_of(lines: Sequence[Line], dark: bool) -> dict[str, dict[str, Any]]:
    """Colour, marker and width of each agent, by its name."""
    styles, others = {}, 0
    for line in lines:
        style: dict[str, Any] = {"markersize": 4.5, "linewidth": 1.5}
        if line.agent == OURS:
            style |= {"color": OURS_COLOUR[dark], "marker": "o", "linewidth": 3.2, "markersize": 7, "zorder": 5}
        elif (key := line.agent.replace("_", "-")) in _FIXED:
            style |= dict(zip(("color", "marker"), _FIXED[key], strict=True))
        else:
            style |= {"color": _CYCLE[others % len(_CYCLE)], "marker": _MARKERS[others % len(_MARKERS)]}
            style |= {"linestyle": _DASHES[others // len(_CYCLE) % len(_DASHES)]}
            others += 1
        if line.kind == "oracle":
            style |= {"linestyle": "--", "markersize": 11 if len(line.calls) == 1 else 4.5}
        if line.kind == "fixed":
            style |= {"marker": "*", "markersize": 15, "linestyle": "none", "zorder": 6}
        styles[line.agent] = style
    return styles


# ---- pictures --------------------------------------------------------------------------------------------


def _panels(rows: Sequence[Row], dark: bool, fixed: bool) -> list[Panel]:
    """Game, lines and styles of each game; an agent looks the same in all of them."""
    drawn = []
    for game in games_of(rows):
        lines = [line for line in lines_of(rows, game) if line.agent not in ("student", "teacher")]
        drawn.append((game, [line for line in lines if fixed or line.kind != "fixed"]))
    unique = {line.agent: line for _, lines in drawn for line in lines}
    styles = styles_of(list(unique.values()), dark)
    return [(game, lines, styles) for game, lines in drawn]


def _reach(panels: Sequence[Panel]) -> float:
    spent = [value for _, lines, _ in panels for line in lines for value in line.calls if value <= REACH]
    return max(1.08 * max(spent, default=0.0), 0.05)


def frontier(rows: Sequence[Row], dark: bool = False) -> Figure:
    """Recovered share of the gap against teacher calls per token, a panel for each game.

    Args:
        rows: as `scripts.benchmark` writes them. The student is the origin and the teacher the line at 100%.
        dark: for dark pages.
    """
    panels = _panels(rows, dark, fixed=True)
    reach = _reach(panels)
    with theme(dark):
        figure = Figure(figsize=(7.6 if len(panels) < 2 else 13, 5.6))
        axes = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)
        for ax, (game, lines, styles) in zip(axes[0], panels, strict=False):
            ax.set_title(GAMES.get(game, game))
            for line in lines:
                _points(ax, line, styles[line.agent], band=len(lines) <= CROWD or line.kind == "learned")
            _ends(ax, reach, dark)
            ax.set(
                xlim=(-0.02 * reach, reach),
                xlabel="teacher calls per written token  (cheaper \N{LEFTWARDS ARROW})",
            )
            percents(ax.xaxis)
        drawn = [line for _, lines, _ in panels for line in lines if line.kind != "oracle"]  # one may lie far above all
        gaps = [gap for line in drawn for gap in line.gap if np.isfinite(gap)]
        axes[0, 0].set(
            ylim=(min(-0.04, 1.1 * min(gaps, default=0.0)), max(1.09, 1.04 * max(gaps, default=0.0))),
            ylabel="recovered share of the teacher's advantage",
        )
        percents(axes[0, 0].yaxis)
        _legend(figure, panels, columns=2 if len(panels) < 2 else 4)
    return figure


def percents(axis: Axis) -> None:
    """Ticks of shares, in percent."""
    axis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")


def _points(ax: Axes, line: Line, style: dict[str, Any], band: bool) -> None:
    """A line with its intervals, as bars on single points and as a band elsewhere."""
    ax.plot(line.calls, line.gap, **style)
    if line.kind == "fixed":
        ax.errorbar(line.calls, line.gap, (line.gap - line.low, line.high - line.gap), fmt="none",
                    color=style["color"], linewidth=1)  # fmt: skip
    elif band:
        strength = 0.25 if line.agent == OURS else 0.1
        ax.fill_between(line.calls, line.low, line.high, color=style["color"], alpha=strength, linewidth=0)


def _ends(ax: Axes, reach: float, dark: bool) -> None:
    """The two ends of every frontier, written beside them."""
    colour = ink(dark)
    ax.axhline(1, color=colour, linewidth=1, linestyle=":")
    ax.text(0.005 * reach, 1.012, "teacher alone (a call at every token)", fontsize=9, color=colour)
    ax.plot([0], [0], marker="o", color=colour, markersize=8, zorder=6, clip_on=False)
    ax.annotate("student alone", (0, 0), (9, -1), textcoords="offset points", fontsize=9, color=colour, va="center")


def _legend(figure: Figure, panels: Sequence[Panel], columns: int) -> None:
    """Below the panels, where it covers no line; ours first."""
    agents = {line.agent: styles[line.agent] for _, lines, styles in panels for line in lines}
    order = sorted(agents, key=lambda agent: agent != OURS)
    handles = [Line2D([], [], label=name_of(agent), **agents[agent]) for agent in order]
    for ncols in range(min(columns, len(handles)), 0, -1):  # as many as the picture is wide
        legend = figure.legend(handles=handles, loc="outside lower left", ncols=ncols, fontsize=9.5)
        figure.draw_without_rendering()
        if ncols == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    lines = -(-len(handles) // ncols) if handles else 0
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * max(lines - LEGEND_LINES, 0))


def spend(rows: Sequence[Row], dark: bool = False) -> Figure:
    """Calls per token that were spent against the allowed ones, for rules on a share of the tokens."""
    limited, reach = _limited(rows)
    line_of_rule, colour = np.array([0.0, reach]), ink(dark)
    with theme(dark):
        panels = _panels(limited, dark, fixed=False)
        figure, axes = _against_limits(panels, reach, "What was spent, and what the rule allows")
        for ax, (_, lines, styles) in zip(axes, panels, strict=False):
            ax.fill_between(line_of_rule, line_of_rule + TOLERATED, 1, color="#D55E00", alpha=0.12, linewidth=0)
            ax.plot(line_of_rule, line_of_rule, color=colour, linewidth=1, linestyle=":")
            ax.text(0.03 * reach, 0.93 * reach, "more than 1 point above the rule", fontsize=9, color="#D55E00")
            for line in lines:
                order = np.argsort(line.limit)
                ax.plot(line.limit[order], line.calls[order], **styles[line.agent])
            ax.set(ylim=(0, reach))
        axes[0].set_ylabel("spent: teacher calls per written token")
        percents(axes[0].yaxis)
    return figure


def within(rows: Sequence[Row], dark: bool = False) -> Figure:
    """Share of outputs that spent no more than allowed, against the limit, for rules on a share of the tokens."""
    limited, reach = _limited(rows)
    with theme(dark):
        panels = _panels(limited, dark, fixed=False)
        figure, axes = _against_limits(panels, reach, "Outputs that keep the rule, each taken alone")
        for ax, (game, lines, styles) in zip(axes, panels, strict=False):
            for line in lines:
                mine = [row for row in limited if row["actions"] == game and row["agent"] == line.agent]
                groups = sorted(by_rule(mine).values(), key=lambda group: float(group[0]["limit"]))
                ax.plot(
                    [float(group[0]["limit"]) for group in groups],
                    [mean(group, "within_rule") for group in groups],
                    **styles[line.agent],
                )
            ax.set(ylim=(0, 1.02))
        axes[0].set_ylabel("share of outputs within the rule")
        percents(axes[0].yaxis)
    return figure


def _limited(rows: Sequence[Row]) -> tuple[list[Row], float]:
    """Rows with a limit above 0 on a share of the tokens, and how far the axis of limits reaches."""
    limited = [row for row in rows if row["quantity"] == "calls_per_token" and row["limit"]]
    return limited, 1.15 * max((float(row["limit"]) for row in limited if row["limit"] <= REACH), default=0.3)


def _against_limits(panels: Sequence[Panel], reach: float, title: str) -> tuple[Figure, list[Axes]]:
    """A panel for each game with the limit on its axis; `title` is that of a lone panel."""
    figure = Figure(figsize=(6.4 if len(panels) < 2 else 13, 5.4))
    axes = list(figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0])
    for ax, (game, _, _) in zip(axes, panels, strict=False):
        ax.set_title(GAMES.get(game, game) if len(panels) > 1 else title)
        ax.set(xlim=(0, reach), xlabel="allowed by the rule")
        percents(ax.xaxis)
    _legend(figure, panels, columns=2 if len(panels) < 2 else 4)
    return figure, axes
