"""Tiny random encoder-decoders of every family that a session runs, pairs of them, and their own forward pass."""

from functools import cache

import torch
import transformers as tf
from tokenizers import processors

from tests.tiny import tiny_tokenizer
from tw_env.decoding.loading import Pair, register_pair

VOCABULARY, POSITIONS = 13, 24
T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 3,
      "num_decoder_layers": 2, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
      "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}  # fmt: skip
BART = {"vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24, "encoder_attention_heads": 2, "decoder_attention_heads": 4,
        "max_position_embeddings": POSITIONS, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}  # fmt: skip
FAMILIES: dict[str, tf.PreTrainedConfig] = {
    "t5": tf.T5Config(**T5),
    "t5-gated-untied": tf.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": tf.MT5Config(**T5),
    "bart": tf.BartConfig(**BART, decoder_start_token_id=2, forced_eos_token_id=2),
    "mbart": tf.MBartConfig(**BART, decoder_start_token_id=2, forced_eos_token_id=None, scale_embedding=True),
    "marian": tf.MarianConfig(
        **{**BART, "pad_token_id": 12, "eos_token_id": 0, "bos_token_id": None}, decoder_start_token_id=12,
        forced_eos_token_id=0, scale_embedding=True,
    ),
    "m2m_100": tf.M2M100Config(**BART, decoder_start_token_id=2, scale_embedding=True),
    "pegasus": tf.PegasusConfig(**{**BART, "pad_token_id": 0, "eos_token_id": 1}, decoder_start_token_id=0),
}  # fmt: skip
CONVENTIONS: dict[str, dict[str, object]] = {  # of their generation configs
    "bart": {"forced_bos_token_id": 0},
    "mbart": {"forced_bos_token_id": 12},
    "m2m_100": {"forced_bos_token_id": 12},
    "marian": {"bad_words_ids": [[12]]},
}
MAIN = ("t5", "mt5", "bart", "marian")


@cache
def family(kind: str, attention: str = "sdpa", seed: int = 0) -> tf.PreTrainedModel:
    """In double precision, its weights large enough for attention and positions to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = tf.AutoModelForSeq2SeqLM.from_config(FAMILIES[kind], attn_implementation=attention)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.4)
        if hasattr(model, "final_logits_bias"):
            torch.nn.init.normal_(model.final_logits_bias, std=0.5)
    model.generation_config.update(**CONVENTIONS.get(kind, {}))
    return model.double().eval().requires_grad_(False)


@torch.inference_mode()
def states_of(model: tf.PreTrainedModel, source: list[int], text: list[int]) -> torch.Tensor:
    """(len(text), hidden) the decoder's last states, by one pass of encoder and decoder each."""
    states = model.get_encoder()(input_ids=torch.tensor([source])).last_hidden_state
    decoded = model.get_decoder()(input_ids=torch.tensor([text]), encoder_hidden_states=states, use_cache=False)
    return decoded.last_hidden_state[0]


# ---- pairs ----------------------------------------------------------------------------------------------------

END, PAD = 0, 1  # ids in the pairs; words follow
ENDED = {"pad_token_id": PAD, "eos_token_id": END, "vocab_size": VOCABULARY}
PAIRED: dict[str, dict[str, object]] = {
    "t5": {**T5, **ENDED, "decoder_start_token_id": PAD},
    "mt5": {**T5, **ENDED, "decoder_start_token_id": PAD},
    "bart": {**BART, **ENDED, "decoder_start_token_id": END, "forced_eos_token_id": END},
    "marian": {**BART, **ENDED, "decoder_start_token_id": PAD, "forced_eos_token_id": END, "scale_embedding": True},
}
PAIR_CONVENTIONS: dict[str, dict[str, object]] = {
    "bart": {"forced_bos_token_id": VOCABULARY - 1},
    "marian": {"bad_words_ids": [[PAD]]},
}
EMBEDDING = 0.15
DRIFT = 0.12  # how far the teacher's weights are from the student's


SEEDS = {"t5": 4}  # texts of other seeds hardly ever end


@cache
def source_pair(kind: str, positions: int = POSITIONS) -> Pair:
    """A registered pair of this family; its tokenizer closes every text with the end token.

    The teacher has the student's weights with noise on them, and one decoder layer more.
    """
    generator = torch.Generator().manual_seed(SEEDS.get(kind, 0))
    student, teacher = (_made(kind, layers, positions) for layers in (1, 2))
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if (
                parameter.ndim == 2 and parameter.requires_grad
            ):  # small embeddings, so that a token does not bring about itself
                parameter.normal_(std=EMBEDDING if name.endswith("shared.weight") else 0.5, generator=generator)
        if hasattr(student, "final_logits_bias"):
            student.final_logits_bias.normal_(std=0.5, generator=generator)
            teacher.final_logits_bias.copy_(student.final_logits_bias)
        known = dict(student.named_parameters())
        for name, parameter in teacher.named_parameters():
            drawn = parameter.ndim == 2 and parameter.requires_grad  # sinusoids are not
            if drawn:
                parameter.normal_(std=DRIFT * (EMBEDDING if "shared" in name else 1), generator=generator)
            if name in known:
                parameter.copy_(known[name] + (parameter if drawn else 0.0))
    return register_pair(f"memory:{kind}-{positions}", student, teacher, closing_tokenizer(VOCABULARY))


def _made(kind: str, layers: int, positions: int) -> tf.PreTrainedModel:
    relative = kind in ("t5", "mt5")
    size = {"num_decoder_layers" if relative else "decoder_layers": layers}
    size |= {} if relative else {"max_position_embeddings": positions}
    config = type(FAMILIES[kind])(**{**PAIRED[kind], **size})
    with torch.random.fork_rng(devices=[]):
        model = tf.AutoModelForSeq2SeqLM.from_config(config)
    model.generation_config.update(**PAIR_CONVENTIONS.get(kind, {}))
    return model.double().eval()


def closing_tokenizer(vocabulary: int) -> tf.PreTrainedTokenizerFast:
    """As `tiny_tokenizer`, with the end token behind every text."""
    tokenizer = tiny_tokenizer(vocabulary)
    closed = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", END)])
    tokenizer.backend_tokenizer.post_processor = closed
    return tokenizer
