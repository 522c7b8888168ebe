"""Benchmark rows as lines: one agent in one game, a point for each rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Row = Mapping[str, Any]

NAMES = {
    "pcl": "PCL gate (learned)",
    "student": "student alone",
    "teacher": "teacher alone",
    "random": "random asking",
    "p-max": "threshold on p_max",
    "entropy": "threshold on the entropy",
    "margin": "threshold on the margin",
    "surprise": "threshold on the surprise",
    "chain-surprise": "threshold on the summed surprise",
    "surprise-at-end": "draft all, verify there if unsure",
    "big-little": "Big-Little decoding",
    "speculative": "speculative decoding",
    "oracle": "oracle (sees the teacher)",
    "information-limit": "information limit (supervised)",
    "ppo-lagrangian": "PPO-Lagrangian",
    "dqn-lagrangian": "DQN-Lagrangian",
}
GAMES = {
    "SELF/ASK": "Asking: the teacher writes single tokens",
    "SELF/VERIFY": "Verifying: the teacher also checks what was written",
    "SELF/ASK/VERIFY": "Asking and verifying: the teacher may also check what was written",
}
OURS = "pcl"


def name_of(agent: str) -> str:
    """An agent's name for readers; its own where no other is known."""
    key = agent.replace("_", "-")
    if key.startswith("speculative-") and key.removeprefix("speculative-").isdigit():
        return f"speculative, {key.removeprefix('speculative-')} tokens"
    return NAMES.get(key, agent)


@dataclass
class Line:
    """One agent in one game: a point for each rule, in the order of what it spends; arrays (rules,).

    Attributes:
        limit: NaN where nothing was limited. calls: per token. gap, low, high: recovered share of the gap and
            its interval. All are means over seeds.
    """

    agent: str
    kind: str
    limit: FloatArray
    calls: FloatArray
    gap: FloatArray
    low: FloatArray
    high: FloatArray


def games_of(rows: Sequence[Row]) -> list[str]:
    """The action sets that occur, in the order in which they were run."""
    return list(dict.fromkeys(str(row["actions"]) for row in rows))


def lines_of(rows: Sequence[Row], game: str) -> list[Line]:
    """The agents of a game, in the order in which they were run, ours last so that it is drawn on top."""
    mine = [row for row in rows if row["actions"] == game]
    agents = dict.fromkeys(str(row["agent"]) for row in mine)
    return [
        _line([row for row in mine if row["agent"] == name])
        for name in sorted(agents, key=lambda a: a == OURS)
    ]


def _line(rows: Sequence[Row]) -> Line:
    by_rule: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_rule.setdefault((str(row["rule"]), str(row["accept"])), []).append(row)
    columns = ("limit", "calls_per_token", "recovered_gap", "recovered_gap_low", "recovered_gap_high")
    numbers = np.array([[_mean(group, name) for name in columns] for group in by_rule.values()])
    numbers = numbers[np.argsort(numbers[:, 1], kind="stable")]
    return Line(str(rows[0]["agent"]), str(rows[0]["kind"]), *numbers.T)


def _mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([math.nan if row[name] is None else float(row[name]) for row in rows]))
