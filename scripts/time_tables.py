"""Which latency table models the time of a pair: the one that is named, or the shipped one where it is honest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from tw_env.tasks.shipped import shipped_pair

# What joint training changes in a student's config, or saving it. By `tw_env.decoding.latency.measure`, a step of a
# joint pronunciation student takes as long as the shipped one's, within 5%: some rows more in the head cost little. Nor
# does a rule, which is read once and together with the prompt.
NOT_OF_LAYERS = (
    "vocab_size", "tie_word_embeddings", "ask_token_ids", "ask_doubt", "student_tokens", "reads_rules", "dtype",
    "architectures", "transformers_version", "_name_or_path",
)  # fmt: skip


@dataclass(frozen=True)
class TimeTable:
    """A file with a `tw_env.costs.LatencyTable`, and what to say of milliseconds that it models."""

    path: str
    note: str


def time_table(task: str, student: str | None, teacher: str | None, named: str | None = None) -> TimeTable | None:
    """The table for a pair; None where nobody measured one.

    Args:
        task: whose pair ships. student, teacher: folders or hub ids; None for the shipped ones.
        named: a file that is taken whatever the pair.
    """
    if named is not None:
        return TimeTable(named, f"ms are modelled at batch 1, by {named}")
    if student is None and teacher is None:
        path = str(shipped_pair(task).latency)
        return TimeTable(path, "ms are modelled at batch 1, by the latency table of the shipped pair")
    try:
        ours = shipped_pair(task)
    except ValueError:  # none ships for this task
        return None
    if teacher is not None and Path(teacher).resolve() != ours.teacher:
        return None
    if student is not None and not (Path(student).is_dir() and _layers(student) == _layers(str(ours.student))):
        return None
    note = (
        "ms are modelled at batch 1, by the latency table of the shipped pair: this student has the same layers; the "
        "rule that it reads and its ask tokens are left out"
    )
    return TimeTable(str(ours.latency), note)


def _layers(student: str) -> dict[str, Any]:
    """What says how much a step of a model computes, without its vocabulary."""
    config = AutoConfig.from_pretrained(student).to_dict()
    return {name: value for name, value in config.items() if name not in NOT_OF_LAYERS}
