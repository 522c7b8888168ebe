"""Saved policies on held-out prompts, under rules in words.

python -m scripts.evaluate --policy runs/gate/policy --rule "ask for at most 10% of the tokens"
python -m scripts.evaluate --policy runs/gate/policy runs/other/policy --rule never "every fifth token at most"
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import tw_env
from agents.baselines.router_policy import RouterPolicy
from agents.evaluation import Ends, Row, make_row, play, play_ends
from agents.recording import Recorded
from scripts.command import run
from scripts.runs import TaskName, policy_folder, settled
from scripts.time_tables import time_table
from tw_env import policies
from tw_env.costs import Prices
from tw_env.policies import Policy
from tw_env.policies.policy import CONFIG
from tw_env.rules import parse
from tw_env.tasks.metrics import corpus
from tw_env.tasks.shipped import shipped_pair

CORPUS: dict[str, tuple[str, ...]] = {
    "pronounce": (), "translate": ("chrf", "bleu"), "summarize": ("rouge1", "rouge2", "rougeL"),
}  # fmt: skip
SHOWN = ("policy", "rule", "calls/token", "quality", "recovered", "95% interval", "within rule", "ms/output")


@dataclass
class Options:
    """Evaluate saved policies."""

    policy: tuple[str, ...]
    """Folders of saved policies or of runs, or names of shipped ones. A run tells what --task, --student, --teacher,
    --data, --metric, --template and --chat leave open."""
    rule: tuple[str, ...] = ("ask the teacher for at most 10% of the tokens",)
    """Rules in words. A student that asks by itself takes those on what it was trained on: shares of the tokens."""
    task: TaskName = "auto"
    """Which task; auto takes the run's, or else pronounce."""
    split: str = "test"
    """Part of the data."""
    prompts: int | None = None
    """Only the first so many prompts; None takes all."""
    accept: str = "exact"
    """Which pending tokens VERIFY keeps: exact, probability:P or distance:D."""
    hard: bool = False
    """Mask calls that the rule can't afford."""
    sampled: bool = False
    """Draw actions from the policy's probabilities; else its calibrated cut decides, or the likeliest action."""
    seed: int = 0
    """Seed of play."""
    student: str | None = None
    """Folder or hub id of the student; None takes the run's, or the pair that ships."""
    teacher: str | None = None
    """Folder or hub id of the teacher."""
    original: str | None = None
    """Folder or hub id of the student whose gap to the teacher is recovered; None takes that of a run of scripts.joint,
    the student of the original pair, or else the student that plays."""
    data: str | None = None
    """JSONL with `prompt` and `reference`, or a `datasets` name; for translate also two languages: en-it."""
    metric: str | None = None
    """chrf, bleu, rouge1, rouge2, rougeL, exact or edit; None: exact (text), chrf (translate), rougeL (summarize)."""
    template: str | None = None
    """What models read, with {text} where the text goes; None leaves the wording to the task."""
    chat: bool | None = None
    """Write each prompt as a user's turn in the tokenizer's chat template; None leaves it to the run."""
    latency: str | None = None
    """JSON file with a latency table, by which time is modelled; None takes that of the pair that ships, if it plays,
    or a student with the layers of its student, such as scripts.joint trains from it."""
    prices: tuple[float, float, float] | None = None
    """What the teacher costs per call, per token that it reads and per token that it writes, for rules on money."""
    out: Path | None = None
    """JSON file for the rows; None only prints."""
    rows: int = 512
    """Rows of the batched game."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 0
    """Torch's threads; 0 leaves the default."""


def read_policy(name: str) -> Policy:
    """A saved or shipped policy, of whatever kind; the folder of a run stands for the policy in it.

    Raises:
        FileNotFoundError, ValueError: see `tw_env.policies.load`.
    """
    folder = policy_folder(name)
    if folder is None:
        return policies.load(name)
    if json.loads((folder / CONFIG).read_text()).get("kind") == RouterPolicy.kind:  # not part of the package
        return RouterPolicy.read(folder)
    return policies.load(folder)


