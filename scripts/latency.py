"""Latency at batch 1 by the clock: every policy and transformers' assisted generation, and what quality it buys.

python -m scripts.latency
python -m scripts.latency --policy runs/gate/policy --joint runs/joint --draft 2 4 8
python -m scripts.latency --task translate --student my/small --teacher my/big --data en-it
python -m scripts.latency --task translate --redraw
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from agents.evaluation import Ends, Played, Row, play, play_ends, recovered_gap
from scripts.clock import DEFAULTS, Generated, Output, Timed, counted, modelled, race, side_by_side
from scripts.command import run
from scripts.contenders import Contender, Field, drafts, frontiers, lossy, oracle
from scripts.latency_picture import picture
from tw_env.costs import LatencyTable
from tw_env.decoding.latency import measure

HERE = f"{Path(__file__).resolve().parent.parent}/"  # rows are published, and where a clone lies is nobody's business
TIES = 0.01  # share of prompts whose texts may differ: two best logits closer than rounding
BATCHED = "batched"  # kind of rows of several texts at a time
SIDE_BY_SIDE = 64  # prompts that are written several at a time
NEAR = 0.15  # of the clock: how well the latency model should do
SHOWN = ("policy", "rule", "recovered", "calls/token", "ms/output", "wall ms", "tokens/s", "model/clock")


@dataclass
class Options:
    """Measure latency at batch 1 against quality."""

    task: Literal["pronounce", "translate", "summarize", "text"] = "pronounce"
    """Which task."""
    out: Path = Path("results")
    """Folder of latency-TASK.json and latency-TASK.png."""
    prompts: int = 600
    """Held-out prompts on which quality is measured, in batches; the first of the test split."""
    timed: int = 60
    """How many of them are written one by one by the clock."""
    rounds: int = 3
    """How often each of those is written by each policy; medians count."""
    calibration: int = 1000
    """Prompts of the policy split on which the cuts of thresholds are found."""
    drafted: int = 20
    """Prompts of the policy split on which the fastest draft length is found."""
    side_by_side: tuple[int, ...] = (1, 8, 64)
    """How many texts speculative decoding with the fastest drafts writes at a time, on the first 64 prompts: what
    assisted generation can't do."""
    draft: tuple[int, ...] = (2, 4, 8)
    """Draft lengths of speculative decoding, besides the whole rest of the text."""
    accept: tuple[str, ...] = ("probability:0.3", "probability:0.1", "distance:1", "distance:3")
    """Lossy speculative decoding: which pending tokens VERIFY keeps, with the fastest draft length."""
    limit: tuple[float, ...] = (0.03, 0.05, 0.1, 0.15, 0.2)
    """Rules of frontiers: calls per token. Policies that were learned for time are told the limits of their cuts."""
    policy: tuple[str, ...] = ()
    """Folders of saved policies, or names of shipped ones; the task's shipped gates play where its pair does."""
    joint: tuple[Path, ...] = ()
    """Folders that scripts.joint wrote, each with a student that reads its rule and asks by itself."""
    student: str | None = None
    """Folder or hub id of the student; None takes the pair that ships."""
    teacher: str | None = None
    """Folder or hub id of the teacher."""
    data: str | None = None
    """JSONL with `prompt` and `reference`, or a `datasets` name; for translate also two languages: en-it."""
    metric: str | None = None
    """chrf, bleu, rouge1, rouge2, rougeL, exact or edit; None: exact (text), chrf (translate), rougeL (summarize)."""
    template: str | None = None
    """What models read, with {text} where the text goes; None leaves the wording to the task."""
    chat: bool = False
    """Write each prompt as a user's turn in the tokenizer's chat template."""
    max_new_tokens: int | None = None
    """Cap on new tokens; None takes the task's."""
    rows: int = 256
    """Rows of the batched game in which quality is measured."""
    seed: int = 0
    """Seed of play."""
    device: str = "cpu"
    """auto, cpu or cuda. On a processor, time is that of the process, on a GPU the clock's."""
    threads: int = 1
    """Torch's threads."""
    redraw: bool = False
    """Only tell and draw again what stands in latency-TASK.json."""


@dataclass
class Run:
    """What rows are measured against."""

    field: Field
    ends: Ends
    timed: list[int]  # prompts under the clock
    table: LatencyTable  # of the latency model


