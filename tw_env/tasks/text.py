"""The task of any pair of models: prompts and references from a JSONL file or `datasets`, and a metric."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from tw_env.tasks.metrics import metric as metric_of
from tw_env.tasks.records import Record, part_name, read_records
from tw_env.tasks.wording import TEXT, Wording, fill

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample" / "sample.jsonl"
"""Sixty words of the pronunciation task, in the prompt format of the shipped pair."""
SHARES = {"policy": 0.6, "dev": 0.1, "test": 0.3}
"""The parts, and their expected shares, of data that carry no `split` field."""


class TextPairs:
    """Prompts, references and a metric for any text-to-text data.

    A record is a JSON object on a line of its own: `prompt` (the text that the models continue), `reference`
    (a string) or `references` (a list of strings), and `split` if the file itself says which part a record
    belongs to. Other fields are ignored; the columns of usual datasets are understood, too, see
    `tw_env.tasks.records.read_records`. Records with the same prompt become one prompt with all of their references.

    Parts: gates are trained and heuristics calibrated on `policy`, choices are made on `dev`, results come
    from `test`; none of them should hold what the two models were fitted on. Where no record carries a
    `split`, a hash of the seed and the prompt says which part it belongs to (shares in `SHARES`), so a prompt
    stays where it is when the file grows or is reordered. Where the records carry one, `policy` also finds
    `train`, and `dev` `validation`.

    Args:
        data: path of a JSONL file; or, with the extra `data` installed, a `datasets` name,
            `name:configuration` if it needs one (a dataset with several splits carries them, and only the wanted one
            is read; one with a single split counts as carrying none); or None for the sample that ships.
        split: the part to take; None takes all records.
        metric: name of a metric, see `tw_env.tasks.metrics.metric`.
        max_new_tokens: cap on the tokens of an output.
        limit: keep only the first so many prompts of the part; None keeps all.
        seed: of the split of records that carry none.
        name: what results call this task; by default the data's own name.
        template: what models read, with `{text}` where the prompt goes: "summarize: {text}".
        source_words: keep only the first so many words of each prompt; None keeps it as it is.

    Attributes:
        wording: how the task asks models that don't take the prompt as it is; None where all do.

    Raises:
        FileNotFoundError: no such file.
        ImportError: the metric or the data need an extra that is not installed.
        ValueError: anything else that is wrong with the data or an argument; the message names the line.
    """

    wording: Wording | None = None

    def __init__(
        self,
        data: str | Path | None = None,
        split: str | None = None,
        metric: str = "edit",
        max_new_tokens: int = 32,
        limit: int | None = None,
        seed: int = 0,
        name: str | None = None,
        template: str | None = None,
        source_words: int | None = None,
    ) -> None:
        whole = {"max_new_tokens": max_new_tokens, "limit": limit, "source_words": source_words}
        for argument, value in whole.items():
            if value is None and argument != "max_new_tokens":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Expected {argument} to be a whole number of at least 1, got {value!r}.")
        self._score = metric_of(metric)
        self.metric = metric
        self.max_new_tokens = max_new_tokens
        self.split = split
        source = SAMPLE if data is None else data
        self.name: str = name or (Path(source).stem if Path(source).is_file() else str(source).rpartition("/")[2])
        records = read_records(source, split, limit)
        if source_words is not None:
            records = [record._replace(prompt=first_words(record.prompt, source_words)) for record in records]
        merged = _merge(records, str(source), seed)
        if split is not None:
            names = SHARES if records[0].split is None else (part for part, _ in merged.values())
            wanted = part_name(split, names, str(source))
            merged = {prompt: entry for prompt, entry in merged.items() if entry[0] == wanted}
        if not merged:  # only the hashed parts of small data can be empty
            raise ValueError(
                f"Expected prompts in split {split!r} of {source}, but none of its {len(records)} records "
                "falls there; give more records, give each a `split` field, or take split=None."
            )
        self.prompts: list[str] = fill(TEXT if template is None else template, list(merged)[:limit])
        self.references: list[list[str]] = [references for _, references in merged.values()][:limit]

    def __len__(self) -> int:
        return len(self.prompts)

    def quality(self, index: int, text: str) -> float:
        """Score of `text` for prompt `index`, in [0, 1], higher is better."""
        return self._score(text, self.references[index])


def part_of(key: str, seed: int | str = 0, shares: Mapping[str, float] = SHARES) -> str:
    """The part that a key (such as a prompt) belongs to: a hash of seed and key decides. The shares add up to 1."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for part, share in shares.items():
        place -= share
        if place < 0:
            return part
    return part  # the shares add up to 1 but for rounding


def first_words(text: str, count: int) -> str:
    """The text, cut behind so many words."""
    words = text.split(maxsplit=count)
    return text if len(words) <= count else " ".join(words[:count])


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
