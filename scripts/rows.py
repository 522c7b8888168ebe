"""Benchmark rows as lines: one agent in one game, a point for each rule."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Row = dict[str, Any]

NEEDED = (
    "task", "actions", "accept", "agent", "kind", "seed", "rule", "quantity", "limit", "quality", "recovered_gap",
    "recovered_gap_low", "recovered_gap_high", "calls_per_token",
)  # fmt: skip

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
    "surprise-at-end": "verify at the end if unsure",
    "unsure-draft": "verify if the token or the draft is unsure",
    "big-little": "Big-Little decoding",
    "big-little-strict": "Big-Little decoding, rollback at 1 nat",
    "big-little-loose": "Big-Little decoding, rollback at 4 nats",
    "speculative": "speculative decoding",
    "speculative-sure": "speculative, while p_max is at least 0.4",
    "oracle": "oracle (sees the teacher)",
    "optimum": "optimum (best plan under the rule)",
    "pcl-hidden": "PCL gate that sees the hidden state",
    "pcl-whole-text": "PCL gate that reads the whole text",
    "pcl-anywhere": "PCL gate that may call anywhere",
    "pcl-time": "PCL gate that learned rules on time",
    "pcl-offline": "PCL gate from logged play alone",
    "router": "router: disagreement, last state",
    "router-gain": "router: gain, last state",
    "router-episode": "router: disagreement, whole text",
    "information-limit": "information limit (router: gain, whole text)",
    "actor-critic": "actor-critic, networks of PCL",
    "ppo-lagrangian": "PPO-Lagrangian",
    "ppo-fixed-price": "PPO with a fixed price",
    "maskable-ppo": "MaskablePPO, hard rule",
    "dqn-lagrangian": "DQN-Lagrangian",
    "joint": "student trained with its asking",
    "joint+verify": "student trained with its asking",
    "joint-doubt": "the same, asking beside its doubt",
    "joint-doubt+verify": "the same, asking beside its doubt",
    "words": "its words alone",
}
GAMES = {
    "SELF/ASK": "Asking: the teacher writes single tokens",
    "SELF/VERIFY": "Verifying: the teacher also checks what was written",
    "SELF/ASK/VERIFY": "Asking and verifying: the teacher may also check what was written",
}
OURS = "pcl"
TOLERATED = 0.01  # calls per token above the limit up to which a rule counts as kept


def read_rows(path: Path, at_least: int = 1) -> list[Row]:
    """The rows of a benchmark file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it isn't JSON, or not a list of so many rows with the fields that a report needs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected rows of scripts.benchmark or scripts.demo in {path}; found no such file.")
    try:
        rows = json.loads(path.read_text())
    except ValueError as error:  # no JSON, or no text at all
        raise ValueError(
            f"Expected rows as JSON in {path}, got something else: {error}. The file was left as it is: mend it, move "
            "it away or name another one."
        ) from None
    if not isinstance(rows, list) or len(rows) < at_least:
        raise ValueError(f"Expected a list of at least one row in {path}; scripts.benchmark writes such files.")
    for number, row in enumerate(rows):
        missing = [name for name in NEEDED if not isinstance(row, dict) or name not in row]
        if missing:
            raise ValueError(f"Expected the fields of scripts.benchmark in row {number} of {path}; missing: {missing}.")
    return rows


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
    return [_line([row for row in mine if row["agent"] == name]) for name in sorted(agents, key=lambda a: a == OURS)]


def _line(rows: Sequence[Row]) -> Line:
    columns = ("limit", "calls_per_token", "recovered_gap", "recovered_gap_low", "recovered_gap_high")
    numbers = np.array([[mean(group, name) for name in columns] for group in by_rule(rows).values()])
    numbers = numbers[np.argsort(numbers[:, 1], kind="stable")]
    return Line(str(rows[0]["agent"]), str(rows[0]["kind"]), *numbers.T)


def by_rule(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each rule; they differ in their seeds."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row["rule"]), []).append(row)
    return groups


def rules_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Rules that set a limit above zero, each with a short name, from tight to loose."""
    found = {str(row["rule"]): (str(row["quantity"]), float(row["limit"])) for row in rows if row["limit"]}
    order = sorted(found, key=lambda rule: found[rule])
    return [(rule, short(*found[rule])) for rule in order]


def short(quantity: str, limit: float) -> str:
    """A limit in few characters."""
    units = {"calls_per_token": f"{100 * limit:g}%", "calls": f"{limit:g} calls", "latency_ms": f"{limit:g} ms"}
    return units.get(quantity, f"{quantity} {limit:g}")


def mean(rows: Sequence[Row], name: str) -> float:
    """Over seeds; not a number where a row has none."""
    return float(np.mean([math.nan if row[name] is None else float(row[name]) for row in rows]))


def spends_too_much(rows: Sequence[Row]) -> bool:
    """Whether one agent breaks one rule on a share of the tokens, on average over seeds."""
    limit = rows[0]["limit"] if rows[0]["quantity"] == "calls_per_token" else None
    return limit is not None and mean(rows, "calls_per_token") > limit + TOLERATED


def percent(value: float, digits: int = 0) -> str:
    """A share in percent; a dash where there is none, as where student and teacher are equally good."""
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.{digits}%}"