def outside(field: Field, prompts: Any, lengths: tuple[int, ...]) -> dict[str, Generated]:
    """transformers' own ways to write the same texts, by name."""
    names = {f"assisted-{length or 'rest'}": length or field.cap for length in lengths} | {"assisted": DEFAULTS}
    writers = {name: Generated(field.pair, prompts, field.cap, draft) for name, draft in names.items()}
    alone = {f"generate-{who}": Generated(field.pair, prompts, field.cap, None, who) for who in ("student", "teacher")}
    return {**writers, **alone}


def fastest_draft(field: Field, options: Options) -> int:
    """The draft length that is fastest on prompts of the policy split; 0 is the whole rest."""
    lengths = (*options.draft, 0)
    prompts = field.encoded("policy", options.drafted)
    writers = {one.name: one.writer(prompts) for one in drafts(field, lengths)}
    times = race(writers, range(len(prompts)), options.rounds, field.device)
    total = {length: times[f"speculative-{length or 'rest'}"].chosen(field.device.type).sum() for length in lengths}
    return min(total, key=lambda length: total[length])


def calibrated(field: Field, options: Options) -> LatencyTable:
    """The latency model of this pair on this machine, for prompts of the usual length."""
    prompt = int(np.median([len(ids) for ids in field.encoded("policy", 200)]))
    unread = tuple(size for size in (1, 2, 4, 8, 16) if size <= field.cap)
    clock = time.perf_counter if field.device.type == "cuda" else time.process_time  # as policies are timed
    return measure(field.pair, prompt=prompt, unread=unread, rounds=max(10 * options.rounds, 1), clock=clock)


def check_same(timed: dict[str, list[Output]], ours: str, theirs: str, calls_too: bool = True) -> int:
    """How many prompts' texts or calls differ between two lossless ways to write them.

    Args:
        calls_too: whether calls must agree as texts must. With an encoder-decoder, what transformers drafts behind its
            first draft is not always the student's own greedy choice, so that it may call more or less often.

    Raises:
        RuntimeError: more than ties can explain.
    """
    pairs = list(zip(timed[ours], timed[theirs], strict=True))
    texts = sum(one.tokens != other.tokens for one, other in pairs)
    either = sum((one.tokens, one.calls) != (other.tokens, other.calls) for one, other in pairs)
    if (either if calls_too else texts) > TIES * len(pairs):
        raise RuntimeError(
            f"Expected the same texts and teacher calls of {ours} and transformers' {theirs}, got {either} of "
            f"{len(pairs)} prompts that differ, {texts} of them in their texts."
        )
    return either


def quality_row(contender: Contender, played: Played, ends: Ends) -> Row:
    """What a policy's texts are worth, on all prompts."""
    outcomes = played.outcomes
    gap = recovered_gap(outcomes.quality, ends)
    return {
        "policy": contender.name, "kind": contender.kind, "rule": contender.words, "accept": contender.accept,
        "quality": float(outcomes.quality.mean()), "recovered_gap": gap.value, "recovered_gap_low": gap.low,
        "recovered_gap_high": gap.high, "calls_per_token": float(outcomes.calls.sum() / outcomes.tokens.sum()),
        "prompts": len(outcomes.quality),
    }  # fmt: skip


def outside_row(name: str, outputs: list[Output], run_: Run) -> Row:
    """The same of a text that transformers wrote, on the timed prompts."""
    task, tokenizer = run_.field.task, run_.field.pair.tokenizer
    texts = [tokenizer.decode(list(one.tokens), skip_special_tokens=True) for one in outputs]
    quality = np.array([task.quality(prompt, text) for prompt, text in zip(run_.timed, texts, strict=True)], float)
    gap = recovered_gap(quality, Ends(run_.ends.student[run_.timed], run_.ends.teacher[run_.timed]))
    calls, tokens = (sum(numbers) for numbers in zip(*((one.calls, len(one.tokens)) for one in outputs), strict=True))
    return {
        "policy": name, "kind": "outside", "rule": "", "accept": "exact", "quality": float(quality.mean()),
        "recovered_gap": gap.value, "recovered_gap_low": gap.low, "recovered_gap_high": gap.high,
        "calls_per_token": calls / tokens, "prompts": len(quality),
    }  # fmt: skip


