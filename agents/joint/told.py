"""A student in training as it is told rules: what it reads, and what it thinks of each token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agents.joint.config import JointConfig, JointData
from agents.joint.parallel import Precision
from agents.joint.reading import Ids, Texts, all_states, scores
from agents.joint.student import ask_log_odds, doubt_of, token_nats
from agents.joint.wording import Wording
from tw_env.decoding.reading import RuleReader


def unwritten(tokenizer: PreTrainedTokenizerBase, first: int, texts: Iterable[Ids]) -> list[int]:
    """Ids below `first` that are no special tokens and stand in none of the `texts`: words that only rules may use."""
    return sorted(set(range(first)).difference(tokenizer.all_special_ids, *texts))


class ToldStudent:
    """A student that reads a rule before each prompt.

    Args:
        model: with ask tokens, see `agents.joint.student`; its weights may change between two calls.
        tokenizer: the student's.

    Attributes:
        ask: id of the first ask token; those before it are the vocabulary. doubt: see `tw_env.decoding.asking`.
        wording: draws rules and says them. precision: of passes that are learnt from.

    Raises:
        ValueError: a student without ask tokens.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: JointData, config: JointConfig
    ) -> None:
        asks = getattr(model.config, "ask_token_ids", None)
        if not asks:
            raise ValueError("Expected a student with ask tokens, got one without: see agents.joint.student.")
        self.model, self.ask, self.doubt, self._data = model, int(asks[0]), doubt_of(model), data
        fillers = [] if config.misread == 0 else unwritten(tokenizer, self.ask, (*data.prompts, *data.stored))
        self.wording = Wording(
            RuleReader(tokenizer), config.limits, config.extremes, misread=config.misread, fillers=fillers
        )
        self.precision = Precision(config.precision, model.device)

    def prompts(
        self, generator: np.random.Generator, chosen: Sequence[int]
    ) -> tuple[NDArray[np.float64], list[tuple[int, ...]]]:
        """(n,) limits, and the `chosen` prompts behind a rule that says them."""
        limits, words = self.wording.draw(generator, len(chosen))
        return limits, self.wording.before(generator, words, [self._data.prompts[i] for i in chosen])

    def scores(self, texts: Texts) -> Tensor:
        """(steps, vocabulary and ask tokens) logits where each token was written, in single precision."""
        with self.precision.autocast():
            return scores(self.model, all_states(self.model, texts))

    def log_odds(self, texts: Texts) -> Tensor:
        """(steps,) of asking where each token was written."""
        return ask_log_odds(self.scores(texts), self.ask, self.doubt)

    def thoughts(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """(steps, vocabulary) log-probabilities and (steps,) log-odds of asking where each token was written."""
        found = self.scores(texts)
        return found[:, : self.ask].log_softmax(-1), ask_log_odds(found, self.ask, self.doubt)

    def nats(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """(steps,) nats of each token and (steps,) log-odds of asking where it was written."""
        found = self.scores(texts)
        return token_nats(found, texts.tokens.to(found.device), self.ask, self.doubt)
