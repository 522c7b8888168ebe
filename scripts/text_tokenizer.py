"""Subword tokenizer of a text task, trained on the part that its pair of models is fitted on."""

import json
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteFallback, Fuse, Replace, Strip
from tokenizers.decoders import Sequence as Decoders
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import Metaspace, PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from scripts.pronounce_data import rule_words

PAD, END = "<pad>", "</s>"
BLANK = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = 160  # characters with a token of their own; rarer ones are written as bytes
RULES = 20  # how often the words of asking rules are read beside the texts, so that they fall in few pieces
PIECES = f"{BLANK}?[0-9]|{BLANK}?[^\\w{BLANK}]|{BLANK}?(?:(?![0-9])\\w)+|{BLANK}"  # a digit, a sign, or a word


def build_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding of `size` tokens that can write any text, and closes it with the end token.

    A blank belongs to the word after it; one at the very beginning is not kept. Digits and signs stand alone. What has
    no token is written as its UTF-8 bytes, so nothing is unknown. Source: Sennrich et al. 2016 (arXiv 1508.07909); byte
    fallback as in SentencePiece.

    Args:
        texts: what the pair is fitted on, sources and targets. size: of the vocabulary; small texts give fewer.

    Raises:
        ValueError: no room for anything but bytes and letters.
    """
    fixed = 2 + len(BYTES)
    if size < fixed + LETTERS:
        raise ValueError(f"Expected a vocabulary of at least {fixed + LETTERS} tokens, bytes and letters; got {size}.")
    learner = _bare(BPE())
    trainer = BpeTrainer(vocab_size=size - fixed, limit_alphabet=LETTERS, min_frequency=2, show_progress=False)
    learner.train_from_iterator(_with_rules(texts), trainer)
    return _finished(learner)


def _with_rules(texts: Iterable[str]) -> Iterator[str]:
    yield from texts
    for _ in range(RULES):
        yield " ".join(rule_words())


def _bare(model: BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = NFC()
    pieces: list[PreTokenizer] = [Metaspace(BLANK, "always", split=False), Split(Regex(PIECES), "isolated")]
    tokenizer.pre_tokenizer = PreTokenizers(pieces)
    return tokenizer


def _finished(learner: Tokenizer) -> PreTrainedTokenizerFast:
    """What was learnt, with the special tokens and the bytes before it."""
    ids = learner.get_vocab()
    learnt = sorted(ids, key=ids.__getitem__)
    vocabulary = {token: place for place, token in enumerate(dict.fromkeys([PAD, END, *BYTES, *learnt]))}
    tokenizer = _bare(BPE(vocabulary, _merges(learner), byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, END)])
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, vocabulary[END])]
    )
    tokenizer.decoder = Decoders([Replace(BLANK, " "), ByteFallback(), Fuse(), Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )


def _merges(learner: Tokenizer) -> list[tuple[str, str]]:
    """In the order in which they were learnt."""
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]
