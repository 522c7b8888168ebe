"""Translation and summarisation data of the user's own Debian or Ubuntu machine: four parts, with counts and hashes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scripts.debian_index import Descriptions, fetch
from scripts.debian_texts import KINDS, Example, alike, family, summaries, translations
from tw_env.tasks.metrics import corpus
from tw_env.tasks.prepared import META, SPLITS, SUMMARIZE, data_home, debian_folder
from tw_env.tasks.text import part_of as hashed_part
from tw_env.tasks.translate import language_pair

SHARES = {"pair": 0.78, "policy": 0.10, "dev": 0.04, "test": 0.08}
"""Expected shares of the families of source packages; what is found in several parts counts to the first of them."""
MOST = 20  # texts of a kind from one family, outside of pair: one package in a hundred variants is no hundred texts
LEAD = 8  # words that the trivial summary takes
METRICS = {"translate": ("chrf", "bleu"), SUMMARIZE: ("rouge1", "rouge2", "rougeL")}
_LICENCE = (
    "Descriptions come from the packages and translations from volunteers; the translations carry no explicit licence. "
    "Use them on this machine, do not publish them as a corpus."
)


@dataclass
class Debian:
    """Parallel texts or summaries from the package descriptions that apt downloads, on Debian and Ubuntu machines."""

    task: Literal["translate", "summarize"] = "translate"
    """translate: texts of two languages. summarize: the first paragraph and the headline of English descriptions."""
    pair: str = "en-it"
    """For translate: from and to, by Debian's codes (en-it, en-fr, de-en, en-pt_BR); see the error of a wrong one."""
    kinds: tuple[Literal["synopsis", "paragraph"], ...] = ("synopsis", "paragraph")
    """For translate: headlines, paragraphs, or both."""
    longest: int = 240
    """For translate: most characters of either text."""
    out: Path | None = None
    """Folder to write into; None takes the one where the ids look: TRAINING_WHEELS_DATA or ~/.cache/training-wheels."""

    def run(self) -> None:
        """Download, split, write, and tell what there is."""
        languages = self._languages()
        name = SUMMARIZE if self.task == SUMMARIZE else self.pair
        found = fetch(languages, data_home() / "apt")
        folder = debian_folder(name) if self.out is None else self.out
        meta = build(found, self, languages, folder)
        print("\n".join(report(meta, folder)))

    def _languages(self) -> tuple[str, ...]:
        """From and to; English alone for summaries."""
        if self.longest < 1 or not self.kinds:
            raise ValueError(
                f"Expected --longest of at least 1 character and --kinds out of {', '.join(KINDS)}; got {self.longest} "
                f"and {', '.join(self.kinds) or 'no kind'}."
            )
        if self.task == SUMMARIZE:
            return ("en",)
        languages = language_pair(self.pair)
        if languages is None:
            raise ValueError(f"Expected --pair FROM-TO, two languages like en-it or en-pt_BR; got {self.pair!r}.")
        return languages


def build(found: Descriptions, options: Debian, languages: Sequence[str], folder: Path) -> dict[str, Any]:
    """Write the four parts and `meta.json`, which is also returned; the same indices give the same bytes.

    Raises:
        ValueError: a part would be empty.
    """
    if options.task == SUMMARIZE:
        examples, used = summaries(found, *languages), {}
    else:
        source, target = languages
        examples = translations(found, source, target, options.kinds, options.longest)
        used = {"kinds": list(options.kinds), "longest": options.longest}
    parts = split(examples)
    empty = [part for part in SPLITS if not parts[part]]
    if empty:
        raise ValueError(
            f"Expected texts in every part, but {len(examples)} examples leave {', '.join(empty)} empty. Take another "
            "pair of languages, more kinds or longer texts."
        )
    kept = [example for part in SPLITS for example in parts[part]]
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {f"{part}.jsonl": _write(folder / f"{part}.jsonl", part, parts[part]) for part in SPLITS}
    meta = {
        "task": options.task,
        "languages": list(languages),
        "settings": used,
        "releases": found.releases,
        "prompts": {part: len(parts[part]) for part in SPLITS},
        "references": {part: sum(len(example.targets) for example in parts[part]) for part in SPLITS},
        "kinds": dict(Counter(example.kind for example in kept)),
        "source_packages": len(set().union(*(example.sources for example in kept))),
        "words_per_prompt": round(sum(len(example.text.split()) for example in kept) / len(kept), 1),
        "trivial": trivial(options.task, parts["test"]),
        "licence": _LICENCE,
        "sha256": hashes,
        "indices": dict(sorted(found.hashes.items())),
    }
    (folder / META).write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return meta


