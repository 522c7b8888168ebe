"""Texts written by a model that may still be training: sampled or greedy, many at once, no teacher needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from agents.joint.reading import Ids, Texts
from tw_env.decoding.conventions import conventions_of
from tw_env.decoding.distributions import inverse_cdf
from tw_env.decoding.session import Session

Watch = Callable[[NDArray[np.int64], Tensor, Tensor], object]
"""Called at each place with the rows (n,) that write there, log-probabilities (n, vocab) and the tokens chosen (n,)."""


class Writer:
    """Writes texts with a model in evaluation mode, as the game does; its weights may change between two calls.

    Args:
        model: the writer.
        prompt_tokens: longest prompt; what an encoder reads has no bound. max_new_tokens: cap on written tokens, end
            token included.
        end_tokens: ids that end a text.
        vocabulary: only the first so many tokens can be written; None for all.
        rows: texts that are written side by side.
        keep_prompts: how many prompts' keys and values are remembered between calls; with any, call `forget` after each
            change of the weights.
        finished: called with the number of texts that have just come to their end.

    Raises:
        ValueError: models that a `Session` can't run, no end token, sizes out of range.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompt_tokens: int,
        max_new_tokens: int,
        end_tokens: Sequence[int],
        vocabulary: int | None = None,
        rows: int = 512,
        keep_prompts: int = 0,
        finished: Callable[[int], object] | None = None,
    ) -> None:
        if not end_tokens or max_new_tokens < 1:
            raise ValueError(
                f"Expected at least one end token and max_new_tokens >= 1; got {list(end_tokens)}, {max_new_tokens}."
            )
        self.max_new_tokens, self.vocabulary, self._finished = max_new_tokens, vocabulary, finished
        self._ends = np.array(sorted(end_tokens), np.int64)
        conventions = conventions_of(model)
        self._opening, self._last, self._remembers = conventions.opening, conventions.last, keep_prompts > 0
        before = len(self._opening) or prompt_tokens
        self._session = Session(model, rows, before + max_new_tokens - 1, keep_prompts)

    def forget(self) -> None:
        """Drop the remembered prompts: the weights have changed."""
        self._session.forget_prompts()

    def greedy(self, prompts: Sequence[Ids], watch: Watch | None = None, begun: Sequence[Ids] | None = None) -> Texts:
        """The likeliest token at every place; texts in the prompts' order.

        Args:
            begun: what is written of each text already, shorter than the cap that it counts for; the rest comes back.
        """
        return self._write(prompts, begun or [()] * len(prompts), None, 1.0, watch)

    def sample(
        self,
        prompts: Sequence[Ids],
        generator: np.random.Generator,
        temperature: float = 1.0,
        watch: Watch | None = None,
        part: slice | None = None,
    ) -> Texts:
        """Tokens drawn by inverse CDF, one uniform number for each place of each text, drawn beforehand.

        So a text depends on the prompts and the generator alone, not on which texts end first.

        Args:
            part: a stretch of the prompts; it alone is written, with the texts that it has among all.

        Raises:
            ValueError: a temperature that is not above 0.
        """
        if not temperature > 0.0:
            raise ValueError(f"Expected a temperature above 0, got {temperature}; call `greedy` for its limit.")
        uniforms = generator.random((len(prompts), self.max_new_tokens))
        if part is not None:
            prompts, uniforms = prompts[part], uniforms[part]
        return self._write(prompts, [()] * len(prompts), uniforms, temperature, watch)

    @torch.inference_mode()
    def _write(
        self,
        prompts: Sequence[Ids],
        begun: Sequence[Ids],
        uniforms: NDArray[np.float64] | None,
        temperature: float,
        watch: Watch | None,
    ) -> Texts:
        if not self._remembers:
            self.forget()  # what is computed from the weights beforehand, such as relative positions
        outputs: list[list[int]] = [[] for _ in prompts]
        lengths = [len(prompt) + len(before) for prompt, before in zip(prompts, begun, strict=True)]
        order = np.argsort(lengths, kind="stable")
        for first in range(0, len(order), self._session.rows):
            texts = order[first : first + self._session.rows]
            following = self._begin([prompts[i] for i in texts], [begun[i] for i in texts])
            places = np.array([len(begun[i]) for i in texts])
            self._write_rows(texts, following, places, uniforms, temperature, watch, outputs)
        return Texts(list(prompts), outputs)

    def _begin(self, prompts: Sequence[Ids], begun: Sequence[Ids]) -> NDArray[np.int64]:
        """Read prompts and what is written into the first rows, but for the last tokens, which come back, (n, 1)."""
        rows = np.arange(len(prompts))
        if not self._opening:
            texts = [[*prompt, *before] for prompt, before in zip(prompts, begun, strict=True)]
            self._session.reset(rows, [text[:-1] for text in texts])
            return np.array([text[-1:] for text in texts], np.int64)
        self._session.reset(rows, prompts)
        texts = [[self._opening[-1], *before] for before in begun]
        counts = np.array([len(before) for before in begun])
        if counts.any():
            tokens = np.zeros((len(rows), counts.max()), np.int64)
            for row, text in enumerate(texts):
                tokens[row, : len(text) - 1] = text[:-1]
            self._session.append(rows, tokens, counts)
        return np.array([text[-1:] for text in texts], np.int64)

    def _write_rows(
        self,
        texts: NDArray[np.int64],
        following: NDArray[np.int64],
        places: NDArray[np.int64],
        uniforms: NDArray[np.float64] | None,
        temperature: float,
        watch: Watch | None,
        outputs: list[list[int]],
    ) -> None:
        """Write the texts at `texts` (n,) side by side, from `following` (n, 1) on, which stands before `places` (n,).

        Rows that end drop out of the passes.
        """
        rows = np.arange(len(texts))
        while rows.size:
            scores = self._session.logits(self._session.append(rows, following)[:, 0])[:, : self.vocabulary]
            if uniforms is None:
                tokens = scores.argmax(-1)
            else:
                tokens = inverse_cdf((scores / temperature).softmax(-1).double(), uniforms[texts, places])
            capped = places == self.max_new_tokens - 1
            if self._last is not None and capped.any():
                tokens = tokens.masked_fill(torch.from_numpy(capped).to(tokens.device), self._last)
            if watch is not None:
                watch(texts, scores.log_softmax(-1), tokens)
            chosen = tokens.cpu().numpy()
            for i, token in zip(texts.tolist(), chosen.tolist(), strict=True):
                outputs[i].append(token)
            going = ~(np.isin(chosen, self._ends) | capped)
            if self._finished is not None:
                self._finished(int((~going).sum()))
            rows, texts, places, following = rows[going], texts[going], places[going] + 1, chosen[going, None]
