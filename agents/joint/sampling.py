"""Texts written by a model that may still be training: sampled or greedy, many at once, no teacher needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from agents.joint.reading import Ids, Texts
from tw_env.decoding.distributions import inverse_cdf
from tw_env.decoding.session import Session

Watch = Callable[[NDArray[np.int64], Tensor, Tensor], object]
"""Called at each place with the rows (n,) that write there, log-probabilities (n, vocab) and the tokens chosen (n,)."""


class Writer:
    """Writes texts with a causal model in evaluation mode; its weights may change between two calls.

    Args:
        model: the writer.
        prompt_tokens: longest prompt. max_new_tokens: cap on written tokens, end token included.
        end_tokens: ids that end a text.
        vocabulary: only the first so many tokens can be written; None for all.
        rows: texts that are written side by side.
        keep_prompts: how many prompts' keys and values are remembered between calls. Leave it at 0 while the model
            trains, or call `forget` after each change of its weights.

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
    ) -> None:
        if not end_tokens or max_new_tokens < 1:
            raise ValueError(
                f"Expected at least one end token and max_new_tokens >= 1; got {list(end_tokens)}, {max_new_tokens}."
            )
        self.max_new_tokens, self.vocabulary = max_new_tokens, vocabulary
        self._ends = np.array(sorted(end_tokens), np.int64)
        self._session = Session(model, rows, prompt_tokens + max_new_tokens - 1, keep_prompts)

    def forget(self) -> None:
        """Drop the remembered prompts: the weights have changed."""
        self._session.forget_prompts()

    def greedy(self, prompts: Sequence[Ids], watch: Watch | None = None) -> Texts:
        """The likeliest token at every place; texts in the prompts' order."""
        return self._write(prompts, None, 1.0, watch)

    def sample(
        self,
        prompts: Sequence[Ids],
        generator: np.random.Generator,
        temperature: float = 1.0,
        watch: Watch | None = None,
    ) -> Texts:
        """Tokens drawn by inverse CDF, one uniform number for each place of each text, drawn beforehand.

        So a text depends on the prompts and the generator alone, not on which texts end first.

        Raises:
            ValueError: a temperature that is not above 0.
        """
        if not temperature > 0.0:
            raise ValueError(f"Expected a temperature above 0, got {temperature}; call `greedy` for its limit.")
        return self._write(prompts, generator.random((len(prompts), self.max_new_tokens)), temperature, watch)

    @torch.inference_mode()
    def _write(
        self, prompts: Sequence[Ids], uniforms: NDArray[np.float64] | None, temperature: float, watch: Watch | None
    ) -> Texts:
        outputs: list[list[int]] = [[] for _ in prompts]
        order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
        for first in range(0, len(order), self._session.rows):
            self._write_rows(prompts, order[first : first + self._session.rows], uniforms, temperature, watch, outputs)
        return Texts(list(prompts), outputs)

    def _write_rows(
        self,
        prompts: Sequence[Ids],
        texts: NDArray[np.int64],
        uniforms: NDArray[np.float64] | None,
        temperature: float,
        watch: Watch | None,
        outputs: list[list[int]],
    ) -> None:
        """Write the texts at `texts` (n,) side by side; rows that end drop out of the passes."""
        session, rows = self._session, np.arange(len(texts))
        session.reset(rows, [prompts[i][:-1] for i in texts])
        following = np.array([[prompts[i][-1]] for i in texts], np.int64)
        for place in range(self.max_new_tokens):
            hidden = session.append(rows, following)[:, 0]
            scores = session.logits(hidden)[:, : self.vocabulary]
            if uniforms is None:
                tokens = scores.argmax(-1)
            else:
                tokens = inverse_cdf((scores / temperature).softmax(-1).double(), uniforms[texts, place])
            if watch is not None:
                watch(texts, scores.log_softmax(-1), tokens)
            chosen = tokens.cpu().numpy()
            for i, token in zip(texts.tolist(), chosen.tolist(), strict=True):
                outputs[i].append(token)
            going = ~np.isin(chosen, self._ends)
            rows, texts, following = rows[going], texts[going], chosen[going, None]
            if not rows.size:
                return