def split(examples: Iterable[Example]) -> dict[str, list[Example]]:
    """Examples by part, in an order that says nothing; no two parts share a family of packages' text.

    Texts that differ in case, blanks or numbers only stay together; what packages of several parts have in common goes
    to the first of these, so boilerplate is learnt from and never tested on. Outside of `pair` no family has more than
    `MOST` texts of a kind.
    """
    homes: dict[str, str] = {}
    examples = list(examples)
    for example in examples:
        key = alike(example.text)
        wanted = {part_of(source) for source in example.sources} | {homes.get(key, SPLITS[-1])}
        homes[key] = min(wanted, key=SPLITS.index)
    parts: dict[str, list[Example]] = {part: [] for part in SPLITS}
    crowd: Counter[tuple[str, str]] = Counter()
    for example in sorted(examples, key=lambda example: hashlib.sha256(example.text.encode()).digest()):
        part, group = homes[alike(example.text)], (min(map(family, example.sources)), example.kind)
        crowd[group] += 1
        if part == SPLITS[0] or crowd[group] <= MOST:
            parts[part].append(example)
    return parts


def part_of(source: str) -> str:
    """The part of a source package: a hash of its family's name decides, whatever else there is."""
    return hashed_part(family(source), "debian", SHARES)


def trivial(task: str, examples: Sequence[Example]) -> dict[str, Any]:
    """What needs no model, scored: the source as its translation, the first words as the summary.

    Returns:
        `what`, and for each metric its corpus score in [0, 1] and its signature.
    """
    lead = task == SUMMARIZE
    texts = [" ".join(example.text.split()[:LEAD]) if lead else example.text for example in examples]
    scores: dict[str, Any] = {"what": f"first {LEAD} words" if lead else "copied source"}
    for metric in METRICS[task]:
        result = corpus(metric, texts, [example.targets for example in examples])
        scores[metric] = {"score": round(result.score, 4), "signature": result.signature}
    return scores


def report(meta: dict[str, Any], folder: Path) -> list[str]:
    """Lines that tell what was made."""
    languages = " to ".join(meta["languages"])
    kinds = ", ".join(f"{count} {kind}" for kind, count in meta["kinds"].items())
    lines = [
        f"{meta['task']} ({languages}) in {folder}",
        *(f"from {release}" for release in meta["releases"]),
        f"{sum(meta['prompts'].values())} prompts ({kinds}) of {meta['source_packages']} source packages, "
        f"{meta['words_per_prompt']} words each",
        f"{'part':8}{'prompts':>9}{'references':>12}  sha256",
    ]
    for part in SPLITS:
        counts = f"{meta['prompts'][part]:9}{meta['references'][part]:12}"
        lines.append(f"{part:8}{counts}  {meta['sha256'][f'{part}.jsonl']}")
    trivial = dict(meta["trivial"])
    lines.append(f"on test, the {trivial.pop('what')}:")
    lines += [f"  {name} {100 * found['score']:.2f} ({found['signature']})" for name, found in trivial.items()]
    lines.append(meta["licence"])
    return lines


def _write(path: Path, part: str, examples: Sequence[Example]) -> str:
    """One JSON object a line; returns the file's SHA-256."""
    lines = [
        json.dumps(
            {
                "prompt": example.text,
                "references": example.targets,
                "split": part,
                "kind": example.kind,
                "packages": sorted(example.sources),
            },
            ensure_ascii=False,
        )
        for example in examples
    ]
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()