def environment(options: Options, policy: Policy) -> Recorded:
    """The game that the policy plays, with the observations that it was made for.

    Args:
        options: with a task, see `scripts.runs.settled`.
    """
    layout, id_ = policy.layout, options.task.capitalize()
    settings: dict[str, Any] = {
        "actions": "/".join(action.name for action in policy.actions),
        "hidden": "hidden" in layout,
        "top_k": layout["top_logprobs"].stop - layout["top_logprobs"].start,
        "max_new_tokens": layout.cap,
    }
    for name in ("student", "teacher", "data", "metric", "template", "chat"):
        if (value := getattr(options, name)) is not None:
            settings[name] = value
    table = time_table(options.task, options.student, options.teacher, options.latency)
    if table is not None:
        settings["latency"] = table.path
    if options.prices is not None:
        settings["prices"] = Prices(*options.prices)
    return Recorded(
        tw_env.make_vec(
            f"{tw_env.__name__}/{id_}Verify-v0", options.rows, split=options.split, limit=options.prompts,
            accept=options.accept, hard=options.hard, device=options.device, reward="quality", **settings,
        )
    )  # fmt: skip


def ends_of(options: Options, policy: Policy, env: Recorded) -> Ends:
    """Both ends of the gap, (prompts,) each: of the original student if there is one, else of the one that plays.

    Args:
        options: with a task, see `scripts.runs.settled`. env: where the policy plays.
    """
    if options.original is not None:
        teacher = options.teacher or str(shipped_pair(options.task).teacher)
        env = environment(replace(options, student=options.original, teacher=teacher), policy)
    return play_ends(env.env, np.arange(len(env.task.prompts)))


def evaluate(options: Options) -> list[Row]:
    """A row for each policy and rule."""
    for rule in options.rule:
        parse(rule)  # a rule that can't be read is refused before anything is loaded
    loaded = [(name, read_policy(name)) for name in options.policy]
    rows: list[Row] = []
    known: dict[tuple[str | bool | None, ...], Ends] = {}
    with tqdm(total=len(loaded) * len(options.rule), unit="rule", desc="held-out prompts") as bar:
        for name, policy in loaded:
            own = settled(options, name)
            env = environment(own, policy)
            for rule in options.rule:
                env.game.budget.check(parse(rule))  # nor can time and money be limited that aren't measured
                if isinstance(policy, policies.AskToken) and env.pair.reads_rules:
                    policy.check_told(parse(rule))
            prompts = np.arange(len(env.task.prompts))
            asked = (own.original, env.pair.name, own.task, own.data, own.metric, own.template, own.chat)
            if asked not in known:
                known[asked] = ends_of(own, policy, env)
            for rule in options.rule:
                played = play(env, policy, prompts, rule, options.seed, not options.sampled)
                kind = "learned" if hasattr(policy, "network") else "heuristic"
                rows.append(make_row(env, played, known[asked], rule, agent=name, kind=kind, seed=options.seed))
                rows[-1]["original"] = own.original
                rows[-1]["corpus"] = corpus_scores(own.task, env.task, played.texts)
                bar.update(1)
    return rows


def corpus_scores(task: str, prompts: Any, texts: list[str]) -> dict[str, str]:
    """Scores of all texts together, as papers report them, with their signatures; none for the pronunciation task."""
    names = CORPUS.get(task, (getattr(prompts, "metric", None),))
    return {name: str(corpus(name, texts, prompts.references)) for name in names if name is not None}


def lines(rows: list[Row]) -> list[tuple[str, ...]]:
    """The table's cells, its head first."""
    table: list[tuple[str, ...]] = [SHOWN]
    for row in rows:
        gap, low, high = (row["recovered_gap" + end] for end in ("", "_low", "_high"))
        table.append((
            row["agent"], row["rule"], f"{row['calls_per_token']:.3f}", f"{row['quality']:.3f}",
            "-" if gap is None else f"{gap:.0%}", "-" if low is None else f"{low:.0%} to {high:.0%}",
            f"{row['within_rule']:.0%}", "-" if row["latency_ms"] is None else f"{row['latency_ms']:.1f}",
        ))  # fmt: skip
    return table


def main(options: Options) -> None:
    """Evaluate, print, write."""
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = evaluate(options)
    names = ("prompts", "student_quality", "teacher_quality", "original")
    ends = {row["agent"]: tuple(row[name] for name in names) for row in rows}
    for agent, (prompts, student, teacher, original) in (
        ends.items() if len(set(ends.values())) > 1 else [*ends.items()][:1]
    ):
        whose = f"{agent}: " if len(set(ends.values())) > 1 else ""
        which = "student" if original is None else "original student, from which the gap is recovered,"
        print(
            f"{whose}{prompts} prompts; quality of the {which} alone {student:.3f}, of the teacher alone {teacher:.3f}"
        )
    table = lines(rows)
    widths = [max(len(cells[column]) for cells in table) for column in range(len(SHOWN))]
    for cells in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    for row in rows:
        for name, score in row["corpus"].items():
            print(f"{row['agent']}, {row['rule']}: {name} of the corpus {score}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    run(main, Options, __doc__)
