"""Records of text data, from JSONL files and `datasets`, in the layouts that are common; checked one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

LAYOUTS = (
    ("document", "summary"),  # XSum
    ("article", "highlights"),  # CNN/DailyMail
    ("dialogue", "summary"),  # SAMSum, DialogSum
    ("source", "target"),
)
"""Columns, source and target, that are understood beside `prompt` and `reference`."""
TRANSLATION = "translation"  # column of WMT, IWSLT, OPUS: a text in each of several languages
ALIASES = {
    "policy": ("train",),
    "dev": ("validation", "valid", "val"),
    "test": (),
}
"""How others name our parts."""
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_COLUMNS = re.compile(r"(.+)@([\w-]+):([\w-]+)")
_CONVERTED = "refs/convert/parquet"  # branch with a readable copy of data that are published as a script
Columns = tuple[str, str]


class Record(NamedTuple):
    """One checked record: its place for error messages, prompt, references and split, None if it has none."""

    where: str
    prompt: str
    references: list[str]
    split: str | None


def read_records(data: str | Path, split: str | None = None, limit: int | None = None) -> list[Record]:
    """All records of a JSONL file, or those of one split of a dataset.

    A record has `prompt` and `reference` (or `references`), or the columns of one of `LAYOUTS`, or a `translation` with
    a text in each language. Behind an "@", `data` may name the columns or languages to take and their direction:
    "wmt/wmt16:de-en@en:de", "mine.jsonl@question:answer". Records of a dataset that miss a text are left out; a file's
    are refused.

    Args:
        data: path of a JSONL file, or "name" or "name:configuration" of a dataset.
        split: of a dataset with several, only this one is read; files are read as a whole.
        limit: of a dataset, stop when so many different prompts were found.

    Raises:
        FileNotFoundError, ImportError, ValueError: as in `tw_env.tasks.text.TextPairs`.
    """
    name, columns = split_columns(data)
    path = Path(name)
    if path.is_file():
        rows: Iterable[tuple[str, Any]] = _json_lines(path)
        limit, whole = None, True
    elif path.is_dir():
        raise ValueError(f"Expected `data` to be a JSONL file or a `datasets` name, got the folder {path}.")
    elif isinstance(data, Path) or path.suffix in (".jsonl", ".json") or not _HUB_NAME.fullmatch(str(name)):
        raise FileNotFoundError(f"Expected `data` to be a JSONL file, found none at {path.absolute()}; check the path.")
    else:
        columns = columns or columns_of(data)
        rows, whole = _hub_rows(str(name), split), False
    records: list[Record] = []
    prompts: set[str] = set()
    for where, row in rows:
        if not whole and _misses_text(where, row, columns):
            continue
        record = _checked(where, row, columns)
        prompts.add(record.prompt)
        chosen = split is None or record.split is not None  # else a hash will choose among all of them
        if limit is not None and chosen and len(prompts) > limit:
            break
        records.append(record)
    if not records:
        raise ValueError(f"Expected at least one record in {data}, found none; write one JSON object a line.")
    return records


def split_columns(data: str | Path) -> tuple[str | Path, Columns | None]:
    """File or name, and the columns that stand behind an "@"."""
    found = _COLUMNS.fullmatch(data) if isinstance(data, str) and not Path(data).exists() else None
    return (found[1], (found[2], found[3])) if found else (data, None)


def columns_of(data: str | Path) -> Columns | None:
    """Columns or languages that the data's name tells, in their direction: "iwslt2017-en-de" is English to German."""
    name, columns = split_columns(data)
    if columns is None and isinstance(name, str) and not Path(name).exists():
        found = re.search(r":(?:.*[-_.])?([a-z]{2,3})-([a-z]{2,3})$", name)
        columns = (found[1], found[2]) if found else None
    return columns


def part_name(split: str, parts: Iterable[str], source: str) -> str:
    """The data's own name of the part that `split` asks for."""
    known = list(dict.fromkeys(parts))
    found = next((part for part in (split, *ALIASES.get(split, ())) if part in known), None)
    if found is None:
        raise ValueError(
            f"Expected the split of {source} to be one of {', '.join(known)}, or None for all; got {split!r}."
        )
    return found


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


def _hub_rows(data: str, split: str | None) -> Iterator[tuple[str, Any]]:
    """Rows of the wanted split, or of all; with their split if there are several."""
    splits = _load(data)
    chosen = list(splits) if split is None or len(splits) == 1 else [part_name(split, splits, data)]
    for part in chosen:
        own = {"split": part} if len(splits) > 1 else {}
        for number, row in enumerate(splits[part], start=1):
            yield f"{data}, split {part}, record {number}", {**row, **own}


def _load(data: str) -> Mapping[str, Iterable[Any]]:
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise ImportError(
            f"There is no file {data!r}. If it is the name of a dataset, add the extra `data`: "
            "pip install 'training-wheels[data]'; if it is a file, check the path."
        ) from error
    name, _, configuration = data.partition(":")
    try:
        try:
            return datasets.load_dataset(name, configuration or None)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            return datasets.load_dataset(name, configuration or None, revision=_CONVERTED)
    except Exception as error:  # the library raises its own, the hub client's and plain Python's errors
        raise ValueError(
            f"Expected {data!r} to be a JSONL file or a dataset that `datasets.load_dataset` can load; "
            f"there is no such file, and loading failed: {error}"
        ) from error


def _misses_text(where: str, row: dict[str, Any], columns: Columns | None) -> bool:
    prompt, references = _texts(where, row, columns)
    return any(text is None or (isinstance(text, str) and not text.strip()) for text in (prompt, *references))


def _checked(where: str, row: object, columns: Columns | None) -> Record:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object with `prompt` and `reference`, got {type(row).__name__}.")
    prompt, references = _texts(where, row, columns)
    if not isinstance(references, list) or not references:
        raise ValueError(f"{where}: expected `references` to be a list of at least one string, got {references!r}.")
    for field, text in [("prompt", prompt), *(("reference", text) for text in references)]:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where}: expected `{field}` to be a string that is not blank, got {text!r}.")
    split = row.get("split")
    if split is not None and not isinstance(split, str):
        raise ValueError(f"{where}: expected `split` to be a string, got {split!r}.")
    return Record(where, prompt, references, split)


def _texts(where: str, row: dict[str, Any], columns: Columns | None) -> tuple[Any, Any]:
    """Prompt and references of a record, wherever its layout has them."""
    if "prompt" in row and ("reference" in row) != ("references" in row):
        return row["prompt"], [row["reference"]] if "reference" in row else row["references"]
    texts = row
    if isinstance(row.get(TRANSLATION), dict):
        texts = row[TRANSLATION]
        if columns is None:
            raise ValueError(
                f"{where}: expected the direction of the translation to be named, got none; write it behind the data's "
                f"name, e.g. @{':'.join(islice(texts, 2))}."
            )
    layout = columns if columns and set(columns) <= set(texts) else None
    layout = layout or next((known for known in LAYOUTS if set(known) <= set(texts)), None)
    if layout is None or "prompt" in row:
        named = f", or `{columns[0]}` and `{columns[1]}`" if columns else ""
        raise ValueError(
            f"{where}: expected the field `prompt` and either `reference` or `references`{named}; "
            f"found {', '.join(map(repr, texts)) or 'no field'}. Rename or add fields, or name the two columns behind "
            "the data's name: @source:target."
        )
    source, target = texts[layout[0]], texts[layout[1]]
    return source, target if isinstance(target, list) else [target]