def clock_row(outputs: list[Output], times: Timed, run_: Run, modelled_too: bool) -> Row:
    """What the clock says; means per output. The model of latency is of our own decoding with this pair alone."""
    seconds, ms = times.chosen(run_.field.device.type), 1e3 * times.chosen(run_.field.device.type).mean()
    latency_ms = float(modelled(run_.table, outputs).mean()) if modelled_too else None
    return {
        "tokens_per_second": float(sum(len(one.tokens) for one in outputs) / seconds.sum()),
        "clock_ms": float(ms), "wall_ms": float(1e3 * times.wall.mean()), "cpu_ms": float(1e3 * times.cpu.mean()),
        "latency_ms": latency_ms, "model_over_clock": None if latency_ms is None else latency_ms / float(ms),
        "teacher_calls": float(np.mean([one.calls for one in outputs])),
        "student_calls": float(np.mean([one.steps for one in outputs])),
        "timed": len(outputs),
    }  # fmt: skip


def latency(options: Options) -> list[Row]:
    """All rows."""
    field = Field.open(options)
    print(f"pair {field.pair.name}")
    field.table = model = calibrated(field, options)
    best = fastest_draft(field, options)
    print(f"latency model: {model}; the fastest draft on the policy split: {best or 'the whole rest'}")
    contenders = [
        *field.ends(), oracle(field), *drafts(field, (*options.draft, 0)), *lossy(field, best, options.accept),
        *frontiers(field, options),
    ]  # fmt: skip
    prompts = field.encoded(field.split, options.prompts)
    timed = np.unique(np.linspace(0, len(prompts) - 1, min(options.timed, len(prompts))).astype(int)).tolist()
    run_ = Run(field, play_ends(field.env.env, np.arange(len(prompts)), options.seed), timed, model)
    rows: dict[str, Row] = {}
    for one in tqdm(contenders, unit="policy", desc="quality"):
        played = play(one.env, one.policy, np.arange(len(prompts)), one.rule, options.seed, words=one.told)
        rows[one.key] = quality_row(one, played, run_.ends)
    writers: dict[str, Any] = {one.key: one.writer(prompts) for one in contenders}
    references = outside(field, prompts, (*options.draft, 0))
    writers |= references
    with tqdm(total=len(timed), unit="prompt", desc="clock") as bar:
        times = race(writers, timed, options.rounds, field.device, lambda: bar.update(1))
    outputs = {name: one.outputs for name, one in times.items()}
    for name, writer in references.items():  # they keep no account of their own
        outputs[name] = [counted(writer, field.pair, prompt)[0] for prompt in timed]
    for length in (*options.draft, 0):
        names = f"speculative-{length or 'rest'}", f"assisted-{length or 'rest'}"
        differing = check_same(outputs, *names, calls_too=not field.pair.encoder_decoder)
        print(f"{names[0]} and {names[1]}: {differing} of {len(timed)} prompts differ in text or calls")
    for name in references:
        rows[name] = outside_row(name, outputs[name], run_)
    facts = {
        "task": field.task.name, "pair": field.pair.name.replace(HERE, ""),
        "device": str(field.device), "threads": options.threads,
        "clock": "wall" if field.device.type == "cuda" else "process CPU time",
        "table": asdict(model), "machine": f"{platform.machine()}, torch {torch.__version__}",
    }  # fmt: skip
    fastest = f"speculative-{best or 'rest'}"
    batches = batched(field, next(one for one in contenders if one.key == fastest), options.side_by_side, prompts)
    others = ("outside", "joint")  # a student of its own, which reads rules, has another table
    return [
        {**row, **clock_row(outputs[name], times[name], run_, row["kind"] not in others), **facts}
        for name, row in rows.items()
    ] + [{**rows[fastest], **batch, **facts} for batch in batches]


def batched(field: Field, drafting: Contender, sizes: tuple[int, ...], prompts: list[tuple[int, ...]]) -> list[Row]:
    """Of speculative decoding of several texts at a time: how many, and what the clock says."""
    some, found = prompts[:SIDE_BY_SIDE], []
    for rows in sizes:
        seconds, tokens = side_by_side(field.pair, drafting.policy, some, field.cap, drafting.rule, rows)
        cpu, wall = 1e3 * seconds / len(some)
        chosen = wall if field.device.type == "cuda" else cpu
        found.append({
            "kind": BATCHED, "rows": rows, "tokens_per_second": 1e3 * tokens / (chosen * len(some)),
            "clock_ms": float(chosen), "wall_ms": float(wall), "cpu_ms": float(cpu), "latency_ms": None,
            "model_over_clock": None, "teacher_calls": None, "student_calls": None, "timed": len(some),
        })  # fmt: skip
    return found


