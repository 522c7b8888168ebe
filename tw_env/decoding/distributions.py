"""Next-token distributions turned into the few numbers that the game keeps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LOWEST = -20.0  # log-probabilities are clipped here wherever they are observed (2e-9)


def width(top_k: int) -> int:
    """How many features `student_view` shows: `top_k` log-probabilities, entropy, margin, surprise."""
    return top_k + 3


def student_view(logits: Tensor, top_k: int) -> Tensor:
    """What a greedy student's distribution shows of itself.

    Args:
        logits: (rows, vocab).

    Returns:
        (rows, 1 + top_k + 3): likeliest token, top log-probabilities in falling order, entropy, margin between the best
        two, surprise -log p of the token (all nats).
    """
    probs = logits.softmax(-1)
    top, index = probs.topk(min(top_k, logits.shape[-1]))
    logprobs, token = top.log(), index[:, :1]
    # H = log Z - E[logit], without a normalised copy of the vocabulary; clamped, since 0 * -inf would be nan.
    log_total = logits.gather(1, token) - logprobs[:, :1]
    entropy = log_total - torch.linalg.vecdot(probs, logits.clamp(min=-1e30))[:, None]
    return _columns(token, logprobs, entropy.clamp_(min=0.0), -logprobs[:, :1], top_k)


def sampled_view(logits: Tensor, top_k: int, uniforms: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """As `student_view`, with a token drawn by inverse CDF; also the log-probabilities (rows, vocab).

    Args:
        uniforms: (rows,) numbers in [0, 1).
    """
    logprobs = logits.log_softmax(-1)
    probs = logprobs.exp()
    top, _ = logprobs.topk(min(top_k, logits.shape[-1]))
    token = inverse_cdf(probs.double(), uniforms)[:, None]
    entropy = torch.special.entr(probs).sum(-1, keepdim=True)
    return _columns(token, top, entropy, -logprobs.gather(1, token), top_k), logprobs


def _columns(token: Tensor, top: Tensor, entropy: Tensor, surprise: Tensor, top_k: int) -> Tensor:
    if top.shape[1] < top_k:  # a vocabulary smaller than top_k
        top = torch.nn.functional.pad(top, (0, top_k - top.shape[1]), value=LOWEST)
    top = top.clamp(min=LOWEST)
    return torch.cat([token.to(top.dtype), top, entropy, top[:, :1] - top[:, 1:2], surprise], dim=1)


def teacher_view(logprobs: Tensor, proposal: Tensor) -> Tensor:
    """(m, 3): the teacher's likeliest token, its log-probability, and that of the student's proposal (m,)."""
    best, index = logprobs.max(-1)
    score = logprobs.gather(1, proposal[:, None])[:, 0]
    return torch.stack([index.to(best.dtype), best, score], dim=1)


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p_S || p_T) in nats over the last axis of two arrays of log-probabilities."""
    return (student.exp() * (student - teacher)).nan_to_num(0.0).sum(-1)


def inverse_cdf(weights: Tensor, uniforms: NDArray[np.float64]) -> Tensor:
    """(rows,) tokens drawn from unnormalised weights (rows, vocab), one uniform number a row."""
    cumulative = weights.cumsum(-1)
    target = torch.from_numpy(uniforms).to(cumulative)[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # Rounding may push the target to the total itself; the last token with weight is meant then.
    last = weights.shape[-1] - 1 - weights.flip(-1).gt(0).to(torch.uint8).argmax(-1)
    return torch.minimum(token, last)
