"""The task of any pair of models: prompts and references from a JSONL file or `datasets`, and a metric."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tw_env.tasks.metrics import metric as metric_of

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample" / "sample.jsonl"
"""Sixty words of the pronunciation task, in the prompt format of the shipped pair."""
SHARES = {"policy": 0.6, "dev": 0.1, "test": 0.3}
"""The parts, and their expected shares, of data that carry no `split` field."""
_ALIASES = {
    "policy": ("train",),
    "dev": ("validation", "valid", "val"),
    "test": (),
}  # how others name those parts
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


class Record(NamedTuple):
    """One checked record: its place for error messages, prompt, references and split, None if it has none."""

    where: str
    prompt: str
    references: list[str]
    split: str | None


class TextPairs:
    """Prompts, references and a metric for any text-to-text data.

    A record is a JSON object on a line of its own: `prompt` (the text that the models continue), `reference`
    (a string) or `references` (a list of strings), and `split` if the file itself says which part a record
    belongs to. Other fields are ignored. Records with the same prompt become one prompt with all of their
    references.

    Parts: gates are trained and heuristics calibrated on `policy`, choices are made on `dev`, results come
    from `test`; none of them should hold what the two models were fitted on. Where no record carries a
    `split`, a hash of the seed and the prompt says which part it belongs to (shares in `SHARES`), so a prompt
    stays where it is when the file grows or is reordered. Where the records carry one, `policy` also finds
    `train`, and `dev` `validation`.

    Args:
        data: path of a JSONL file; or, with the extra `data` installed, a `datasets` name,
            `name:configuration` if it needs one (a dataset with several splits carries them, one with a
            single split counts as carrying none); or None for the sample that ships.
        split: the part to take; None takes all records.
        metric: name of a metric, see `tw_env.tasks.metrics.metric`.
        max_new_tokens: cap on the tokens of an output.
        limit: keep only the first so many prompts of the part; None keeps all.
        seed: of the split of records that carry none.
        name: what results call this task; by default the data's own name.

    Raises:
        FileNotFoundError: no such file.
        ImportError: the metric or the data need an extra that is not installed.
        ValueError: anything else that is wrong with the data or an argument; the message names the line.
    """

    def __init__(
        self,
        data: str | Path | None = None,
        split: str | None = None,
        metric: str = "edit",
        max_new_tokens: int = 32,
        limit: int | None = None,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        for argument, value in (("max_new_tokens", max_new_tokens), ("limit", 1 if limit is None else limit)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Expected {argument} to be a whole number of at least 1, got {value!r}.")
        self._score = metric_of(metric)
        self.metric = metric
        self.max_new_tokens = max_new_tokens
        self.split = split
        source = SAMPLE if data is None else data
        self.name: str = name or Path(str(source)).stem
        records = read_records(source)
        merged = _merge(records, str(source), seed)
        if split is not None:
            names = SHARES if records[0].split is None else (part for part, _ in merged.values())
            wanted = _part_name(split, names, str(source))
            merged = {prompt: entry for prompt, entry in merged.items() if entry[0] == wanted}
        if not merged:  # only the hashed parts of small data can be empty
            raise ValueError(
                f"Expected prompts in split {split!r} of {source}, but none of its {len(records)} records "
                "falls there; give more records, give each a `split` field, or take split=None."
            )
        self.prompts: list[str] = list(merged)[:limit]
        self.references: list[list[str]] = [references for _, references in merged.values()][:limit]

    def __len__(self) -> int:
        return len(self.prompts)

    def quality(self, index: int, text: str) -> float:
        """Score of `text` for prompt `index`, in [0, 1], higher is better."""
        return self._score(text, self.references[index])


def read_records(data: str | Path) -> list[Record]:
    """All records of a JSONL file or a `datasets` name, checked one by one.

    Raises:
        FileNotFoundError, ImportError, ValueError: as in `TextPairs`.
    """
    path = Path(data)
    if path.is_file():
        rows = _json_lines(path)
    elif path.is_dir():
        raise ValueError(f"Expected `data` to be a JSONL file or a `datasets` name, got the folder {path}.")
    elif isinstance(data, Path) or path.suffix in (".jsonl", ".json") or not _HUB_NAME.fullmatch(data):
        raise FileNotFoundError(f"Expected `data` to be a JSONL file, found none at {path.absolute()}; check the path.")
    else:
        rows = _hub_rows(data)
    records = [_checked(where, row) for where, row in rows]
    if not records:
        raise ValueError(f"Expected at least one record in {data}, found none; write one JSON object a line.")
    return records


def part_of(prompt: str, seed: int = 0) -> str:
    """The part of `SHARES` that a prompt without a `split` belongs to: a hash of seed and text decides."""
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for part, share in SHARES.items():
        place -= share
        if place < 0:
            return part
    return part  # the shares add up to 1 but for rounding


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                yield where, json.loads(line)
            except ValueError as error:  # bad JSON and bad UTF-8 alike
                raise ValueError(
                    f'{where}: expected a JSON object in UTF-8 like {{"prompt": "...", "reference": "..."}}; '
                    f"could not read it ({error})."
                ) from error


def _hub_rows(data: str) -> Iterator[tuple[str, Any]]:
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise ImportError(
            f"There is no file {data!r}. If it is the name of a dataset, add the extra `data`: "
            "pip install 'training-wheels[data]'; if it is a file, check the path."
        ) from error
    name, _, configuration = data.partition(":")
    try:
        splits = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # the library raises its own, the hub client's and plain Python's errors
        raise ValueError(
            f"Expected {data!r} to be a JSONL file or a dataset that `datasets.load_dataset` can load; "
            f"there is no such file, and loading failed: {error}"
        ) from error
    for split, rows in splits.items():
        for number, row in enumerate(rows, start=1):
            own = {"split": split} if len(splits) > 1 else {}
            yield f"{data}, split {split}, record {number}", {**row, **own}


def _checked(where: str, row: object) -> Record:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object with `prompt` and `reference`, got {type(row).__name__}.")
    if "prompt" not in row or ("reference" in row) == ("references" in row):
        raise ValueError(
            f"{where}: expected the field `prompt` and either `reference` or `references`; "
            f"found {', '.join(map(repr, row)) or 'no field'}. Rename or add fields."
        )
    references = [row["reference"]] if "reference" in row else row["references"]
    if not isinstance(references, list) or not references:
        raise ValueError(f"{where}: expected `references` to be a list of at least one string, got {references!r}.")
    for field, text in [("prompt", row["prompt"]), *(("reference", text) for text in references)]:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where}: expected `{field}` to be a string that is not blank, got {text!r}.")
    split = row.get("split")
    if split is not None and not isinstance(split, str):
        raise ValueError(f"{where}: expected `split` to be a string, got {split!r}.")
    return Record(where, row["prompt"], references, split)


def _merge(records: list[Record], source: str, seed: int) -> dict[str, tuple[str, list[str]]]:
    """Prompt -> (part, references), in the order of the data. A prompt may stand in one part only."""
    bare = next((record for record in records if record.split is None), None)
    if bare is not None and any(record.split is not None for record in records):
        raise ValueError(
            f"{bare.where}: expected a `split` field, since other records of {source} carry one; got none."
        )
    merged: dict[str, tuple[str, list[str]]] = {}
    for record in records:
        part = part_of(record.prompt, seed) if record.split is None else record.split
        home, accepted = merged.setdefault(record.prompt, (part, []))
        if home != part:
            raise ValueError(
                f"{record.where}: expected a prompt in one split only, but {record.prompt!r} stands in "
                f"{home!r} and in {part!r}; remove one of them, or results on held-out prompts mean little."
            )
        accepted.extend(text for text in dict.fromkeys(record.references) if text not in accepted)
    return merged


def _part_name(split: str, parts: Iterable[str], source: str) -> str:
    """The data's own name of the part that `split` asks for."""
    known = list(dict.fromkeys(parts))
    found = next((part for part in (split, *_ALIASES.get(split, ())) if part in known), None)
    if found is None:
        raise ValueError(
            f"Expected the split of {source} to be one of {', '.join(known)}, or None for all; got {split!r}."
        )
    return found
