"""Small worlds to play in: pairs of random models that half agree, saved to disk, and tasks with a made-up metric."""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

POSITIONS = 20


class World:
    """A pair as two folders. `words` are the vocabulary: the end token first, then one letter each."""

    def __init__(self, size: int, seed: int, pad_is_end: bool, positions: int, spread: float) -> None:
        folder = Path(mkdtemp(prefix="world"))
        self.student, self.teacher = str(folder / "student"), str(folder / "teacher")
        self.words = ["<end>", *(chr(ord("a") + i) for i in range(size - 2)), "<pad>"]
        teacher = _model(size, 2, positions, seed, spread)
        student = _model(size, 1, positions, seed, spread)
        student.load_state_dict(teacher.state_dict(), strict=False)  # the first of the teacher's two layers
        with torch.random.fork_rng():
            torch.manual_seed(seed + 1)
            for weight in student.parameters():
                weight.data += 0.1 * spread * torch.randn_like(weight)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=_tokenizer(self.words),
            eos_token="<end>",
            pad_token="<end>" if pad_is_end else "<pad>",
            clean_up_tokenization_spaces=False,
        )
        for model, where in ((student, self.student), (teacher, self.teacher)):
            model.save_pretrained(where)
            tokenizer.save_pretrained(where)


def _tokenizer(words: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _model(size: int, layers: int, positions: int, seed: int, spread: float) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        initializer_range=spread,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


@cache
def world(
    size: int = 11, seed: int = 0, pad_is_end: bool = True, positions: int = POSITIONS, spread: float = 0.35
) -> World:
    """The world with these numbers; made once in a process."""
    return World(size, seed, pad_is_end, positions, spread)


class Letters:
    """A task whose prompts are letters and whose metric is as good as random, but the same at every call."""

    name = "letters"

    def __init__(self, prompts: list[str], max_new_tokens: int) -> None:
        self.prompts, self.max_new_tokens = prompts, max_new_tokens
        self.references = [["a"] for _ in prompts]

    def quality(self, index: int, text: str) -> float:
        return zlib.crc32(f"{index} {text}".encode()) % 1001 / 1000
