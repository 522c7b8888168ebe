"""Whether a text pair is fit to be shipped, and the model cards that say what it is."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from scripts.debian_data import METRICS
from scripts.text_pair import COPIED, COPYING, MAIN, TOOK, ModelRecipe, evaluate
from tw_env.tasks.metrics import CorpusScore
from tw_env.tasks.prepared import META
from tw_env.tasks.text import TextPairs

ABOVE = 0.05  # how far the teacher's score must be above that of a trivial output
BELOW = 0.04  # how far the student's must be below the teacher's
TAUGHT = {
    "teacher": "the references, one of them drawn per epoch",
    "student": "the teacher's greedy outputs (sequence-level distillation)",
}

CARD = """---
library_name: transformers
language: [{languages}]
tags: [{task}]
---
# {title} of the task `{task}`

{what} T5-type encoder-decoder with gated feed-forward layers, {encoder_layers} encoder and {decoder_layers} decoder
layer(s), width {width}, {heads} heads, {parameters:,} parameters ({hidden:,} without the embeddings), weights in half
precision. The tokenizer, byte-pair encoding with {vocabulary:,} tokens trained on the part `pair`, is the same for both
models; what has no token is written as bytes, so rules in words can be read, but nothing was trained on them.

Fitted from scratch on {prompts:,} prompts of `pair`, targets: {taught}; {steps:,} updates of {batch_size} prompts
({epochs} epochs){copied}, {optimizer}, moving average of the weights, {cpu_minutes} processor minutes, seed {seed}.

| greedy, stored weights | {columns} | nats per token |
|---|{rules}---|
{rows}

Scores of the whole part in percent, signatures: {signatures}.
Nats per token: of the first reference, end token included. {trivial}: needs no model.

Data: package descriptions of {releases}, as apt downloads them, split by source package; {counts} prompts.
{licence} The texts themselves are not part of this folder. SHA-256 of the parts:

{hashes}

Made by

    python -m scripts.prepare debian {prepare}
    {command}
"""


@dataclass(frozen=True)
class Judged:
    """Scores of a model's greedy outputs and its nats per token, part by part."""

    scores: dict[str, dict[str, CorpusScore]]
    nats: dict[str, float]


def judged(folder: Path, parts: dict[str, TextPairs], task: str) -> Judged:
    """Greedy evaluation of the weights as they are stored."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {part: evaluate(model, tokenizer, data, METRICS[task]) for part, data in parts.items()}
    return Judged(
        {part: scores for part, (scores, _) in found.items()}, {part: nats for part, (_, nats) in found.items()}
    )


def complaints(task: str, teacher: Judged, student: Judged, trivial: dict[str, dict[str, float]]) -> list[str]:
    """Why the pair should not be shipped, from its scores on dev; empty if it should.

    Args:
        trivial: part -> metric -> score of outputs that need no model.
    """
    metric = MAIN[task]
    own, small = (model.scores["dev"][metric].score for model in (teacher, student))
    found = []
    if own < trivial["dev"][metric] + ABOVE:
        found.append(
            f"expected the teacher at least {ABOVE} above the trivial {metric} of {trivial['dev'][metric]:.3f} on dev, "
            f"got {own:.3f}: train it longer (--teacher-steps)"
        )
    if small > own - BELOW:
        found.append(
            f"expected the student at least {BELOW} below the teacher's {metric} of {own:.3f} on dev, got {small:.3f}: "
            "train the teacher longer, or the student less (--student-steps)"
        )
    return found


def ship(pair: Path, folder: Path) -> None:
    """Copy `pair/ROLE/model` of both roles to `folder/ROLE`."""
    for role in ("student", "teacher"):
        shutil.rmtree(folder / role, ignore_errors=True)
        shutil.copytree(pair / role / "model", folder / role)


def write_card(
    folder: Path,
    recipe: ModelRecipe,
    model: Judged,
    trivial: dict[str, dict[str, float]],
    meta: dict[str, Any],
    command: str,
    copying: bool,
) -> None:
    """Write README.md beside the stored weights; `meta` is of the prepared data, `copying`: whether that came first."""
    task, languages = meta["task"], meta["languages"]
    took = json.loads((folder.parent / TOOK).read_text(encoding="utf-8"))
    copied = ""
    if copying:
        before = json.loads((folder.parent / COPYING / TOOK).read_text(encoding="utf-8"))
        copied = f" after {before['steps']} in which it copied the first {COPIED} tokens of its prompts"
        took["cpu_minutes"] = round(took["cpu_minutes"] + before["cpu_minutes"], 1)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    parameters = AutoModelForSeq2SeqLM.from_pretrained(folder).num_parameters()
    metrics = METRICS[task]
    rows = []
    for part, scores in model.scores.items():
        count = f"{part} ({meta['prompts'][part]:,})"
        rows.append(_row(f"{recipe.role}, {count}", [scores[name].score for name in metrics], model.nats[part]))
        rows.append(_row(f"{meta['trivial']['what']}, {count}", [trivial[part][name] for name in metrics], None))
    signatures = {name: next(iter(model.scores.values()))[name].signature for name in metrics}
    direction = f"Translates package descriptions from {languages[0]} to {languages[-1]}."
    card = CARD.format(
        languages=", ".join(languages),
        title=recipe.role.capitalize(),
        task=task,
        what=direction if task == "translate" else "Writes the headline of a package description.",
        encoder_layers=recipe.encoder_layers,
        decoder_layers=recipe.decoder_layers,
        width=recipe.width,
        heads=recipe.heads,
        parameters=parameters,
        hidden=parameters - config["vocab_size"] * recipe.width,
        vocabulary=config["vocab_size"],
        taught=TAUGHT[recipe.role],
        batch_size=recipe.training.batch_size,
        optimizer="Muon and AdamW" if recipe.training.muon else "AdamW",
        seed=recipe.training.seed,
        columns=" | ".join(metrics),
        rules="---|" * len(metrics),
        rows="\n".join(rows),
        signatures="; ".join(f"{name} `{signature}`" for name, signature in signatures.items()),
        trivial=str(meta["trivial"]["what"]).capitalize(),
        releases="; ".join(meta["releases"]),
        counts=", ".join(f"{part} {count:,}" for part, count in meta["prompts"].items()),
        licence=meta["licence"],
        hashes="\n".join(f"    {digest}  {name}" for name, digest in meta["sha256"].items()),
        prepare="--task summarize" if task == "summarize" else f"--pair {'-'.join(languages)}",
        command=command,
        copied=copied,
        **took,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _row(name: str, scores: list[float], nats: float | None) -> str:
    cells = [f"{100 * score:.2f}" for score in scores] + ["" if nats is None else f"{nats:.3f}"]
    return f"| {name} | {' | '.join(cells)} |"


def read_meta(folder: Path) -> dict[str, Any]:
    """What `scripts.prepare debian` wrote beside the parts.

    Raises:
        FileNotFoundError: not there, so the parts weren't prepared by it.
    """
    path = folder / META
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected {path}, which `python -m scripts.prepare debian` writes and model cards quote; found none. "
            "Prepare the data again."
        )
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
