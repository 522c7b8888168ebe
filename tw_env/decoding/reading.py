"""A rule's words as token ids before the prompt of a student that reads them."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tw_env.decoding.loading import Pair

RULE_TOKENS = 48  # room for a rule; the longest phrasing of `tw_env.rules.templates` has 26 tokens of the shipped pair


class RuleReader:
    """Puts rules before prompts; every sentence is tokenised once.

    Rules are read in lower case and end with a full stop, so that they look the same to every tokenizer.

    Args:
        tokenizer: the student's.
        room: most tokens of a rule.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, room: int = RULE_TOKENS) -> None:
        self._tokenizer, self.room = tokenizer, room
        self._known: dict[str, tuple[int, ...]] = {}

    def ids(self, words: str) -> tuple[int, ...]:
        """Token ids of a rule, with what the tokenizer puts before a text and nothing behind it.

        Raises:
            ValueError: no words, or more tokens than there is room for.
        """
        if words not in self._known:
            self._known[words] = self._read(words)
        return self._known[words]

    def before(self, words: str, prompt: Sequence[int]) -> tuple[int, ...]:
        """The student's prompt: the rule's ids, then those of `prompt` without its start token."""
        return self.join(self.ids(words), prompt)

    def join(self, rule: Sequence[int], prompt: Sequence[int]) -> tuple[int, ...]:
        """A rule's ids, then those of `prompt` without its start token."""
        start = self._tokenizer.bos_token_id
        return (*rule, *(prompt[1:] if start is not None and prompt[0] == start else prompt))

    def _read(self, words: str) -> tuple[int, ...]:
        text = " ".join(words.lower().split()).rstrip(". ")
        if not text:
            raise ValueError("Expected a rule in words for a student that reads rules, got an empty sentence.")
        ids = self._tokenizer(text + ".\n").input_ids
        while ids and ids[-1] == self._tokenizer.eos_token_id:  # some tokenizers close every text
            ids = ids[:-1]
        if len(ids) > self.room:
            raise ValueError(
                f"Expected a rule of at most {self.room} tokens, got {len(ids)}: {words!r}. Say it in fewer words."
            )
        return tuple(ids)


def rule_reader(pair: Pair) -> RuleReader | None:
    """How this pair's student is told its rule; None for a student that reads no rules."""
    return RuleReader(pair.tokenizer) if pair.reads_rules else None
