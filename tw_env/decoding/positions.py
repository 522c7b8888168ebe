"""Where a token stands, for decoders that take no explicit positions: relative bias, or a table that is added.

The decoders of encoder-decoder models count positions from the length of their cache, one number for all rows. Here
every row has its own length, so the model's own numbers are read once and put in where the rows need them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

FAR = 2**20  # so far behind, all keys share the last bucket of a relative bias: a constant, which attention ignores


def relative_bias(decoder: nn.Module, places: int) -> Tensor | None:
    """What a T5-like decoder adds to attention scores by distance, (places, heads); None for other decoders."""
    owners: list[Any] = [
        module for module in decoder.modules() if getattr(module, "has_relative_attention_bias", False)
    ]
    if len(owners) != 1:
        return None
    bias: Tensor = owners[0].compute_bias(1, places, past_seen_tokens=places - 1)  # (1, heads, 1, places)
    return bias[0, :, 0].flip(-1).T.contiguous()


class AddedPositions:
    """Vectors by position that a BART-like decoder adds to its embeddings, put in for each row's own positions.

    Args:
        decoder: a model with `embed_positions`.
        places: how many positions are read, the decoder's own number at most.
    """

    def __init__(self, decoder: PreTrainedModel, places: int) -> None:
        self._decoder, self._module = decoder, decoder.embed_positions
        token = 1 if decoder.config.pad_token_id == 0 else 0  # some families give padding no position
        self._tokens = torch.full((1, places), token, device=decoder.device)
        self._table = self._read()

    def _read(self) -> Tensor:
        """(places, hidden) what the decoder adds at each position of one text."""
        found: list[Tensor] = []
        handle = self._module.register_forward_hook(lambda _, __, vectors: found.append(vectors))
        try:
            self._decoder(input_ids=self._tokens, use_cache=False)
        finally:
            handle.remove()
        return found[0].reshape(self._tokens.shape[1], -1)

    def refresh(self) -> None:
        """Read the table anew, as needed when the model's weights have changed."""
        self._table = self._read()

    def put_in(self, positions: Tensor) -> torch.utils.hooks.RemovableHandle:
        """From now on the decoder adds the vectors of `positions` (r, w), until the handle is removed."""
        vectors = self._table.index_select(0, positions.flatten()).view(*positions.shape, -1)
        return self._module.register_forward_hook(lambda _, __, ___: vectors)
