"""Policies that play the game, and how they are saved and loaded without pickle."""

from __future__ import annotations

import json
from pathlib import Path

from tw_env.policies.ask_token import AskToken
from tw_env.policies.cuts import CutTable
from tw_env.policies.gate import Gate
from tw_env.policies.heuristics import (
    ScoreThreshold,
    big_little,
    random_calls,
    speculative,
    student_alone,
    teacher_alone,
)
from tw_env.policies.networks import EpisodeNetwork, ObservationNetwork
from tw_env.policies.policy import CONFIG, Policy

__all__ = [
    "AskToken",
    "CutTable",
    "EpisodeNetwork",
    "Gate",
    "ObservationNetwork",
    "Policy",
    "ScoreThreshold",
    "big_little",
    "load",
    "random_calls",
    "shipped",
    "speculative",
    "student_alone",
    "teacher_alone",
]

KINDS: dict[str, type[Policy]] = {kind.kind: kind for kind in (ScoreThreshold, Gate, AskToken)}
_SHIPPED = Path(__file__).parent / "shipped"


def shipped() -> list[str]:
    """Names of the policies that come with the package."""
    return sorted(path.parent.name for path in _SHIPPED.glob(f"*/{CONFIG}"))


def load(name: str | Path) -> Policy:
    """A saved policy.

    Args:
        name: a folder that `Policy.save` wrote, or the name of a shipped policy.

    Raises:
        FileNotFoundError: neither a folder with a policy nor a shipped name.
        ValueError: a policy of a kind that this version doesn't know.
    """
    folder = Path(name) if (Path(name) / CONFIG).is_file() else _SHIPPED / str(name)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"Expected a folder with {CONFIG} or a shipped policy ({', '.join(shipped())}), got {str(name)!r}."
        )
    record = json.loads((folder / CONFIG).read_text())
    if record.get("kind") not in KINDS:
        raise ValueError(f"Expected a policy of kind {', '.join(KINDS)}, got {record.get('kind')!r} in {folder}.")
    return KINDS[record["kind"]].restore(record, folder)
