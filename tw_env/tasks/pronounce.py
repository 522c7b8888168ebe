"""The default task: how an English word is spoken, from the CMU Pronouncing Dictionary.

A prompt is the spelling, letter by letter, and a separator (`h e l l o >`); the answer is the phones without
stress (`HH AH L OW`). Several pronunciations may be right. The words stand in four disjoint parts, one file
each: `pair` (both shipped models were fitted on it), `policy` (gates are trained and heuristics calibrated on
it), `dev` and `test`.
"""

import lzma

from tw_env.tasks.metrics import closest
from tw_env.tasks.shipped import DATA as SHIPPED
from tw_env.tasks.shipped import ShippedPair

PAIR = ShippedPair(SHIPPED / "pronounce")
DATA = PAIR.folder
STUDENT = PAIR.student
"""Folder of the shipped student, in Hugging Face format, tokenizer included."""
TEACHER = PAIR.teacher
"""Folder of the shipped teacher, in Hugging Face format, tokenizer included."""
LATENCY = PAIR.latency
"""Milliseconds of the shipped pair at batch 1 (`tw_env.costs.LatencyTable`)."""
SPLITS = ("pair", "policy", "dev", "test")
MAX_NEW_TOKENS = 24  # the longest reference has 20 phones, and the end token is one more


def load_split(name: str) -> list[tuple[str, list[str]]]:
    """Words of one part in their shuffled order, each with its accepted pronunciations (`"HH AH L OW"`).

    Raises:
        ValueError: `name` is not one of `SPLITS`.
        FileNotFoundError: the data files are missing from the installation.
    """
    if name not in SPLITS:
        raise ValueError(f"Expected the split to be one of {', '.join(SPLITS)}, got {name!r}.")
    path = DATA / f"{name}.tsv.xz"
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the dictionary at {path}; reinstall, or run `python -m scripts.prepare pronounce`."
        )
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [(word, phones) for word, *phones in (line.rstrip("\n").split("\t") for line in file)]


def prompt(word: str) -> str:
    """The text that a model continues with the phones of `word`."""
    return " ".join(word.lower()) + " >"


class Pronounce:
    """Prompts, references and the metric of the pronunciation task.

    Args:
        split: one of `SPLITS`.
        limit: keep only the first so many words of the (shuffled) part; all of them by default.

    Raises:
        ValueError: unknown split, or a limit below 1.
    """

    name = "pronounce"
    max_new_tokens = MAX_NEW_TOKENS

    def __init__(self, split: str = "test", limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"Expected the limit to be at least 1 word, or None for all of them, got {limit}.")
        entries = load_split(split)[:limit]
        self.split = split
        self.words: list[str] = [word for word, _ in entries]
        self.prompts: list[str] = [prompt(word) for word in self.words]
        self.references: list[list[str]] = [phones for _, phones in entries]

    def __len__(self) -> int:
        return len(self.prompts)

    def quality(self, index: int, text: str) -> float:
        """1.0 if `text` is an accepted pronunciation of word `index`, else 0.0; white space is free."""
        return float(" ".join(text.split()) in self.references[index])

    def closest(self, index: int, text: str) -> tuple[int, int]:
        """Phone edits to the closest accepted pronunciation of word `index`, and the length of that one."""
        return closest(text, self.references[index])

    def phone_error(self, index: int, text: str) -> float:
        """Phone edits to the closest accepted pronunciation of word `index`, per phone of that one."""
        edits, length = self.closest(index, text)
        return edits / length
