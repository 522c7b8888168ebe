"""The log-odds with which a student's own ask tokens call the teacher."""

from __future__ import annotations

import torch
from torch import Tensor

SUREST = 1e-6  # least 1 - p_max that is told from 0 in single precision


def log_odds(asks: Tensor, logits: Tensor, doubt: float = 0.0, total: Tensor | None = None) -> Tensor:
    """(...) logsumexp(z_ask) - logsumexp(z_vocabulary) + doubt log((1 - p_max) / p_max).

    Without doubt this is the logit of P(ask) in one softmax over the vocabulary and the ask tokens. With it, the ask
    tokens say how much more or less to ask than the student's largest probability p_max asks for, which sums of
    exponentials of the state don't express; no gradient goes through it, so that asking never teaches to be unsure.

    Args:
        asks: (..., ask tokens) their logits. logits: (..., vocabulary) those of all that may be written.
        doubt: its weight, `ask_doubt` of a student's config. total: (...) the second logsumexp where it is known.
    """
    total = logits.logsumexp(-1) if total is None else total
    found = asks.logsumexp(-1) - total
    return found + doubt * log_doubt(logits, total) if doubt else found


def log_doubt(logits: Tensor, total: Tensor) -> Tensor:
    """(...) log((1 - p_max) / p_max) from logits (..., vocabulary) and their logsumexp (...), without a gradient."""
    largest = (logits.detach().amax(-1) - total.detach()).clamp(max=-SUREST)
    return torch.log(-torch.expm1(largest)) - largest
