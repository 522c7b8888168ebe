"""Where a session keeps keys and values: ragged cache layers, and a memory of prompts seen before."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

PROMPT_BYTES = 2**30  # upper limit on the remembered prompts' keys and values

Entry = tuple[Tensor, Tensor]  # (layers, 2, length, heads, dim) keys and values, (hidden,) last hidden state


@dataclass
class Step:
    """Where the tokens of one forward pass go, and which stored tokens they may look at."""

    start: int = 0  # where every row of the cache writes, if `slots` is None
    slots: Tensor | None = None  # (r * w,) places in the flattened (rows * slots) store
    rows: Tensor | None = None  # (r,) rows that take part; None: all
    reach: int = 0  # the longest text after this pass
    fresh: bool = False  # nothing was stored before: the new keys and values are all there are


class RaggedLayer(CacheLayerMixin):
    """One layer's keys and values, (rows, slots, heads, dim), with a length per row.

    A token's numbers lie together, so writing a token is one copy.
    """

    def __init__(self, keys: Tensor, values: Tensor, step: Step) -> None:
        super().__init__()
        self.keys, self.values, self.step = keys, values, step
        self._flat_keys, self._flat_values = keys.flatten(0, 1), values.flatten(0, 1)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the storage exists from the start."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store new tokens, (r, heads, w, dim); what may be attended to, (r, heads, reach, dim)."""
        step, keys, values = self.step, self.keys, self.values
        new_keys, new_values = key_states.transpose(1, 2), value_states.transpose(1, 2)
        if step.slots is None:
            width = new_keys.shape[1]
            keys.narrow(1, step.start, width).copy_(new_keys)
            values.narrow(1, step.start, width).copy_(new_values)
        else:
            self._flat_keys.index_copy_(0, step.slots, new_keys.flatten(0, 1))
            self._flat_values.index_copy_(0, step.slots, new_values.flatten(0, 1))
        if step.fresh:
            return key_states, value_states
        keys, values = keys.narrow(1, 0, step.reach), values.narrow(1, 0, step.reach)
        if step.rows is not None:
            keys, values = keys.index_select(0, step.rows), values.index_select(0, step.rows)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what a mask covers."""
        return self.step.reach, 0

    def get_seq_length(self) -> int:
        """The longest text after this pass."""
        return self.step.reach

    def get_max_length(self) -> int:
        """Slots per row."""
        return self.keys.shape[1]

    get_max_cache_shape = get_max_length  # its name in earlier releases of transformers


class PromptMemory:
    """Keys and values of prompts seen before, bounded in number and bytes, least recently used out first."""

    def __init__(self, prompts: int) -> None:
        self._limit = prompts
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> Entry | None:
        """The entry of a prompt, now the most recently used; None if it isn't remembered."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Remember a prompt that isn't remembered yet."""
        self._entries[key] = entry
        self._bytes += _nbytes(entry)
        while len(self._entries) > self._limit or self._bytes > PROMPT_BYTES:
            self._bytes -= _nbytes(self._entries.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget all prompts."""
        self._entries.clear()
        self._bytes = 0


def _nbytes(entry: Entry) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in entry)
