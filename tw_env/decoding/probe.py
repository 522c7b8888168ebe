"""A causal model seen from outside: its cache, limits and head; refuses what a session can't run."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

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
    base: nn.Module
    head: nn.Module
    scale: float  # logits = head(hidden) * scale
    device: torch.device
    dtype: torch.dtype  # of keys and values
    layers: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocabulary: int  # rows of the embedding
    limit: int | None  # longest text in tokens, None if unlimited
    limit_name: str
    reference: Tensor = field(repr=False)  # (1, 3, hidden) the model's own hidden states of token ids 0, 1, 2
    proven: bool = False

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
        scores = self.head(hidden)
        return scores if self.scale == 1.0 else scores * self.scale

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
                f"{gap:.1e} of their size when a text is written in pieces. Expected a model with rotary or "
                "learned positions and attention 'sdpa' or 'eager' (load it with "
                "attn_implementation='sdpa')."
            )
        self.proven = True


def examine(model: PreTrainedModel) -> Anatomy:
    """The anatomy of `model`, found by one short forward pass and remembered for as long as the model lives.

    Raises:
        ValueError: encoder-decoder or headless models, training mode, attention other than "sdpa" and
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
        anatomy = _dissect(model, name)
    _EXAMINED[model] = anatomy
    return anatomy


def _check_kind(model: PreTrainedModel, name: str) -> None:
    if model.config.is_encoder_decoder:
        raise ValueError(f"Expected a decoder-only model; {name} is an encoder-decoder. Choose a causal one.")
    if model.training:
        raise ValueError(f"Expected a model in evaluation mode; {name} is in training mode. Call model.eval().")
    if model.get_output_embeddings() is None or model.base_model is model:
        raise ValueError(f"Expected a model with an output head; {name} has none. Load it with AutoModelForCausalLM.")
    attention = model.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ValueError(
            f"Expected attention 'sdpa' or 'eager', which take a mask per row; got '{attention}' in {name}. "
            "Load the model with attn_implementation='sdpa'."
        )
    accepted = inspect.signature(model.base_model.forward).parameters
    missing = [key for key in ("input_ids", "attention_mask", "position_ids", "past_key_values") if key not in accepted]
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
    _check_layers(cache, name)
    limit, limit_name = _limit(model, cache)
    keys = cache.layers[0].keys
    scale = _scale(model)
    anatomy = Anatomy(
        name=name,
        base=model.base_model,
        head=model.get_output_embeddings(),
        scale=scale,
        device=keys.device,
        dtype=keys.dtype,
        layers=len(cache.layers),
        kv_heads=keys.shape[1],
        head_dim=keys.shape[3],
        hidden_size=hidden.shape[-1],
        vocabulary=vocabulary,
        limit=limit,
        limit_name=limit_name,
        reference=hidden,
    )
    expected = model(input_ids=tokens, use_cache=False).logits
    gap = float((anatomy.logits(hidden) - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    if not gap <= TOLERANCE.get(anatomy.dtype, HALF_TOLERANCE):
        raise ValueError(
            "Expected logits that are the head's product with the last hidden state, times a scale at most; "
            f"those of {name} are off by {gap:.1e} of their size (soft-capped logits?). Choose another "
            "model."
        )
    return anatomy


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
    return float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
