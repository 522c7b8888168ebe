"""What the demo says: the table, what its columns mean, and where to look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripts.rows import OURS, Row, by_rule, mean, name_of, percent, rules_of, spends_too_much

INTRODUCTION = (
    "A small student model writes how English words are spoken, phone by phone. A big teacher is better at it, but "
    "every call of the teacher costs. At each token a policy decides: let the student write, let the teacher write, or "
    "let the teacher check what the student wrote so far, keep what it accepts and go on from there.",
    "Constrained path consistency learning trains one such policy for all rules. It is compared with what needs no "
    "training: random asking, thresholds on how sure the student is, Big-Little and speculative decoding. All were "
    "calibrated to the rules on other words than the ones that they are judged on here.",
)
MADE_BY = """\
make demo
# or, with these settings:
python -m scripts.demo --words {options.words} --rounds {options.rounds} \\
    --demonstrations {options.demonstrations} --calibration {options.calibration} --rows {options.rows} \\
    --seed {options.seed}"""

MEANING = """\
Columns are the rules, from tight to loose: the teacher may be called at so many percent of the tokens.
Each cell: the recovered share of the teacher's advantage, and in brackets the calls that were really
spent, in percent of the written tokens; * marks more than 1 point above the rule. 0% is as good as the
student alone, 100% as the teacher alone. "no rule": policies that take none. "verify at the end if
unsure": the student writes to the end, and the teacher checks the whole if its summed surprise is high."""
WIDEST = 130  # characters; the table takes what it needs


def print_table(rows: Sequence[Row]) -> None:
    """Policies by rules, as aligned text."""
    columns = rules_of(rows)
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for _, limit in columns:
        table.add_column(f"\N{LESS-THAN OR EQUAL TO} {limit}", justify="right", no_wrap=True)
    table.add_column("no rule", justify="right", no_wrap=True)
    for agent in dict.fromkeys(str(row["agent"]) for row in rows):
        found = by_rule([row for row in rows if row["agent"] == agent])
        cells = [cell(found.pop(rule, ())) for rule, _ in columns]
        free = [row for group in found.values() for row in group]
        table.add_row(Text(name_of(agent)), *cells, cell(free), style="bold" if agent == OURS else "")
    Console(width=WIDEST, highlight=False).print(table)
    print(MEANING)


def cell(rows: Sequence[Row]) -> str:
    """Recovered share and spending, both in percent."""
    if not rows:
        return ""
    gap, spent = mean(rows, "recovered_gap"), mean(rows, "calls_per_token")
    return f"{percent(gap)} ({100 * spent:.1f}{'*' if spends_too_much(rows) else ''})"


def where_to_look(out: Path, rows: Sequence[Row]) -> str:
    """Quality of the two ends, and the files that were written."""
    student, teacher = (next(row for row in rows if row["agent"] == agent) for agent in ("student", "teacher"))
    right = f"{student['quality']:.1%} of them right, the teacher alone {teacher['quality']:.1%}"
    return f"""
Held-out words: {student["prompts"]}; the student alone gets {right}.

  page (open it in a browser):   {out / "page.html"}
  frontier picture:              {out / "frontier.png"}
  all numbers:                   {out / "rows.json"}
  learning curves:               tensorboard --logdir {out / "tensorboard"}
  the learned policy:            tw_env.policies.load("{out / "policy"}")
"""
