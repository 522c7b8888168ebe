"""What benchmark rows come to: seeds pooled, each agent's standing in a game, and paired tests against the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.comparison import Difference, Frontier, Point, area, compare, distance, pooled_gap
from agents.evaluation import Ends
from scripts import outcomes
from scripts.rows import OURS, Line, Row, by_rule, games_of, lines_of, mean, rules_of

ORACLE = "oracle"
MEANS = ("quality", "spent", "allowed", "within_rule", "spend_over_rule", "tokens", "latency_ms", "asking_auc")


@dataclass
class Standing:
    """One agent in one game, means over seeds; None where a number doesn't exist.

    Attributes:
        area: under the frontier, see `agents.comparison.area`; None for an agent that takes no rule.
        distance: by rule, how far it lies below the reference at equal calls per token.
        within: share of episodes within the rule, mean over limited rules.
        asking_auc: mean over limited rules.
        env_steps, teacher_tokens, seconds: of making it, a run; one run serves all rules.
    """

    agent: str
    kind: str
    area: float | None
    distance: dict[str, float]
    within: float | None
    asking_auc: float | None
    env_steps: float | None
    teacher_tokens: float | None
    seconds: float | None

    @property
    def mean_distance(self) -> float | None:
        """Over the rules."""
        return float(np.mean(list(self.distance.values()))) if self.distance else None


@dataclass
class Game:
    """What is told of one game.

    Attributes:
        reference: the agents that distances are taken to. paired: by other agent and rule, ours against it.
    """

    game: str
    standings: list[Standing]
    reference: list[str]
    paired: dict[str, dict[str, Difference]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As plain numbers and words, for a file."""
        return asdict(self)


# ---- seeds pooled --------------------------------------------------------------------------------------------


def pooled(rows: Sequence[Row], folder: Path) -> list[Row]:
    """One row for each agent, game and rule, where the outcomes of all its seeds are kept; else the rows as they are.

    Calls per token are sum over sum of all seeds. The interval of the recovered gap holds the chance of the prompts
    and, with several seeds, of the seeds.
    """
    ends = outcomes.recall_ends(folder)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in ("actions", "accept", "agent", "rule")), []).append(row)
    return [row for group in groups.values() for row in _pool(group, folder, ends)]


def _pool(group: list[Row], folder: Path, ends: Ends | None) -> list[Row]:
    kept = [outcomes.recall(folder, row) for row in group]
    if ends is None or any(one is None or len(one.quality) != len(ends.student) for one in kept):
        return group
    found = [one for one in kept if one is not None]
    gap = pooled_gap(np.stack([one.quality for one in found]), ends)
    calls, tokens = (sum(int(getattr(one, name).sum()) for one in found) for name in ("calls", "tokens"))
    row = group[0] | {name: _mean(group, name) for name in MEANS if name in group[0]}
    return [row | {
        "seeds": len(group), "calls_per_token": calls / tokens,
        "recovered_gap": gap.value, "recovered_gap_low": gap.low, "recovered_gap_high": gap.high,
    }]  # fmt: skip


def _mean(rows: Sequence[Row], name: str) -> float | None:
    """Over the rows that have the number; None where no row has."""
    found = [float(row[name]) for row in rows if row.get(name) is not None]
    return float(np.mean(found)) if found else None


# ---- standings -----------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Row], merged: Sequence[Row], folder: Path) -> list[Game]:
    """Every game's standings and, where outcomes are kept, paired tests of ours against all others.

    Args:
        rows: of all seeds. merged: with seeds pooled. folder: of the outcomes.
    """
    return [
        Game(game, *standings(rows, merged, game), paired=paired([r for r in rows if r["actions"] == game], folder))
        for game in games_of(rows)
    ]


def standings(rows: Sequence[Row], merged: Sequence[Row], game: str) -> tuple[list[Standing], list[str]]:
    """The agents of a game, best area first, and the reference of their distances."""
    lines = lines_of(merged, game)
    reference = references(lines)
    curves = [(line.calls, line.gap) for line in lines if line.agent in reference and np.isfinite(line.gap).all()]
    found = []
    for line in lines:
        mine = [row for row in rows if row["actions"] == game and row["agent"] == line.agent]
        limited = [row for row in mine if row["limit"]]
        frontier = len(line.calls) > 1 and bool(np.isfinite(line.gap).all())
        found.append(Standing(
            line.agent, line.kind,
            area=area(line.calls, line.gap) if frontier else None,
            distance={} if line.agent in reference else _distances(merged, game, line.agent, curves),
            within=_mean(limited, "within_rule"), asking_auc=_mean(limited, "asking_auc"),
            env_steps=_mean(mine, "training_env_steps"), teacher_tokens=_mean(mine, "training_teacher_tokens"),
            seconds=_mean(mine, "training_seconds"),
        ))  # fmt: skip
    return sorted(found, key=lambda one: -(one.area if one.area is not None else -1.0)), reference


def references(lines: Sequence[Line]) -> list[str]:
    """Oracles that keep rules, for they know what can be had at each price; else the one that takes none."""
    oracles = [line for line in lines if line.kind == ORACLE]
    ruled = [line.agent for line in oracles if (np.nan_to_num(line.limit) > 0).any()]
    return ruled or [line.agent for line in oracles]


def _distances(rows: Sequence[Row], game: str, agent: str, curves: Sequence[Any]) -> dict[str, float]:
    mine = [row for row in rows if row["actions"] == game and row["agent"] == agent]
    found = {}
    for rule, group in by_rule(mine).items():
        gap, limited = mean(group, "recovered_gap"), bool(group[0]["limit"])
        far = distance(mean(group, "calls_per_token"), gap, curves) if limited and not math.isnan(gap) else None
        if far is not None:
            found[rule] = far
    return found


# ---- paired tests --------------------------------------------------------------------------------------------


def paired(rows: Sequence[Row], folder: Path, ours: str = OURS) -> dict[str, dict[str, Difference]]:
    """Ours under each limited rule against every other agent's frontier, on the same prompts, in one game.

    Agents without kept outcomes of all their rows are left out, and those that take no rule have no frontier.
    """
    ends = outcomes.recall_ends(folder)
    if ends is None:
        return {}
    agents = dict.fromkeys(str(row["agent"]) for row in rows)
    points = {agent: _points([row for row in rows if row["agent"] == agent], folder, ends) for agent in agents}
    mine = points.pop(ours, {})
    limited = [rule for rule, _ in rules_of(rows) if rule in mine]
    return {
        agent: {rule: compare(mine[rule], Frontier.through(list(theirs.values()), ends.student), ends)
                for rule in limited}
        for agent, theirs in points.items()
        if limited and len(theirs) > 1
    }  # fmt: skip


def _points(rows: Sequence[Row], folder: Path, ends: Ends) -> dict[str, Point]:
    """By rule, all seeds together; empty where anything is missing."""
    points = {}
    for rule, group in by_rule(rows).items():
        found = [one for one in (outcomes.recall(folder, row) for row in group) if one is not None]
        if len(found) < len(group) or any(len(one.quality) != len(ends.student) for one in found):
            return {}
        calls, tokens = (sum(int(getattr(one, name).sum()) for one in found) for name in ("calls", "tokens"))
        points[rule] = Point(calls / tokens, np.mean([one.quality for one in found], axis=0))
    return points
