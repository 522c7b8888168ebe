"""A tiny random Llama pair with a word-level tokenizer, made in milliseconds; every test that needs models uses it."""

import string

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tw_env.decoding.loading import Pair, register_pair

HIDDEN, HEADS = 16, 2
END, PAD = 0, 1  # ids; with `pad_is_end` there is no pad token and id 1 is a letter


def tiny_pair(
    vocabulary: int = 11,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    student_layers: int = 1,
    teacher_layers: int = 2,
    positions: int = 64,
    pad_is_end: bool = False,
    sharpness: float = 1.0,
) -> Pair:
    """The pair, also registered so that `load_pair(name + "-student", name + "-teacher")` finds it by `tiny_name`.

    Both models share embedding and head; their layers are unrelated. So they agree on the greedy token about six
    times out of ten, and a text ends after six tokens or so. `sharpness` scales the logits.
    """
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(vocabulary, HIDDEN, generator=generator, dtype=torch.float64)
    head = torch.randn(vocabulary, HIDDEN, generator=generator, dtype=torch.float64) * 0.5 * sharpness
    made = [
        _tiny_model(layers, embedding, head, generator, positions).to(dtype)
        for layers in (student_layers, teacher_layers)
    ]
    name = tiny_name(vocabulary, seed, dtype, student_layers, teacher_layers, positions, pad_is_end, sharpness)
    return register_pair(name, made[0], made[1], tiny_tokenizer(vocabulary, pad_is_end))


def tiny_name(*arguments: object) -> str:
    """The name under which a pair with these arguments of `tiny_pair`, all eight, is registered."""
    return "memory:tiny-" + "-".join(str(argument).removeprefix("torch.") for argument in arguments)


def tiny_tokenizer(vocabulary: int, pad_is_end: bool = False) -> PreTrainedTokenizerFast:
    """Words a, b, c ... z, a1, b1 ...; ids in that order after the special ones."""
    special = ["<eos>"] if pad_is_end else ["<eos>", "<pad>"]
    letters = [string.ascii_lowercase[i % 26] + (str(i // 26) if i >= 26 else "") for i in range(vocabulary)]
    words = (special + letters)[:vocabulary]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=special[-1]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token=special[-1])


def _tiny_model(
    layers: int, embedding: torch.Tensor, head: torch.Tensor, generator: torch.Generator, positions: int
) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(embedding), hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=layers,
        num_attention_heads=HEADS, num_key_value_heads=1, max_position_embeddings=positions,
        bos_token_id=None, eos_token_id=END, pad_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights from the global generator
        model = LlamaForCausalLM(config).to(torch.float64)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.normal_(std=1.1 / weight.shape[1] ** 0.5, generator=generator)
        model.model.embed_tokens.weight.copy_(embedding)
        model.lm_head.weight.copy_(head)
    return model