def read_rows(path: Path) -> list[Row]:
    """What an earlier run wrote.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected rows of an earlier run in {path} to redraw, found none; leave out --redraw.")
    rows: list[Row] = json.loads(path.read_text())
    return rows


# ---- what is told ----------------------------------------------------------------------------------------------


def reached(rows: list[Row], share: float, kinds: tuple[str, ...]) -> tuple[str, float] | None:
    """The policy of these kinds that recovers so much of the gap soonest, and its milliseconds per output."""
    enough = [row for row in rows if row["kind"] in kinds and (row["recovered_gap"] or 0.0) >= share]
    best = min(enough, key=lambda row: row["clock_ms"], default=None)
    return None if best is None else (f"{best['policy']} {best['rule']}".strip(), float(best["clock_ms"]))


def summary(rows: list[Row]) -> list[str]:
    """What the targets ask: against assisted generation, against speculative decoding, and the model's error."""
    alone = [row for row in rows if row["kind"] != BATCHED]
    fastest = {
        name: min((row for row in alone if row["policy"].startswith(name)), key=lambda row: row["clock_ms"])
        for name in ("speculative", "assisted")
    }  # fmt: skip
    ours, theirs = fastest["speculative"], fastest["assisted"]
    taught = next(row for row in rows if row["policy"] == "generate-teacher")
    said = [
        f"fastest lossless: {ours['policy']} {ours['clock_ms']:.1f} ms an output; of transformers: {theirs['policy']} "
        f"{theirs['clock_ms']:.1f} ms ({theirs['clock_ms'] / ours['clock_ms']:.2f} times as long); the teacher alone "
        f"{taught['clock_ms']:.1f} ms ({taught['clock_ms'] / ours['clock_ms']:.2f} times)"
    ]
    sizes = [f"{row['rows']}: {row['tokens_per_second']:.0f}" for row in rows if row["kind"] == BATCHED]
    if sizes:
        said.append(f"tokens a second of {ours['policy']} by texts at a time: {', '.join(sizes)}")
    for share in (0.99, 0.9):
        for kinds in (("learned",), ("joint",), ("heuristic", "lossy"), ("oracle",)):
            if not any(row["kind"] in kinds for row in rows):
                continue
            best = reached(rows, share, kinds)
            found = "none" if best is None else f"{best[0]}, {ours['clock_ms'] / best[1]:.2f} times as fast"
            said.append(f"{share:.0%} of the gap, {' or '.join(kinds)}: {found}")
    ratios = [row["model_over_clock"] for row in rows if row["model_over_clock"]]
    near = sum(abs(ratio - 1) <= NEAR for ratio in ratios)
    said.append(
        f"latency model over the clock: {min(ratios):.2f} to {max(ratios):.2f}, median {np.median(ratios):.2f}; within "
        f"{NEAR:.0%} for {near} of {len(ratios)}"
    )
    return said


def table(rows: list[Row]) -> list[tuple[str, ...]]:
    """The cells, their head first."""
    cells: list[tuple[str, ...]] = [SHOWN]
    for row in rows:
        if row["kind"] == BATCHED:
            continue
        gap, ratio = row["recovered_gap"], row["model_over_clock"]
        cells.append((
            row["policy"] + ("" if row["accept"] == "exact" else f" {row['accept']}"), row["rule"],
            "-" if gap is None else f"{gap:.0%}", f"{row['calls_per_token']:.3f}", f"{row['clock_ms']:.1f}",
            f"{row['wall_ms']:.1f}", f"{row['tokens_per_second']:.1f}", "-" if ratio is None else f"{ratio:.2f}",
        ))  # fmt: skip
    return cells


def main(options: Options) -> None:
    """Measure, print, write, draw."""
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    path = options.out / f"latency-{options.task}.json"
    rows = read_rows(path) if options.redraw else latency(options)
    cells = table(rows)
    widths = [max(len(row[column]) for row in cells) for column in range(len(SHOWN))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print("\n".join(summary(rows)))
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.redraw:
        path.write_text(json.dumps(rows, indent=1) + "\n")
    path.with_suffix(".png").write_bytes(picture([row for row in rows if row["kind"] != BATCHED]))
    print(f"{path}, drawn in {path.with_suffix('.png')}")


if __name__ == "__main__":
    run(main, Options, __doc__)
