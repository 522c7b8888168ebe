"""Where a session keeps keys and values: ragged cache layers, and a memory of prompts seen before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

PROMPT_BYTES = 2**30  # upper limit on the remembered prompts' keys and values
PREFILL_TOKENS = 16_384  # tokens of one prefill pass, padding included; more prompts go in several passes

Prompt = tuple[int, ...]


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
        self._keys_by_head, self._values_by_head = keys.transpose(1, 2), values.transpose(1, 2)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the storage exists from the start."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store new tokens, (r, heads, w, dim); what may be attended to, (r, heads, reach, dim)."""
        step, keys, values = self.step, self._keys_by_head, self._values_by_head
        if step.slots is None:
            width = key_states.shape[2]
            keys.narrow(2, step.start, width).copy_(key_states)
            values.narrow(2, step.start, width).copy_(value_states)
        else:
            self._flat_keys.index_copy_(0, step.slots, key_states.transpose(1, 2).flatten(0, 1))
            self._flat_values.index_copy_(0, step.slots, value_states.transpose(1, 2).flatten(0, 1))
        if step.fresh:
            return key_states, value_states
        keys, values = keys.narrow(2, 0, step.reach), values.narrow(2, 0, step.reach)
        if step.rows is not None:
            keys, values = keys.index_select(0, step.rows), values.index_select(0, step.rows)
        return keys, values

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


@dataclass
class Reset:
    """Rows that begin anew, and where the keys and values of their prompts come from."""

    rows: NDArray[np.int64]  # (r,)
    lengths: NDArray[np.int64]  # (r,) tokens of each prompt
    places: NDArray[np.int64]  # (r,) in the memory, -1 for a prompt that isn't there
    fresh: dict[Prompt, int]  # prompts to read, each with the row that reads it; no empty ones
    again: list[tuple[int, int]]  # rows to copy from and to: other rows with a fresh prompt

    def batches(self) -> Iterator[tuple[list[Prompt], NDArray[np.int64], NDArray[np.int64]]]:
        """The fresh prompts in passes of `PREFILL_TOKENS`, the longest first, as n prompts, (n, width) tokens that are
        padded on the right with 0, and (n,) rows.
        """
        fresh = sorted(self.fresh.items(), key=lambda item: len(item[0]))
        while fresh:
            count = max(1, PREFILL_TOKENS // len(fresh[-1][0]))
            batch, fresh = fresh[-count:], fresh[:-count]
            prompts, rows = [prompt for prompt, _ in batch], np.array([row for _, row in batch])
            tokens = np.zeros((len(batch), max(map(len, prompts))), np.int64)
            for i, prompt in enumerate(prompts):
                tokens[i, : len(prompt)] = prompt
            yield prompts, tokens, rows


class PromptMemory:
    """Keys and values of prompts seen before in one block, so that many are read with one gather.

    Bounded in number and bytes; the least recently used goes out first. A longer prompt than any before widens every
    place of the block.

    Args:
        prompts: how many are remembered at most.
        store: (layers, 2, rows, slots, heads, dim) what they are read into; gives sizes, type and device.
    """

    def __init__(self, prompts: int, store: Tensor) -> None:
        self._limit = prompts
        self._places: OrderedDict[Prompt, int] = OrderedDict()  # the least recently used first
        layers, two, _, _, heads, dim = store.shape
        self._block = store.new_zeros((layers, two, 0, 0, heads, dim))

    def __len__(self) -> int:
        return len(self._places)

    def sort_out(self, rows: NDArray[np.int64], prompts: Sequence[Prompt]) -> Reset:
        """What is to be done so that different rows (r,) begin with `prompts`; those found are now the most recent."""
        places = [self._places.get(prompt, -1) for prompt in prompts]
        fresh: dict[Prompt, int] = {}
        again: list[tuple[int, int]] = []
        for row, prompt, place in zip(rows.tolist(), prompts, places, strict=True):
            if place >= 0:
                self._places.move_to_end(prompt)
            elif (reader := fresh.setdefault(prompt, row)) != row:
                again.append((reader, row))
        if () in fresh:  # an empty prompt needs nothing
            empty = fresh.pop(())
            again = [(source, target) for source, target in again if source != empty]
        lengths = [len(prompt) for prompt in prompts]
        return Reset(rows, np.array(lengths, np.int64), np.array(places, np.int64), fresh, again)

    def recall(self, reset: Reset, store: Tensor) -> None:
        """Put the keys and values of remembered prompts into their rows of `store`."""
        known = np.flatnonzero(reset.places >= 0)
        if known.size:
            width = int(reset.lengths[known].max())
            rows, places = (torch.from_numpy(each[known]).to(store.device) for each in (reset.rows, reset.places))
            stored = self._block.narrow(3, 0, width).index_select(2, places)
            store.narrow(3, 0, width).index_copy_(2, rows, stored)

    def put(self, prompts: Sequence[Prompt], keys_values: Tensor) -> None:
        """Remember different prompts that aren't remembered yet: (layers, 2, n, width, heads, dim)."""
        room = self._make_room(len(prompts), max(map(len, prompts)))
        if not room:
            return
        places = torch.tensor([self._place(prompt) for prompt in prompts[-room:]], device=keys_values.device)
        self._block.narrow(3, 0, keys_values.shape[3]).index_copy_(2, places, keys_values[:, :, -room:])

    def clear(self) -> None:
        """Forget all prompts."""
        self._places.clear()

    @staticmethod
    def share(reset: Reset, store: Tensor) -> None:
        """Copy what was read into further rows with the same prompt."""
        if reset.again:
            sources, targets = torch.tensor(reset.again, device=store.device).T
            store.index_copy_(2, targets, store.index_select(2, sources))

    def _make_room(self, wanted: int, width: int) -> int:
        """Grow the block for so many more prompts of this width, within its bounds; how many it can take."""
        layers, two, size, old_width, heads, dim = self._block.shape
        width = max(width, old_width)
        limit = min(self._limit, PROMPT_BYTES // (layers * two * width * heads * dim * self._block.element_size()))
        if limit < size:  # wider places, fewer of them
            self._places.clear()
            size = 0
        need = min(len(self._places) + wanted, limit)
        if need > size or width > old_width:
            grown = max(need, min(2 * size, limit))
            block = self._block.new_zeros((layers, two, grown, width, heads, dim))
            block[:, :, :size, :old_width] = self._block[:, :, :size]
            self._block = block
        return min(wanted, limit)

    def _place(self, prompt: Prompt) -> int:
        """A free place for a prompt, or that of the least recently used one."""
        count = len(self._places)
        place = count if count < self._block.shape[2] else self._places.popitem(last=False)[1]
        self._places[prompt] = place
        return place
