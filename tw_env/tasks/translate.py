"""Translation: package descriptions that the user's machine prepares, or parallel text of any other source."""

from __future__ import annotations

import re
from pathlib import Path

from tw_env.tasks.prepared import prepared_part
from tw_env.tasks.records import columns_of
from tw_env.tasks.text import TextPairs
from tw_env.tasks.wording import Wording

PAIR = "en-it"
"""What is translated by default."""
MAX_NEW_TOKENS = 96  # prepared texts have at most 240 characters, some 40 words
LANGUAGES = {
    "cs": "Czech", "da": "Danish", "de": "German", "en": "English", "es": "Spanish", "fi": "Finnish", "fr": "French",
    "hu": "Hungarian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "pl": "Polish",
    "pt": "Portuguese", "pt_BR": "Brazilian Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sv": "Swedish", "tr": "Turkish", "uk": "Ukrainian", "zh": "Chinese", "zh_CN": "Chinese",
}  # fmt: skip
"""English names of languages, for prompts; a code that isn't here stands for itself."""
_PAIR = re.compile(r"([a-z]{2,3}(?:_[A-Z]{2})?)-([a-z]{2,3}(?:_[A-Z]{2})?)")


class Translate(TextPairs):
    """Prompts are texts to be translated, references their translations.

    Encoder-decoders read the text as it is, causal models "English: the text", a new line and "Italian:", chat models a
    request. `template` replaces all three, e.g. "translate English to German: {text}" for T5.

    Args:
        data: two languages as in "en-it", prepared by `python -m scripts.prepare debian --pair en-it`; or a JSONL file
            or `datasets` name, see `tw_env.tasks.records.read_records`.
        split: the part; None is the policy part of prepared data, and all of others.
        metric: "chrf" or any other of `tw_env.tasks.metrics`.
        max_new_tokens, limit, template: as in `TextPairs`.

    Raises:
        FileNotFoundError: nothing prepared yet, or no such file.
        ImportError, ValueError: as in `TextPairs`.
    """

    def __init__(
        self,
        data: str | Path = PAIR,
        split: str | None = None,
        metric: str = "chrf",
        max_new_tokens: int = MAX_NEW_TOKENS,
        limit: int | None = None,
        template: str | None = None,
    ) -> None:
        name = str(data)
        prepared = None if Path(name).exists() else language_pair(name)
        if prepared:
            split = split or "policy"
            data = prepared_part(name, split)
        own = f"translate-{name}" if prepared else None
        super().__init__(data, split, metric, max_new_tokens, limit, name=own, template=template)
        if template is None:
            self.wording = wording_of(name)


def language_pair(name: str) -> tuple[str, str] | None:
    """The codes in "en-pt_BR", in their direction; None if the name is something else."""
    found = _PAIR.fullmatch(name)
    return (found[1], found[2]) if found and found[1] != found[2] else None


def wording_of(data: str | Path) -> Wording:
    """How a translation is asked for: in words of the two languages, where the data's name tells them."""
    name = str(data)
    languages = (None if Path(name).exists() else language_pair(name)) or columns_of(name)
    return wording(*languages) if languages else Wording("{text}\nTranslation:", "Translate: {text}")


def wording(source: str, target: str) -> Wording:
    """How a translation from `source` to `target`, codes or names, is asked for."""
    here, there = (LANGUAGES.get(code, code) for code in (source, target))
    return Wording(
        f"{here}: {{text}}\n{there}:",
        f"Translate from {here} into {there}. Answer with the translation alone.\n\n{{text}}",
    )
