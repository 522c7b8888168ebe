"""What the ablations say: a table for each part, means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from scripts.ablate_joint import RULES

Row = dict[str, Any]
Column = tuple[str, str, str]  # head, field of the rows, format
WIDEST = 180  # characters
SHARE_COLUMNS: tuple[Column, ...] = (
    ("rank with the gap", "rank", ".2f"), ("closed form", "expected_rank", ".2f"),
    ("AUC of disagreement", "auc", ".3f"), ("closed form", "expected_auc", ".3f"),
    ("mean logit", "logit", ".2f"), ("closed form", "expected_logit", ".2f"), ("rank with it", "fit", ".2f"),
)  # fmt: skip
JOINT_COLUMNS: tuple[Column, ...] = (
    ("AUC of P(ask)", "auc", ".3f"), ("of p_max", "p_max_auc", ".3f"), ("right, never", "alone", ".1%"),
    *((head, f"{name}/{rule}", form)
      for rule in RULES for head, name, form in ((f"gap, {rule}", "gap", ".0%"), ("calls", "calls", ".1%"))),
    ("s", "seconds", ".0f"),
)  # fmt: skip
PARTS: dict[str, tuple[str, str, tuple[Column, ...]]] = {  # title, what a variant is, columns
    "shares": (
        "A small gate beside the frozen pair, judged on the student's own texts; behind each, the closed form",
        "own share of the places",
        SHARE_COLUMNS,
    ),
    "ask shares": ("The same of the frozen student's own ask tokens", "own share of the places", SHARE_COLUMNS),
    "reasons": (
        "Ask tokens as they begin, and a network on state and probabilities, at the places of the teacher's texts",
        "ask tokens",
        (
            ("AUC of disagreement", "auc", ".3f"), ("of p_max", "p_max_auc", ".3f"),
            ("places that differ", "differs", ".1%"),
        ),
    ),
    "distillation": (
        "Distillation by path consistency, from one start",
        "variant",
        (
            ("words right", "quality", ".1%"), ("nats of the first reference", "nats", ".4f"),
            ("KL to the teacher", "kl", ".3f"), ("teacher tokens", "tokens", ".0f"), ("s", "seconds", ".0f"),
        ),
    ),
    **{
        f"joint {call}": (f"Joint training, {call}: recovered gap, calls per token by rule", "variant", JOINT_COLUMNS)
        for call in ("ASK", "VERIFY")
    },
}  # fmt: skip


def print_tables(rows: Sequence[Row]) -> None:
    """A table for each part that has rows."""
    console = Console(width=WIDEST, highlight=False)
    for part, (title, first, columns) in PARTS.items():
        mine = [row for row in rows if row["part"] == part]
        if not mine:
            continue
        table = Table(title=title, box=box.SIMPLE, pad_edge=False, title_justify="left")
        table.add_column(first, no_wrap=True)
        table.add_column("seeds", justify="right")
        for head, _, _ in columns:
            table.add_column(head, justify="right")
        for variant in dict.fromkeys(row["variant"] for row in mine):
            found = [row for row in mine if row["variant"] == variant]
            cells = [cell([row[name] for row in found], form) for _, name, form in columns]
            began = found[0].get("began")
            table.add_row(f"{variant} ({began})" if began else variant, str(len(found)), *cells)
        console.print(table)


def cell(values: Sequence[float | None], form: str) -> str:
    """The mean over seeds and, in brackets, the standard deviation where there are several; a dash for what isn't."""
    known = [value for value in values if value is not None]
    if not known:
        return "\N{EN DASH}"
    spread = f" ({np.std(known, ddof=1):{form}})" if len(known) > 1 else ""
    return f"{np.mean(known):{form}}{spread}"
