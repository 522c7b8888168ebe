"""A model seen from outside: its cache, limits and head; refuses what a session can't run."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, EncoderDecoderCache

from tw_env.decoding.conventions import Conventions, conventions_of

PROBE_TOKENS = 3
TOLERANCE = {
    torch.float64: 1e-3,
    torch.float32: 1e-3,
}  # of the largest hidden number; many norms compute in float32
HALF_TOLERANCE = 6e-2

_EXAMINED: WeakKeyDictionary[PreTrainedModel, Anatomy] = WeakKeyDictionary()


@dataclass
class Anatomy:
    """A model's base and head, and the shape of what its layers remember."""

    name: str  # for messages
    base: PreTrainedModel  # what reads the text: the decoder of an encoder-decoder
    head: nn.Module
    scale: float  # logits = head(hidden * scale), and a bias in some families
    device: torch.device
    dtype: torch.dtype  # of keys and values
    layers: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocabulary: int  # rows of the embedding
    limit: int | None  # longest text in tokens, None if unlimited
    limit_name: str
    probe: tuple[int, ...]  # three token ids; what an encoder-decoder reads and writes
    reference: Tensor = field(repr=False)  # (1, 3, hidden) the model's own hidden states of them
    proven: bool = False
    bias: nn.Module | None = None  # holds the bias as its `final_logits_bias`
    conventions: Conventions = field(default_factory=Conventions)
    encoder: PreTrainedModel | None = None
    cross_heads: int = 0
    cross_dim: int = 0
    added_positions: bool = False  # the decoder adds positions to its embeddings by itself

    def hidden(self, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Final hidden states of the base model, (r, w, hidden), through `cache`."""
        return self.base(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """The output head, (..., hidden) -> (..., vocabulary)."""
        scores: Tensor = self.head(hidden if self.scale == 1.0 else hidden * self.scale)  # the smaller of both
        return scores if self.bias is None else scores + self.bias.get_buffer("final_logits_bias")

    def check_capacity(self, capacity: int) -> None:
        """Raises ValueError if texts of `capacity` tokens are beyond what the model can attend to."""
        if self.limit is not None and capacity > self.limit:
            raise ValueError(
                f"Expected a capacity of at most {self.limit} tokens ({self.limit_name} of {self.name}); "
                f"got {capacity}. Lower the cap on new tokens or shorten the prompts."
            )

    def prove(self, hidden: Tensor) -> None:
        """Raises ValueError unless `hidden`, (1, w <= 3, hidden), is what the model's own forward gives."""
        reference = self.reference[:, : hidden.shape[1]]
        gap = float((hidden - reference).abs().max() / reference.abs().max())
        if not gap <= TOLERANCE.get(self.dtype, HALF_TOLERANCE):
            raise ValueError(
                f"{self.name} doesn't follow explicit masks and positions: its hidden states are off by "
                f"{gap:.1e} of their size when a text is written in pieces. Expected a causal model with rotary "
                "or learned positions, or an encoder-decoder of the T5, BART or Marian kind, and attention 'sdpa' "
                "or 'eager' (load it with attn_implementation='sdpa')."
            )
        self.proven = True


def examine(model: PreTrainedModel) -> Anatomy:
    """The anatomy of `model`, found by one short forward pass and remembered for as long as the model lives.

    Raises:
        ValueError: headless models, training mode, attention other than "sdpa" and
            "eager", layers that don't keep plain keys and values, a head that does more than a matrix product
            and a scale.
    """
    name = (
        f"{type(model).__name__} '{model.config.name_or_path}'" if model.config.name_or_path else type(model).__name__
    )
    _check_kind(model, name)
    known = _EXAMINED.get(model)
    if known is not None and known.device == model.device and known.dtype == model.dtype:
        return known
    with torch.inference_mode():
        dissect = _dissect_encoder_decoder if model.config.is_encoder_decoder else _dissect
        anatomy = dissect(model, name)
    _EXAMINED[model] = anatomy
    return anatomy


def _check_kind(model: PreTrainedModel, name: str) -> None:
    seq2seq = model.config.is_encoder_decoder
    if model.training:
        raise ValueError(f"Expected a model in evaluation mode; {name} is in training mode. Call model.eval().")
    if model.get_output_embeddings() is None or (model.base_model is model and not seq2seq):
        loader = "AutoModelForSeq2SeqLM" if seq2seq else "AutoModelForCausalLM"
        raise ValueError(f"Expected a model with an output head; {name} has none. Load it with {loader}.")
    attention = model.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ValueError(
            f"Expected attention 'sdpa' or 'eager', which take a mask per row; got '{attention}' in {name}. "
            "Load the model with attn_implementation='sdpa'."
        )
    accepted = inspect.signature((model.get_decoder() if seq2seq else model.base_model).forward).parameters
    needed = ["input_ids", "attention_mask", "past_key_values"]
    needed += ["encoder_hidden_states", "encoder_attention_mask"] if seq2seq else ["position_ids"]
    missing = [key for key in needed if key not in accepted]
    if missing:
        raise ValueError(
            f"Expected a model whose forward takes explicit positions and a key/value cache; {name} has "
            f"no {', '.join(missing)}. Choose a transformer with rotary or learned positions."
        )


def _dissect(model: PreTrainedModel, name: str) -> Anatomy:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = torch.arange(PROBE_TOKENS, device=model.device)[None] % vocabulary
    cache = DynamicCache(config=model.config)
    hidden = model.base_model(input_ids=tokens, past_key_values=cache, use_cache=True).last_hidden_state
    anatomy = _anatomy(model, name, model.base_model, cache, tokens, hidden)
    _check_head(anatomy, hidden, model(input_ids=tokens, use_cache=False).logits)
    return anatomy


def _dissect_encoder_decoder(model: PreTrainedModel, name: str) -> Anatomy:
    encoder, decoder = model.get_encoder(), model.get_decoder()
    vocabularies = [part.get_input_embeddings().weight.shape[0] for part in (encoder, decoder)]
    if vocabularies[0] != vocabularies[1]:
        raise ValueError(
            f"Expected one vocabulary for what is read and written; {name} reads {vocabularies[0]} tokens and writes "
            f"{vocabularies[1]}. Choose a model that shares them."
        )
    padding = model.config.pad_token_id  # some families give padding no position
    ids = [token for token in range(PROBE_TOKENS + 1) if token != padding][:PROBE_TOKENS]
    tokens = torch.tensor([ids], device=model.device) % vocabularies[0]
    own, cross = DynamicCache(), DynamicCache()
    states = encoder(input_ids=tokens).last_hidden_state
    hidden = decoder(
        input_ids=tokens, encoder_hidden_states=states, past_key_values=EncoderDecoderCache(own, cross), use_cache=True
    ).last_hidden_state
    _check_layers(cross, name)
    anatomy = _anatomy(model, name, decoder, own, tokens, hidden)
    anatomy.encoder, anatomy.conventions = encoder, conventions_of(model)
    anatomy.added_positions = hasattr(decoder, "embed_positions")
    anatomy.bias = model if hasattr(model, "final_logits_bias") else None
    _, anatomy.cross_heads, _, anatomy.cross_dim = cross.layers[0].keys.shape
    _check_head(anatomy, hidden, model(input_ids=tokens, decoder_input_ids=tokens, use_cache=False).logits)
    return anatomy


def _anatomy(
    model: PreTrainedModel, name: str, base: PreTrainedModel, cache: DynamicCache, tokens: Tensor, hidden: Tensor
) -> Anatomy:
    """What both kinds have; `cache` and `hidden`, (1, 3, hidden), after the probe `tokens`, (1, 3)."""
    _check_layers(cache, name)
    limit, limit_name = _limit(model, cache)
    keys = cache.layers[0].keys
    return Anatomy(
        name=name,
        base=base,
        head=model.get_output_embeddings(),
        scale=_scale(model),
        device=keys.device,
        dtype=keys.dtype,
        layers=len(cache.layers),
        kv_heads=keys.shape[1],
        head_dim=keys.shape[3],
        hidden_size=hidden.shape[-1],
        vocabulary=base.get_input_embeddings().weight.shape[0],
        limit=limit,
        limit_name=limit_name,
        probe=tuple(tokens[0].tolist()),
        reference=hidden,
    )


def _check_head(anatomy: Anatomy, hidden: Tensor, expected: Tensor) -> None:
    """Raises ValueError unless the head on `hidden` gives the model's own logits."""
    gap = float((anatomy.logits(hidden) - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    if not gap <= TOLERANCE.get(anatomy.dtype, HALF_TOLERANCE):
        raise ValueError(
            "Expected logits that are the head's product with the last hidden state, times a scale at most; "
            f"those of {anatomy.name} are off by {gap:.1e} of their size (soft-capped logits?). Choose another "
            "model."
        )


def _check_layers(cache: DynamicCache, name: str) -> None:
    """Raises ValueError unless every layer holds plain keys and values of one shape."""
    kinds = {type(layer) for layer in cache.layers}
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer} or not cache.layers:
        found = ", ".join(sorted(kind.__name__ for kind in kinds)) or "none"
        raise ValueError(
            f"Expected layers that keep plain keys and values; {name} keeps {found} (state-space, shared "
            "or compressed memory can't be rewound row by row). Choose a model with full attention in every "
            "layer."
        )
    shapes = {tuple(t.shape) for layer in cache.layers for t in (layer.keys, layer.values) if t is not None}
    if len(shapes) != 1 or not all(layer.is_initialized for layer in cache.layers):
        raise ValueError(
            f"Expected keys and values of one shape in all layers; got {sorted(shapes)} in {name}. "
            "Choose a model whose layers are alike."
        )


def _limit(model: PreTrainedModel, cache: DynamicCache) -> tuple[int | None, str]:
    """The longest text that plain attention over all tokens reproduces, and what sets it."""
    config = model.config.get_text_config(decoder=True)
    limits = [(getattr(config, "max_position_embeddings", None), "max_position_embeddings")]
    limits += [(getattr(layer, "sliding_window", None), "sliding attention window") for layer in cache.layers]
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":  # beyond it, one row's length would change the positions of all
        limits.append((rope.get("original_max_position_embeddings"), "original_max_position_embeddings"))
    return min(((value, why) for value, why in limits if value is not None), default=(None, ""))


def _scale(model: PreTrainedModel) -> float:
    """The factor that some families put on the head's product."""
    config = model.config.get_text_config(decoder=True)
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return scale * config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else scale
