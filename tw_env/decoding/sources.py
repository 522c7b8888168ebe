"""What an encoder-decoder's rows look at: keys and values of each row's source, written once it was read."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache

from tw_env.decoding.cache import PromptMemory, RaggedLayer, Reset, Step
from tw_env.decoding.positions import FAR, AddedPositions
from tw_env.decoding.probe import Anatomy


class Sources:
    """One source per row, and the decoder's passes over it.

    Args:
        anatomy: of the model. layers: the decoder's own keys and values. step: of the session's passes.
        rows, places: how many texts, and room for tokens in each, the spare one included.
        prompt_memory: how many sources' keys and values are remembered.

    Attributes:
        cache: what the decoder is given. prompts: the remembered sources.
        reach: tokens of the longest source.
    """

    def __init__(
        self, anatomy: Anatomy, layers: list[RaggedLayer], step: Step, rows: int, places: int, prompt_memory: int
    ) -> None:
        assert anatomy.encoder is not None
        self._anatomy, self._encoder, self._step = anatomy, anatomy.encoder, step
        self._places, self.reach = places, 0
        shape = (anatomy.layers, 2, rows, 0, anatomy.cross_heads, anatomy.cross_dim)
        self._store = torch.zeros(shape, dtype=anatomy.dtype, device=anatomy.device)
        self._lengths = np.zeros(rows, np.int64)
        self.prompts = PromptMemory(prompt_memory, self._store)
        self._hidden_places = torch.zeros((rows, 1, 1, 0), dtype=anatomy.dtype, device=anatomy.device)
        self._layers = [CrossLayer(step) for _ in layers]
        self.cache = RaggedPairCache(Cache(layers=layers), Cache(layers=self._layers))
        self.cache.seen = 0 if anatomy.added_positions else FAR
        # What stands for the encoder's states once they are keys and values.
        self._nothing = torch.zeros((1, 1, anatomy.hidden_size), dtype=anatomy.dtype, device=anatomy.device)
        self._positions = AddedPositions(anatomy.base, places) if anatomy.added_positions else None

    def refresh(self) -> None:
        """Read the added positions anew, as needed when the model's weights have changed."""
        if self._positions is not None:
            self._positions.refresh()

    def hidden(self, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """As `Anatomy.hidden`, for the rows of the session's step."""
        rows = self._step.rows
        hidden_places = self._hidden_places if rows is None else self._hidden_places.index_select(0, rows)
        return self._decode(tokens, mask, positions, self._nothing, hidden_places)

    def read(self, reset: Reset) -> None:
        """Let rows look at their prompts' sources: from memory, or through the encoder, each new one once."""
        self._widen(int(reset.lengths.max(initial=0)))
        self._lengths[reset.rows] = reset.lengths
        self.prompts.recall(reset, self._store)
        for prompts, tokens, rows in reset.batches():
            self._encode(tokens, np.array([len(prompt) for prompt in prompts]), rows)
            known = self._store.narrow(3, 0, tokens.shape[1]).index_select(2, self._to_device(rows))
            self.prompts.put(prompts, known)
        self.prompts.share(reset, self._store)
        self._look_at(int(self._lengths.max()))

    def _widen(self, width: int) -> None:
        """Make room for sources of this many tokens."""
        old = self._store
        if width > old.shape[3]:
            self._store = old.new_zeros((*old.shape[:3], width, *old.shape[4:]))
            self._store[:, :, :, : old.shape[3]] = old

    def _look_at(self, reach: int) -> None:
        """Show the decoder so many tokens of every source, those behind a source's end hidden."""
        self.reach = reach
        self._hidden_places = self._hide(np.arange(reach) >= self._lengths[:, None])
        for layer, (keys, values) in zip(self._layers, self._store.narrow(3, 0, reach), strict=True):
            layer.show(keys.transpose(1, 2), values.transpose(1, 2))

    def _hide(self, places: NDArray[np.bool_]) -> Tensor:
        """An additive mask of the places (r, source) that nothing may look at, (r, 1, 1, source)."""
        mask = torch.zeros(places.shape, dtype=self._anatomy.dtype)
        mask.masked_fill_(torch.from_numpy(places), torch.finfo(mask.dtype).min)
        return mask.to(self._anatomy.device)[:, None, None]

    def _encode(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Read sources (n, width) through the encoder, and write what the decoder makes of them into rows (n,).

        The decoder reads the first token of its opening on the way; the keys and values of the new sources are what
        counts.
        """
        r, width = tokens.shape
        behind = np.arange(width) >= lengths[:, None]  # (n, width)
        real = self._to_device((~behind).astype(np.int64))
        states = self._encoder(input_ids=self._to_device(tokens), attention_mask=real).last_hidden_state
        device_rows, step = self._to_device(rows), self._step
        step.slots, step.rows, step.reach, step.fresh = device_rows * self._places, None, 1, True
        start = torch.full((r, 1), self._anatomy.conventions.opening[0], device=states.device)
        mask = torch.zeros((r, 1, 1, 1), dtype=states.dtype, device=states.device)
        places = torch.zeros((r, 1), dtype=torch.int64, device=states.device)
        for layer, (keys, values) in zip(self._layers, self._store.narrow(3, 0, width), strict=True):
            layer.listen(keys, values, device_rows)
        self.cache.is_updated = dict.fromkeys(self.cache.is_updated, False)  # true again when a layer has written
        self._decode(start, mask, places, states, self._hide(behind))

    def _decode(self, tokens: Tensor, mask: Tensor, positions: Tensor, states: Tensor, hidden_places: Tensor) -> Tensor:
        """One pass of the decoder. states: the encoder's, (r, source, hidden); hidden_places (r, 1, 1, source)."""
        handle = None if self._positions is None else self._positions.put_in(positions)
        try:
            hidden: Tensor = self._anatomy.base(
                input_ids=tokens,
                attention_mask=mask,
                encoder_hidden_states=states,
                encoder_attention_mask=hidden_places,
                past_key_values=self.cache,
                use_cache=True,
            ).last_hidden_state
        finally:
            if handle is not None:
                handle.remove()
        return hidden

    def _to_device(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._anatomy.device)


class CrossLayer(CacheLayerMixin):
    """One layer's keys and values of all sources; those of the rows in a pass, (r, heads, source, dim)."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._target: tuple[Tensor, Tensor, Tensor] | None = None
        self.is_initialized = True
        self.show(torch.empty(0), torch.empty(0))

    def show(self, keys: Tensor, values: Tensor) -> None:
        """From now on the decoder looks at these, (rows, heads, source, dim)."""
        self._keys, self._values = keys, values

    def listen(self, keys: Tensor, values: Tensor, rows: Tensor) -> None:
        """The next pass writes into `rows` of these, (rows, source, heads, dim)."""
        self._target = keys, values, rows

    @property
    def keys(self) -> Tensor:
        """As the decoder's attention takes them."""
        rows = self._step.rows
        return self._keys if rows is None else self._keys.index_select(0, rows)

    @property
    def values(self) -> Tensor:
        """As the decoder's attention takes them."""
        rows = self._step.rows
        return self._values if rows is None else self._values.index_select(0, rows)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the storage exists from the start."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the keys and values of new sources, (n, heads, source, dim)."""
        assert self._target is not None
        keys, values, rows = self._target
        keys.index_copy_(0, rows, key_states.transpose(1, 2))
        values.index_copy_(0, rows, value_states.transpose(1, 2))
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what a mask covers."""
        return self.get_seq_length(), 0

    def get_seq_length(self) -> int:
        """Tokens of the longest source."""
        return self._keys.shape[-2] if self._keys.ndim > 1 else 0

    def get_max_length(self) -> int:
        """Tokens of the longest source: a longer one makes room for itself."""
        return self.get_seq_length()

    get_max_cache_shape = get_max_length  # its name in earlier releases of transformers


class RaggedPairCache(EncoderDecoderCache):
    """The decoder's own cache and that of the sources, which tells no row's length as if it were everyone's.

    Attributes:
        seen: how many tokens the decoder is told to have read before; it counts positions from there.
    """

    seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """See `seen`."""
        return self.seen
