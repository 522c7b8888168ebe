"""Would it pay to let this student ask this teacher? What is known before anything is trained.

    python -m scripts.assess
    python -m scripts.assess --student my/small --teacher my/big --data my.jsonl --metric chrf
    python -m scripts.assess --task summarize --split test --student my/small --teacher my/big

Measured are the quality of both models, how often they differ, how far simple thresholds and an oracle get, and what
each would cost in teacher calls and in modelled time at batch 1.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import tw_env
from agents.assessment import Assessment, Point, assess
from agents.recording import Recorded
from scripts.command import run
from tw_env.costs import LatencyTable
from tw_env.decoding.latency import measure
from tw_env.settings import Settings, encode_prompts, load_models, load_task

WORTHWHILE = 0.01  # a smaller gain in quality is not worth a second model
MOST = 0.9  # of the gap: what a policy should recover


@dataclass
class Options:
    """Assess a pair of models on data."""

    task: Literal["pronounce", "translate", "summarize", "text"] = "text"
    """Which task; it decides what models read, and what plays where no data or no models are named."""
    student: str | None = None
    """Folder or hub id of the student; None takes the pair that ships."""
    teacher: str | None = None
    """Folder or hub id of the teacher."""
    data: str | None = None
    """JSONL with `prompt` and `reference`, or a `datasets` name; None takes the task's own, for text the sample that
    ships."""
    split: str | None = None
    """Part of the data; None takes all, or the policy part of the task's own."""
    metric: str | None = None
    """chrf, bleu, rouge1, rouge2, rougeL, exact or edit; None: exact (text), chrf (translate), rougeL (summarize)."""
    template: str | None = None
    """What models read, with {text} where the text goes; None leaves the wording to the task."""
    chat: bool = False
    """Write each prompt as a user's turn in the tokenizer's chat template."""
    prompts: int = 500
    """At most so many prompts."""
    max_new_tokens: int | None = None
    """Cap on new tokens."""
    points: int = 8
    """Points of each frontier."""
    rows: int = 64
    """Rows of the batched game."""
    out: Path | None = None
    """JSON file for the numbers."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 1
    """Torch's threads; 0 leaves the default."""


def main(options: Options) -> None:
    """Measure and print."""
    if options.threads:
        torch.set_num_threads(options.threads)
    given: dict[str, Any] = {
        "student": options.student, "teacher": options.teacher, "device": options.device, "data": options.data,
        "split": options.split, "metric": options.metric, "template": options.template, "chat": options.chat,
        "limit": options.prompts, "max_new_tokens": options.max_new_tokens,
    }  # fmt: skip
    settings = Settings(task=options.task, **given)
    pair, task = load_models(settings), load_task(settings)
    lengths = [
        len(ids) for ids in encode_prompts(task, pair, options.max_new_tokens or task.max_new_tokens, options.chat)
    ]
    table = measure(pair, prompt=int(np.median(lengths)))
    id_ = f"{tw_env.__name__}/{options.task.capitalize()}Verify-v0"
    env = tw_env.make_vec(id_, options.rows, latency=table, reward="quality", **given)
    found = assess(Recorded(env), np.arange(len(env.task.prompts)), options.points)
    print_table(found, table, getattr(env.task, "metric", "exact"))
    print("\n" + verdict(found))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"latency": asdict(table), **asdict(found)}, indent=2) + "\n")


def print_table(found: Assessment, table: LatencyTable, metric: str) -> None:
    """All points, with the recovered share of the gap."""
    print(f"{found.prompts} prompts, metric {metric}; measured at batch 1: a student step {table.student_ms:.2f} ms,")
    print(f"a teacher call {table.teacher_ms:.2f} ms and {table.teacher_ms_per_token:.3f} ms for each further token.")
    if table.teacher_prompt_ms:
        print(f"Once a text their encoders take {table.student_prompt_ms:.2f} and {table.teacher_prompt_ms:.2f} ms.")
    print(
        f"The two models' choices differ at {found.tokens_differ:.1%} of the tokens, in {found.outputs_differ:.0%} of "
        "the outputs.\n"
    )
    print(f"{'':42}{'quality':>9}{'recovered':>11}{'calls/token':>13}{'ms/output':>11}")
    sections = (
        ("", [found.student, found.teacher, found.drafted]),
        ("thresholds, asking", found.asking),
        ("thresholds, verifying at the end", found.verifying),
        ("oracle, asks where it helps most", found.oracle),
    )
    for title, points in sections:
        if title:
            print(title)
        for point in points:
            share = recovered(found, point)
            shown = "-" if share is None else f"{share:.0%}"
            ms = "-" if point.milliseconds is None else f"{point.milliseconds:.1f}"
            print(f"  {point.name:40}{point.quality:9.3f}{shown:>11}{point.calls_per_token:13.3f}{ms:>11}")


def recovered(found: Assessment, point: Point) -> float | None:
    """Share of the gap; None where there is none."""
    gap = found.teacher.quality - found.student.quality
    return None if abs(gap) < 1e-12 else (point.quality - found.student.quality) / gap


def verdict(found: Assessment) -> str:
    """In plain words: whether it would pay, and for what."""
    gap = found.teacher.quality - found.student.quality
    if gap < WORTHWHILE:
        return (
            f"It would not pay: the teacher's quality is only {gap:+.3f} against the student's. Use the student alone, "
            "or a better teacher."
        )
    wanted = found.student.quality + MOST * gap
    simple = cheapest(found.asking + found.verifying, wanted)
    ideal = cheapest(found.oracle, wanted)
    lines = [f"There is something to gain: {gap:+.3f} in quality, if the teacher helps."]
    if simple is None:
        lines.append(f"No threshold tried here recovers {MOST:.0%} of it below the calls of the teacher alone.")
    else:
        saved = 1 - simple.calls_per_token / max(found.drafted.calls_per_token, 1e-9)
        lines.append(
            f"A simple threshold ({simple.name}) recovers {recovered(found, simple):.0%} of it at "
            f"{simple.calls_per_token:.3f} teacher "
            f"calls per token; lossless speculative decoding needs {found.drafted.calls_per_token:.3f}"
            + (f", so {saved:.0%} of its calls are saved." if saved > 0 else ", which is no more: prefer it.")
        )
    if ideal is not None:
        lines.append(
            f"Who knew beforehand where to ask would recover {recovered(found, ideal):.0%} at "
            f"{ideal.calls_per_token:.3f}: that is a policy's room."
        )
    lines.append(_about_time(found, simple))
    return "\n".join(lines)


def cheapest(points: list[Point], quality: float) -> Point | None:
    """The point with the fewest calls among those of at least this quality."""
    enough = [point for point in points if point.quality >= quality - 1e-12]
    return min(enough, key=lambda point: point.calls_per_token) if enough else None


def _about_time(found: Assessment, simple: Point | None) -> str:
    teacher = found.teacher.milliseconds
    best = min((p for p in (simple, found.drafted) if p is not None), key=lambda p: p.milliseconds or 0.0)
    if teacher is None or best.milliseconds is None:
        return "Time: unknown without a latency table."
    if best.milliseconds >= teacher:
        return (
            f"Time: no gain at batch 1: {best.milliseconds:.1f} ms for an output against {teacher:.1f} ms of the "
            "teacher alone; the teacher is not slow enough beside this student."
        )
    return (
        f"Time at batch 1: {best.milliseconds:.1f} ms for an output ({best.name}) against {teacher:.1f} ms of the "
        f"teacher alone, {teacher / best.milliseconds:.1f} times as fast."
    )


if __name__ == "__main__":
    run(main, Options, __doc__)
