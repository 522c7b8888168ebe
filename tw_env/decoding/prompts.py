"""Prompts as token ids: as plain text, as a source for an encoder, or as one turn of a chat."""

from __future__ import annotations

from collections.abc import Sequence

from tw_env.decoding.checks import check_room
from tw_env.decoding.loading import Pair
from tw_env.decoding.reading import RULE_TOKENS


def encode(prompts: Sequence[str], pair: Pair, chat: bool = False) -> list[tuple[int, ...]]:
    """Token ids of all prompts.

    A source keeps the end token that its tokenizer closes it with; a prompt that the text goes on from loses it.

    Args:
        chat: write each prompt as the user's turn in the tokenizer's chat template, the turn of the model begun.

    Raises:
        ValueError: a prompt without tokens; a chat with a tokenizer that has no template, or with encoder-decoders.
    """
    if chat:
        encoded = _in_turns(prompts, pair)
    else:
        encoded = [list(ids) for ids in pair.tokenizer(list(prompts)).input_ids]
        if not pair.encoder_decoder:
            for ids in encoded:
                while len(ids) > 1 and ids[-1] in pair.end_tokens:  # some tokenizers close every text
                    ids.pop()
    for index, ids in enumerate(encoded):
        if not ids:
            raise ValueError(f"Expected tokens in every prompt; prompt {index} has none: {prompts[index]!r}")
    return [tuple(ids) for ids in encoded]


def _in_turns(prompts: Sequence[str], pair: Pair) -> list[list[int]]:
    if pair.encoder_decoder:
        raise ValueError(
            f"Expected chat=False for encoder-decoders, got chat=True with {pair.name}: they take no turns."
        )
    if not pair.tokenizer.chat_template:
        raise ValueError(
            f"Expected a tokenizer with a chat template for chat=True; that of {pair.name} has none. Choose "
            "instruction-tuned models, set tokenizer.chat_template and save it, or leave chat=False."
        )
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return [
        list(pair.tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"])
        for turn in turns
    ]


def check_rooms(encoded: Sequence[Sequence[int]], pair: Pair, cap: int) -> None:
    """Raises ValueError if a prompt leaves either model too few positions for `cap` new tokens."""
    longest = max(range(len(encoded)), key=lambda index: len(encoded[index]))
    tokens = len(encoded[longest])
    check_room(pair.teacher, tokens, cap, f"prompt {longest}")
    if pair.reads_rules:
        rule = f"prompt {longest} with room for a rule before it ({RULE_TOKENS})"
        check_room(pair.student, tokens + RULE_TOKENS, cap, rule)
    else:
        check_room(pair.student, tokens, cap, f"prompt {longest}")
