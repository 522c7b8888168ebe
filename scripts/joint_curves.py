"""Curves of joint training out of TensorBoard logs: a grid of small panels over the updates, one colour a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts.learning_curves import Curves, smooth
from scripts.pictures import theme
from scripts.rows import FloatArray

LOG = "tensorboard"  # folder of the log in that of a run
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#8C8C8C")
COLUMNS = 4
INNER = (1.5, 98.5)  # percentiles between which a panel's axis reaches: the first updates would squeeze all others
EXTREMES = {"never": -1.0, "free": 2.0}  # tags of rules that set no limit, in their place among limits


@dataclass(frozen=True)
class Panel:
    """Which numbers share a panel.

    Attributes:
        tags: of the log, with the names that they go by. rules: instead, one curve for each rule below this tag.
        level: a line to compare with.
    """

    title: str
    tags: tuple[tuple[str, str], ...] = ()
    rules: str | None = None
    level: float | None = None


PANELS = (
    Panel("quality of play (metric)", (("quality", "with its calls"), ("quality/alone", "never asking"))),
    Panel("calls per token, all limited rules", (("calls_per_token", "played"),)),
    Panel("asked: calls per token by rule", rules="asked"),
    Panel("spent - allowed by rule, calls per text", rules="violation", level=0.0),
    Panel("\N{GREEK SMALL LETTER LAMDA} by rule: price of a call", rules="lambda"),
    Panel("number beside the words, by rule: nats", rules="level", level=0.0),
    Panel(
        "path consistency: residual",
        (("residual", "every choice"), ("residual/1", "drawn paths, 1 choice"), ("residual/end", "to their ends")),
    ),
    Panel("V_R beside what is drawn", (("value/reward", "V_R"), ("value/reward_drawn", "drawn"))),
    Panel("V_C beside what is drawn", (("value/cost", "V_C"), ("value/cost_drawn", "drawn")), level=0.0),
    Panel("variance that V explains", (("value/reward_explained", "V_R"), ("value/cost_explained", "V_C")), level=1.0),
    Panel("AUC of wrong tokens", (("asking/auc", "P(ask)"), ("asking/auc_p_max", "1 - p_max"))),
    Panel(
        "P(ask) by the gap to the teacher",
        (("asking/gap_none", "no gap"), ("asking/gap_below_1", "below 1 nat"), ("asking/gap_below_3", "below 3"),
         ("asking/gap_above_3", "above 3")),
    ),
    Panel("rank correlation of P(ask) with the gap", (("asking/rank_with_gap", ""),), level=0.0),
    Panel(
        "drift of the log-odds of asking, nats a step",
        (("drift/writing", "texts and marks"), ("drift/gate", "gate alone")),
        level=0.0,
    ),
    Panel("V of sampled walks", (("value/mean", "V"), ("value/return", "their returns, no entropy"))),
    Panel("KL(student, teacher) on own tokens, nats", (("kl/own", "distributions"), ("kl/walks", "sampled walks"))),
    Panel("nats of a text's token", (("nats/gold", "gold"), ("nats/teacher", "the teacher's"))),
    Panel("cloning: nats of a mark", (("clone", ""),)),
    Panel("tokens learnt from", (("share/own", "own"), ("share/gold", "gold"), ("share/teacher", "the teacher's"))),
)  # fmt: skip


def read_scalars(folder: Path) -> Curves:
    """(updates, values) by tag out of a run's TensorBoard log; of an update that a resumed run repeats, the last one.

    Raises:
        FileNotFoundError: no log with scalars.
    """
    log = folder / LOG if (folder / LOG).is_dir() else folder
    events = EventAccumulator(str(log), size_guidance={"scalars": 0})  # 0 keeps all
    if log.is_dir():
        events.Reload()
    tags = events.Tags()["scalars"] if log.is_dir() else []
    if not tags:
        raise FileNotFoundError(f"Expected a TensorBoard log of scripts.joint in {folder}; found no scalars there.")
    curves = {}
    for tag in tags:
        points = {event.step: event.value for event in events.Scalars(tag)}
        steps = sorted(points)
        curves[tag] = np.array(steps, float), np.array([points[step] for step in steps], float)
    return curves


def mean_of(curves: Sequence[Curves], tag: str) -> tuple[FloatArray, FloatArray]:
    """(updates, values): mean over the runs that have the number at an update."""
    found: dict[float, list[float]] = {}
    for run in curves:
        for update, value in zip(*run.get(tag, ((), ())), strict=True):
            found.setdefault(float(update), []).append(float(value))
    updates = sorted(found)
    return np.array(updates), np.array([np.mean(found[update]) for update in updates])


def curves_picture(runs: Sequence[Curves]) -> Figure:
    """A panel for all that is in the logs; thick is the smoothed mean over runs, faint what each run logged."""
    tags = sorted({tag for run in runs for tag in run})
    panels = [panel for panel in PANELS if _tags(panel, tags)]
    rows = -(-len(panels) // COLUMNS)
    with theme(dark=False):
        figure = Figure(figsize=(4.1 * COLUMNS, 2.7 * max(rows, 1)))
        axes = figure.subplots(max(rows, 1), COLUMNS, squeeze=False)
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, panel in zip(axes.flat, panels, strict=False):
            _draw(ax, panel, runs, _tags(panel, tags))
        for ax in axes.flat[max(len(panels) - COLUMNS, 0) : len(panels)]:
            ax.set_xlabel("update")
    return figure


def _tags(panel: Panel, tags: Sequence[str]) -> list[tuple[str, str]]:
    """The panel's tags that are there, with their names; rules from tight to loose."""
    if panel.rules is None:
        return [(tag, name) for tag, name in panel.tags if tag in tags]
    rules = [tag.split("/", 1)[1] for tag in tags if tag.startswith(f"{panel.rules}/")]
    ordered = sorted(rules, key=lambda rule: EXTREMES[rule] if rule in EXTREMES else float(rule))
    return [(f"{panel.rules}/{rule}", rule if rule in EXTREMES else f"{100 * float(rule):g}%") for rule in ordered]


def _draw(ax: Axes, panel: Panel, runs: Sequence[Curves], tags: Sequence[tuple[str, str]]) -> None:
    ax.set_title(panel.title, fontsize=10)
    shades = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.9, len(tags)))
    for place, (tag, name) in enumerate(tags):
        colour = COLOURS[place] if panel.rules is None else shades[place]
        if panel.rules is None:  # of many rules, the seeds would hide each other
            for run in runs:
                if tag in run:
                    ax.plot(*run[tag], color=colour, alpha=0.3, linewidth=0.6)
        updates, values = mean_of(runs, tag)
        ax.plot(updates, smooth(values), color=colour, linewidth=1.8 if panel.rules is None else 1.2, label=name)
    if panel.rules is None:
        logged = np.concatenate([run[tag][1] for run in runs for tag, _ in tags if tag in run])
        low, high = np.percentile(logged, INNER)
        margin = 0.08 * max(high - low, 1e-9)
        ax.set_ylim(low - margin, high + margin)
    if panel.level is not None:
        ax.axhline(panel.level, color="#1c1c1c", linewidth=1, linestyle=":")
    if any(name for _, name in tags):
        many = panel.rules is not None
        ax.legend(
            fontsize=6.5 if many else 7.5, loc="center left" if many else "best",
            bbox_to_anchor=(1.0, 0.5) if many else None, handlelength=1.2, labelspacing=0.25,
        )  # fmt: skip
