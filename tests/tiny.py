"""A tiny random Llama pair with a word-level tokenizer, made in milliseconds, for tests that need models."""

import string

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tw_env.decoding.loading import Pair, register_pair

HIDDEN, HEADS = 16, 2
FIRST_SEED = 6  # from here on texts are neither very short nor endless
ENDS = 0.15  # share of states where the end token is the greedy one
DRIFT = 0.45  # how far the teacher's layers are from the student's
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
    """The pair, registered: `load_pair(*tiny_names(pair))` finds it.

    The teacher has the student's embedding, head and layers with noise on the layers, and further layers. So
    they agree on the greedy token about six times out of ten, and a text ends after six tokens or so.
    `sharpness` scales the logits.
    """
    generator = torch.Generator().manual_seed(FIRST_SEED + seed)
    embedding = torch.randn(vocabulary, HIDDEN, generator=generator, dtype=torch.float64)
    embedding[:, 0] = 1.0  # a direction that every state has
    head = torch.randn(vocabulary, HIDDEN, generator=generator, dtype=torch.float64) * 0.5
    states = torch.randn(400, HIDDEN, generator=generator, dtype=torch.float64)
    states[:, 0] = 1.0
    logits = states @ head.T
    short = logits.max(dim=-1).values - logits[:, END]  # what END lacks to be the greedy token
    head[END, 0] += short.quantile(ENDS)
    head *= sharpness
    student = _tiny_model(student_layers, embedding, head, positions)
    _draw_layers(student, 1.0, generator)
    teacher = _tiny_model(teacher_layers, embedding, head, positions)
    _draw_layers(teacher, DRIFT, generator)
    with torch.no_grad():
        for mine, theirs in zip(teacher.model.layers, student.model.layers, strict=False):
            for weight, other in zip(mine.parameters(), theirs.parameters(), strict=True):
                if weight.ndim == 2:
                    weight += other
    made = [student.to(dtype), teacher.to(dtype)]
    arguments = (vocabulary, seed, dtype, student_layers, teacher_layers, positions, pad_is_end, sharpness)
    name = "memory:tiny-" + "-".join(str(argument).removeprefix("torch.") for argument in arguments)
    return register_pair(name, made[0], made[1], tiny_tokenizer(vocabulary, pad_is_end))


def tiny_names(pair: Pair) -> tuple[str, str]:
    """The names under which student and teacher are registered."""
    student, teacher = pair.name.split(" < ")
    return student, teacher


def tiny_tokenizer(vocabulary: int, pad_is_end: bool = False) -> PreTrainedTokenizerFast:
    """Words a, b, c ... z, a1, b1 ...; ids in that order after the special ones."""
    special = ["<eos>"] if pad_is_end else ["<eos>", "<pad>"]
    letters = [string.ascii_lowercase[i % 26] + (str(i // 26) if i >= 26 else "") for i in range(vocabulary)]
    words = (special + letters)[:vocabulary]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=special[-1]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token=special[-1])


def _tiny_model(layers: int, embedding: torch.Tensor, head: torch.Tensor, positions: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(embedding), hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=layers,
        num_attention_heads=HEADS, num_key_value_heads=1, max_position_embeddings=positions,
        bos_token_id=None, eos_token_id=END, pad_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights from the global generator
        model = LlamaForCausalLM(config).to(torch.float64)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(embedding)
        model.lm_head.weight.copy_(head)
    return model


def _draw_layers(model: LlamaForCausalLM, scale: float, generator: torch.Generator) -> None:
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            if weight.ndim == 2:
                weight.normal_(std=scale / weight.shape[1] ** 0.5, generator=generator)
