"""The model cards of a pair that was made of someone else's weights: where they come from, what was done, scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scripts.debian_data import LEAD, METRICS
from scripts.smollm2_pair import SETTINGS, TOOK, judge, read_model, twice
from scripts.smollm2_source import UNKNOWN, Origin
from scripts.text_card import read_meta
from tw_env.decoding.loading import Pair, load_pair
from tw_env.tasks.metrics import CorpusScore, corpus
from tw_env.tasks.prepared import SUMMARIZE, debian_folder
from tw_env.tasks.summarize import WORDING, Summarize
from tw_env.tasks.task import check_task

CARD = """---
library_name: transformers
license: {tag}
language: [en]
tags: [summarize]
---
# {title} of the task `summarize`

Writes the headline of a package description: continues `{wording}`. {model_type} type, {layers} layers, width {width},
{parameters:,} parameters ({hidden:,} without the embeddings), weights in half precision.

**Weights.** {source}. Licence of the weights: {licence}.

**Changes.** {changes}

| greedy, stored weights, {count} prompts of test | {columns} |
|---|{rules}
{rows}

Scores in percent, signatures: {signatures}. The first {lead} words need no model.

**Data.** Package descriptions of {releases}, as apt downloads them, split by source package. The texts themselves are
not part of this folder. SHA-256 of the parts:

{hashes}

Made by

    python -m scripts.prepare debian --task summarize
    {command}
"""


def write_cards(folders: Mapping[str, Path], origin: Origin, limit: int, device: torch.device, command: str) -> None:
    """Judge the stored weights of both roles on test, check that they are a pair, and write README.md beside each.

    Args:
        folders: of the models, by role. limit: prompts of test. command: what makes the models again.

    Raises:
        FileNotFoundError: the data weren't made by `scripts.prepare debian`. ValueError: the two are no pair.
    """
    meta, task = read_meta(debian_folder(SUMMARIZE)), check_task(Summarize(split="test", limit=limit))
    load_pair(str(folders["student"]), str(folders["teacher"]), device="cpu", dtype="float16")
    leads = [" ".join(text.split()[:LEAD]) for text in task.prompts]
    rows = {f"first {LEAD} words": {name: corpus(name, leads, task.references) for name in METRICS[SUMMARIZE]}}
    pairs: dict[str, Pair] = {}
    for role, folder in folders.items():
        pairs[role] = pair = twice(read_model(str(folder), device), str(folder))
        rows[role] = judge(pair.student, pair, task, METRICS[SUMMARIZE])
        print(f"{role}, test: " + ", ".join(f"{name} {score}" for name, score in rows[role].items()), flush=True)
    for role, folder in folders.items():
        facts = about(pairs[role], folder.parent, role, origin)
        card = CARD.format(
            title=role.capitalize(), wording=WORDING.causal.replace("\n", "\\n"), lead=LEAD, command=command,
            columns=" | ".join(METRICS[SUMMARIZE]), rules="---|" * len(METRICS[SUMMARIZE]),
            rows="\n".join(row(name, scores) for name, scores in rows.items()),
            signatures="; ".join(f"{name} `{score.signature}`" for name, score in rows[role].items()),
            releases="; ".join(meta["releases"]), count=f"{len(task.prompts):,}",
            hashes="\n".join(f"    {digest}  {name}" for name, digest in meta["sha256"].items()), **facts,
        )  # fmt: skip
        (folder / "README.md").write_text(card, encoding="utf-8")


def about(pair: Pair, work: Path, role: str, origin: Origin) -> dict[str, Any]:
    """What the card says of a model, its source and its training, which left its records in `work`."""
    config, took = pair.student.config, json.loads((work / TOOK).read_text(encoding="utf-8"))
    settings = json.loads((work / SETTINGS).read_text(encoding="utf-8"))
    parameters = pair.student.num_parameters()
    if role == "teacher":
        changes = "Converted to half precision, nothing else."
        if took["steps"]:
            changes = (
                f"Fine-tuned, all weights, on `pair` ({took['prompts']:,} prompts with references): {took['steps']:,} "
                f"updates of {settings['batch_size']} prompts"
            )
    else:
        changes = (
            f"Layers {', '.join(map(str, settings['layers']))} of the teacher, counted from 0, with its embeddings; "
            f"distilled from the teacher's distributions (forward KL) at its greedy texts for {took['prompts']:,} "
            f"prompts of `pair`: {took['steps']:,} updates of {settings['batch']} prompts"
        )
    if took["steps"]:
        changes += (
            f", AdamW at {settings['learning_rate']:g}, moving average of the weights, {took['cpu_minutes']} processor "
            f"minutes, seed {settings['seed']}."
        )
    inside = f", file `{origin.file}`" if origin.file else ""
    return {
        "tag": origin.licence.lower() if origin.licence != UNKNOWN else "other",
        "licence": origin.licence,
        "source": f"From {origin.source}{inside}" + (f", SHA-256 `{origin.sha256}`" if origin.sha256 else ""),
        "changes": changes,
        "model_type": config.model_type.capitalize(),
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "parameters": parameters,
        "hidden": parameters - pair.student.get_input_embeddings().weight.numel(),
    }


def row(name: str, scores: Mapping[str, CorpusScore]) -> str:
    """A line of the card's table."""
    return f"| {name} | " + " | ".join(f"{100 * score.score:.2f}" for score in scores.values()) + " |"
