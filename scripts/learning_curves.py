"""Learning curves of a training run of the gate, from its log."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.pictures import OURS_COLOUR, ink, theme
from scripts.rows import FloatArray

Curves = dict[str, tuple[FloatArray, FloatArray]]


def read_curves(log: Path) -> Curves:
    """(rounds, values) by name out of a run's log.jsonl, one object with `round` a line."""
    points: dict[str, dict[int, float]] = {}
    for line in log.read_text().splitlines():
        numbers = json.loads(line)
        at = int(numbers.pop("round"))
        for name, value in numbers.items():
            points.setdefault(name, {})[at] = float(value)  # a resumed run repeats some rounds: the last one counts
    return {
        name: (np.array(sorted(values), float), np.array([values[at] for at in sorted(values)]))
        for name, values in points.items()
    }


def learning(curves: Curves, dark: bool = False) -> Figure:
    """Return, calls per token, violation and the multiplier of each limit over the rounds of a run."""
    single = (
        ("return", "return (mean quality of the text)"),
        ("calls_per_token", "teacher calls per written token"),
        ("violation", "spent - allowed, calls per text (rule: at most 0)"),
    )
    with theme(dark):
        figure = Figure(figsize=(11, 6.4))
        axes = figure.subplots(2, 2, sharex=True)
        for ax, (tag, title) in zip(axes.flat, single, strict=False):
            ax.set_title(title)
            if tag in curves:
                rounds, values = curves[tag]
                ax.plot(rounds, values, color=OURS_COLOUR[dark], alpha=0.25, linewidth=0.8)
                ax.plot(rounds, smooth(values), color=OURS_COLOUR[dark], linewidth=2)
        axes[1, 0].axhline(0, color=ink(dark), linewidth=1, linestyle=":")
        _multipliers(axes[1, 1], curves, dark)
        for ax in axes[1]:
            ax.set_xlabel("round of play and updates")
    return figure


def _multipliers(ax: Axes, curves: Curves, dark: bool) -> None:
    """One line per limit, light for loose rules, named at its right end."""
    ax.set_title("multiplier \N{GREEK SMALL LETTER LAMDA}: the price of one call, for each limit")
    limits = {}
    for tag in curves:
        head, _, tail = tag.rpartition("/")
        if head == "lambda" and tail.replace(".", "", 1).isdigit():
            limits[float(tail)] = curves[tag]
    shades = matplotlib.colormaps["viridis"](np.linspace(0.25 if dark else 0.05, 0.95 if dark else 0.85, len(limits)))
    for shade, limit in zip(shades, sorted(limits), strict=True):
        rounds, values = limits[limit]
        ax.plot(rounds, values, color=shade, linewidth=1.6, label=f"{100 * limit:g}%")
    if limits:
        ax.legend(title="limit", loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5)


def smooth(values: FloatArray, share: float = 0.04) -> FloatArray:
    """Running mean over a small share of the run; windows are cut at both ends."""
    half = max(int(share * len(values) / 2), 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first))
