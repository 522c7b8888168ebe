"""Rows of text over one key/value cache: append, rewind and reset a row of an unmodified model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from tw_env.decoding.cache import Prompt, PromptMemory, RaggedLayer, Reset, Step
from tw_env.decoding.masks import Masks
from tw_env.decoding.positions import relative_bias
from tw_env.decoding.probe import Anatomy, examine
from tw_env.decoding.sources import Sources

NEVER = -1e4  # logit of a token that is never written
MOVE_COST = 8  # moving one stored number costs about as much as this many multiply-adds


class Session:
    """Rows of text, each with its own length, over one KV cache of an unmodified model.

    A causal model's text begins with its prompt. An encoder-decoder's prompt is the source that its encoder reads,
    once; its text is what the decoder reads, and begins with `opening`.

    Args:
        model: a decoder-only or encoder-decoder model in evaluation mode whose layers keep plain keys and values
            ("sdpa" or "eager" attention). Decoders that don't take explicit positions need T5's relative bias, or
            positions that are added to the embeddings as in BART and Marian.
        rows: how many texts.
        capacity: longest text in tokens, prompt (or opening) and new tokens together; at most the model's
            `max_position_embeddings`.
        prompt_memory: how many prompts' keys and values are remembered (least recently used out first; never
            more than `PROMPT_BYTES`). Call `forget_prompts` when the model's weights change.

    Attributes:
        lengths: (rows,) int64 on the host, cached tokens per row. Read it, and copy it to keep it: it changes
            in place.
        capacity, rows, hidden_size, vocabulary: sizes; `vocabulary` is the number of rows of the model's
            embedding.
        opening: token ids that begin every text of an encoder-decoder, see `Conventions`; () for a causal model.

    Tensors that come back are inference tensors on the model's device: clone one before changing it in place.
    On construction, once per model, a three-token text is compared with the model's own forward pass.

    Raises:
        ValueError: a model that can't be run this way (state-space, sliding window shorter than `capacity`, no
            head, training mode), or sizes out of range.
    """

    def __init__(self, model: PreTrainedModel, rows: int, capacity: int, prompt_memory: int = 20_000) -> None:
        sizes = {"rows": (rows, 1), "capacity": (capacity, 1), "prompt_memory": (prompt_memory, 0)}
        for name, (value, least) in sizes.items():
            if value < least:
                raise ValueError(f"Expected {name} >= {least}; got {value}.")
        anatomy = examine(model)
        anatomy.check_capacity(capacity)
        self.rows, self.capacity = rows, capacity
        self.hidden_size, self.vocabulary = anatomy.hidden_size, anatomy.vocabulary
        self.opening = anatomy.conventions.opening
        self.lengths = np.zeros(rows, dtype=np.int64)
        self._anatomy, self._device, self._on_host = anatomy, anatomy.device, anatomy.device.type == "cpu"
        self._step = Step()
        self._stride = capacity + 1  # one spare slot takes what rows write that have nothing to write
        self._offsets = np.arange(rows) * self._stride  # a row's first place in the flattened store
        self._places = np.arange(capacity)
        with torch.inference_mode():
            shape = (anatomy.layers, 2, rows, self._stride, anatomy.kv_heads, anatomy.head_dim)
            self._store = torch.zeros(shape, dtype=anatomy.dtype, device=self._device)
            self._columns = torch.arange(self._stride, device=self._device)
            self._single = list(self._columns.view(-1, 1, 1))
            self._masks = self._make_masks()
            never = anatomy.conventions.never
            self._never = torch.tensor(never, device=self._device) if never else None
        layers = [RaggedLayer(keys, values, self._step) for keys, values in self._store]
        self._sources: Sources | None = None
        if anatomy.encoder is None:
            self._cache, self._run = Cache(layers=layers), anatomy.hidden
            self._prompts = PromptMemory(prompt_memory, self._store)
        else:
            with torch.inference_mode():
                self._sources = Sources(anatomy, layers, self._step, rows, self._stride, prompt_memory)
            self._cache, self._run = self._sources.cache, self._sources.hidden
            self._prompts = self._sources.prompts
        if not anatomy.proven:
            self._prove(anatomy)

    @torch.inference_mode()
    def reset(self, rows: np.ndarray, prompts: Sequence[Sequence[int]]) -> None:
        """Begin `rows` anew with `prompts`.

        A causal model's rows hold their prompts then; an empty one leaves its row empty. An encoder-decoder's rows
        hold the opening without its last token, and look at their sources. Prompts seen before come from memory; new
        ones are read in one right-padded pass, each once. No states come back: leave a causal prompt's last token, as
        the opening's, to `append` if they are wanted, and all rows go on in one pass.

        Raises:
            ValueError: a prompt longer than the model or `capacity` allows, an empty source, a token id outside the
                model's vocabulary.
        """
        rows = self._checked_rows(rows)
        if len(rows) != len(prompts):
            raise ValueError(f"Expected one prompt per row; got {len(rows)} rows and {len(prompts)} prompts.")
        texts = [tuple(prompt) for prompt in prompts]
        if self._sources is not None and () in texts:
            raise ValueError("Expected a source of at least one token for every row of an encoder-decoder; got none.")
        reset = self._prompts.sort_out(rows, texts)
        for prompt in reset.fresh:
            self._check_prompt(prompt)
        if self._sources is None:
            self.lengths[rows] = reset.lengths
            self._prompts.recall(reset, self._store)
            self._prefill(reset)
            self._prompts.share(reset, self._store)
            return
        self.lengths[rows] = 0
        self._sources.read(reset)
        if len(self.opening) > 1:
            self.append_unchecked(rows, np.array([self.opening[:-1]] * len(rows)), None)

    @torch.inference_mode()
    def append(self, rows: np.ndarray | None, tokens: np.ndarray, counts: np.ndarray | None = None) -> Tensor:
        """Write `tokens` at the end of `rows` and return the final hidden states, (r, w, hidden).

        Args:
            rows: (r,) different rows in any order; None for all rows in order.
            tokens: (r, w) token ids.
            counts: (r,) how many of the w are real, from the left; None for all. A row with 0 stays as it is.
                Hidden states past a row's count are undefined.

        Raises:
            ValueError: shapes that don't fit, token ids out of range, a text that would be longer than
                `capacity`.
        """
        return self.append_unchecked(*self._checked_append(rows, tokens, counts))

    def append_unchecked(self, rows: np.ndarray | None, tokens: np.ndarray, counts: np.ndarray | None) -> Tensor:
        """As `append`, for int64 arrays that are known to be right, under `torch.inference_mode`."""
        if rows is None and counts is None and tokens.size:
            start = int(self.lengths[0])
            if (self.lengths == start).all():
                return self._append_in_step(start, tokens)
            return self._append_ragged(None, tokens, None)
        width = tokens.shape[1]
        asked = np.arange(self.rows) if rows is None else rows
        counts = np.full(len(asked), width) if counts is None else counts
        if not counts.any():
            return self._nothing(len(asked), width)
        full_width, width = width, int(counts.max())
        active = np.flatnonzero(counts)
        if not self._gathering_pays(len(active), width, int(self.lengths.max()) + width):
            all_tokens = np.zeros((self.rows, width), dtype=np.int64)
            all_counts = np.zeros(self.rows, dtype=np.int64)
            all_tokens[asked], all_counts[asked] = tokens[:, :width], counts
            hidden = self._append_ragged(None, all_tokens, all_counts)
            if rows is not None:
                hidden = hidden.index_select(0, self._to_device(rows))
        else:
            hidden = self._append_ragged(asked[active], tokens[active, :width], counts[active])
            if len(active) < len(asked):
                spread = self._nothing(len(asked), width)
                hidden = spread.index_copy_(0, self._to_device(active), hidden)
        if width < full_width:
            hidden = torch.cat((hidden, self._nothing(len(asked), full_width - width)), dim=1)
        return hidden

    def rewind(self, rows: np.ndarray, lengths: np.ndarray) -> None:
        """Forget all but the first `lengths` tokens of `rows`, both (r,).

        Raises:
            ValueError: a length below 0 or beyond what the row holds.
        """
        rows, lengths = self._checked_rows(rows), np.asarray(lengths, dtype=np.int64)
        if lengths.shape != rows.shape or (lengths < 0).any() or (lengths > self.lengths[rows]).any():
            raise ValueError(
                f"Expected `lengths` between 0 and what the rows hold ({self.lengths[rows].tolist()}), one "
                f"per row; got {lengths.tolist()}. A row can only be shortened; use `append` to lengthen it."
            )
        self.lengths[rows] = lengths

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """The model's output head on final hidden states, (..., hidden) -> (..., vocabulary), float32.

        Tokens that the model's conventions rule out get `NEVER`, which no probability survives.
        """
        return self.head(hidden)

    def head(self, hidden: Tensor) -> Tensor:
        """As `logits`, under `torch.inference_mode`."""
        scores = self._anatomy.logits(hidden).float()
        return scores if self._never is None else scores.index_fill_(-1, self._never, NEVER)

    @torch.inference_mode()
    def forget_prompts(self) -> None:
        """Drop the remembered prompts, as needed when the model's weights have changed."""
        self._prompts.clear()
        if self._sources is not None:
            self._masks = self._make_masks()
            self._sources.refresh()

    def _append_in_step(self, start: int, tokens: np.ndarray) -> Tensor:
        """All rows, one common length: slices instead of indices, one mask for all. tokens (rows, w)."""
        width = tokens.shape[1]
        step = self._step
        step.start, step.slots, step.rows, step.reach, step.fresh = start, None, None, start + width, False
        positions = self._single[start] if width == 1 else self._columns[start : start + width].unsqueeze(0)
        hidden = self._forward(self._to_device(tokens), positions)
        self.lengths += width
        return hidden

    def _append_ragged(self, rows: np.ndarray | None, tokens: np.ndarray, counts: np.ndarray | None) -> Tensor:
        """Rows with their own lengths. rows (r,) or None for all, tokens (r, w), counts (r,) or None."""
        r, width = tokens.shape
        size = r * width
        lengths, offsets = self.lengths, self._offsets
        if rows is not None:
            lengths, offsets = lengths[rows], offsets[rows]
        ends = lengths + (width if counts is None else counts)
        # One copy to the device: tokens, positions, slots, rows.
        packed = np.empty(3 * size + r, dtype=np.int64)
        blocks = packed[: 3 * size].reshape(3, r, width)
        blocks[0] = tokens
        positions = np.add(lengths[:, None], self._places[:width], out=blocks[1])
        if counts is not None:  # what lies past a row's count goes where no text is
            blocks[0][self._places[:width] >= counts[:, None]] = 0
            np.minimum(positions, self.capacity, out=positions)
        np.add(positions, offsets[:, None], out=blocks[2])
        if counts is not None:
            np.minimum(positions, self.capacity - 1, out=positions)
        if rows is not None:
            packed[3 * size :] = rows
        device = self._to_device(packed)
        step = self._step
        step.reach, step.fresh = int(ends.max()), False
        step.slots = device[2 * size : 3 * size]
        step.rows = None if rows is None else device[3 * size :]
        hidden = self._forward(device[:size].view(r, width), device[size : 2 * size].view(r, width))
        if rows is None:
            self.lengths[:] = ends
        else:
            self.lengths[rows] = ends
        return hidden

    def _gathering_pays(self, active: int, width: int, reach: int) -> bool:
        """Whether copying the keys and values of `active` rows is cheaper than running all rows."""
        hidden, stored = self.hidden_size, self._anatomy.kv_heads * self._anatomy.head_dim
        reach += 0 if self._sources is None else self._sources.reach
        one_row = width * (12 * hidden * hidden + 2 * reach * hidden)  # multiply-adds of one layer
        return active * (one_row + 2 * MOVE_COST * reach * stored) < self.rows * one_row

    def _forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """One pass of the base model. tokens (r, w), positions (r, w) or (1, w) -> (r, w, hidden)."""
        reach = self._step.reach  # one new token at one place for all rows has no mask of its own
        mask = self._masks.single[reach] if positions.numel() == 1 else self._masks.at(positions, reach)
        return self._run(tokens, mask, positions, self._cache)

    def _make_masks(self) -> Masks:
        bias = None if self._anatomy.encoder is None else relative_bias(self._anatomy.base, self._stride)
        return Masks(self._stride, self._anatomy.dtype, self._device, bias)

    def _prefill(self, reset: Reset) -> None:
        """Read fresh prompts into their rows, and remember them."""
        for prompts, tokens, rows in reset.batches():
            r, width = tokens.shape
            slots = rows[:, None] * self._stride + np.arange(width)
            device = self._to_device(np.concatenate((tokens.reshape(-1), slots.reshape(-1), rows)))
            step = self._step
            step.rows, step.reach, step.fresh = None, width, True
            step.slots = device[r * width : 2 * r * width]
            self._forward(device[: r * width].view(r, width), self._columns[:width].unsqueeze(0))
            self._prompts.put(prompts, self._store.narrow(3, 0, width).index_select(2, device[2 * r * width :]))

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor if self._on_host else tensor.to(self._device, non_blocking=True)

    def _nothing(self, *shape: int) -> Tensor:
        return torch.zeros((*shape, self.hidden_size), dtype=self._anatomy.dtype, device=self._device)

    def _checked_rows(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.int64)
        listed = rows.tolist()
        if rows.ndim != 1 or (listed and not 0 <= min(listed) <= max(listed) < self.rows):
            raise ValueError(f"Expected `rows` to be a vector of numbers below {self.rows}; got {listed}.")
        if len(set(listed)) < len(listed):
            raise ValueError(f"Expected each row at most once; got {listed}.")
        return rows

    def _check_prompt(self, text: Prompt) -> None:
        if self._sources is None and len(text) > self.capacity:
            raise ValueError(
                f"Expected a prompt of at most {self.capacity} tokens (the session's capacity); got "
                f"{len(text)}. Shorten the prompt, or open the session with a larger capacity."
            )
        if self._sources is not None:
            self._anatomy.check_capacity(len(text))
        self._check_tokens(np.array(text, np.int64))

    def _check_tokens(self, tokens: np.ndarray) -> None:
        if tokens.size and tokens.view(np.uint64).max() >= self.vocabulary:  # negative ids are huge here
            raise ValueError(
                f"Expected token ids from 0 to {self.vocabulary - 1}; got {tokens.min()} to {tokens.max()}. "
                "Use the tokenizer that belongs to this model."
            )

    def _checked_append(
        self, rows: np.ndarray | None, tokens: np.ndarray, counts: np.ndarray | None
    ) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
        rows = None if rows is None else self._checked_rows(rows)
        tokens = np.asarray(tokens, dtype=np.int64)
        r = self.rows if rows is None else len(rows)
        if tokens.ndim != 2 or len(tokens) != r:
            raise ValueError(f"Expected `tokens` of shape ({r}, w); got {tokens.shape}.")
        width = tokens.shape[1]
        if counts is None:
            self._check_tokens(tokens)
            longest = int((self.lengths if rows is None else self.lengths[rows]).max(initial=0)) + width
        else:
            counts = np.asarray(counts, dtype=np.int64)
            if counts.shape != (r,) or (r and (counts.min() < 0 or counts.max() > width)):
                raise ValueError(f"Expected `counts` of shape ({r},) from 0 to {width}; got {counts.tolist()}.")
            self._check_tokens(tokens[np.arange(width) < counts[:, None]])
            lengths = self.lengths if rows is None else self.lengths[rows]
            longest = int((lengths + counts).max(initial=0))
        if longest > self.capacity:
            raise ValueError(
                f"Expected texts of at most {self.capacity} tokens (the session's capacity); got {longest} "
                "after this append. Open the session with a larger capacity, or end the text earlier."
            )
        return rows, tokens, counts

    @torch.inference_mode()
    def _prove(self, anatomy: Anatomy) -> None:
        """Write a short text in two pieces and compare with the model's own forward pass of it."""
        width = min(len(anatomy.probe), self.capacity)
        text, row = np.array([anatomy.probe[:width]]), np.zeros(1, dtype=np.int64)
        if self._sources is not None:
            self._sources.read(self._prompts.sort_out(row, [anatomy.probe]))
        pieces = [self.append(row, piece) for piece in (text[:, :1], text[:, 1:]) if piece.size]
        anatomy.prove(torch.cat(pieces, dim=1))
        self.lengths[:] = 0
        self._prompts.clear()
