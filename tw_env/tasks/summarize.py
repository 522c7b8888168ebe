"""Summarisation: headlines of package descriptions that the user's machine prepares, or any other summaries."""

from __future__ import annotations

from pathlib import Path

from tw_env.tasks.prepared import SUMMARIZE, prepared_part
from tw_env.tasks.text import TextPairs
from tw_env.tasks.wording import Wording

MAX_NEW_TOKENS = 32  # prepared headlines have at most 80 characters; give news more, 64 or 128
SOURCE_WORDS = 350  # about 512 subword tokens
WORDING = Wording("{text}\nSummary:", "Summarize this text in one line. Answer with the summary alone.\n\n{text}")
"""How a summary is asked for."""


class Summarize(TextPairs):
    """Prompts are texts to be summarised, references their summaries.

    Encoder-decoders read the text as it is, causal models the text, a new line and "Summary:", chat models a request.
    `template` replaces all three, e.g. "summarize: {text}" for T5.

    Args:
        data: "summarize", the headlines prepared by `python -m scripts.prepare debian --task summarize`; or a JSONL
            file or `datasets` name, see `tw_env.tasks.records.read_records`.
        split: the part; None is the policy part of prepared data, and all of others.
        metric: "rougeL" or any other of `tw_env.tasks.metrics`.
        max_new_tokens, limit, template: as in `TextPairs`.
        source_words: longer texts are cut, as models have few positions and news say the main thing first; None cuts
            nothing.

    Raises:
        FileNotFoundError: nothing prepared yet, or no such file.
        ImportError, ValueError: as in `TextPairs`.
    """

    def __init__(
        self,
        data: str | Path = SUMMARIZE,
        split: str | None = None,
        metric: str = "rougeL",
        max_new_tokens: int = MAX_NEW_TOKENS,
        limit: int | None = None,
        template: str | None = None,
        source_words: int | None = SOURCE_WORDS,
    ) -> None:
        prepared = data == SUMMARIZE
        if prepared:
            split = split or "policy"
            data = prepared_part(SUMMARIZE, split)
        super().__init__(
            data, split, metric, max_new_tokens, limit, name=SUMMARIZE if prepared else None, template=template,
            source_words=source_words,
        )  # fmt: skip
        if template is None:
            self.wording = WORDING
