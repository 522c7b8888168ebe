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


def student_view(logits: Tensor, top_k: int, uniforms: NDArray[np.float64] | None) -> tuple[Tensor, Tensor]:
    """What the student's distribution shows of itself.

    Args:
        logits: (rows, vocab).
        uniforms: (rows,) numbers in [0, 1) for sampling; None takes the likeliest token.

    Returns:
        (rows, 1 + top_k + 3): token, top log-probabilities in falling order, entropy, margin between the best two,
        surprise -log p of the token (all nats); and the log-probabilities (rows, vocab).
    """
    logprobs = logits.log_softmax(-1)
    probs = logprobs.exp()
    top, index = logprobs.topk(min(top_k, logits.shape[-1]))
    entropy = torch.special.entr(probs).sum(-1, keepdim=True)
    if uniforms is None:
        token, chosen = index[:, :1], top[:, :1]
    else:
        token = inverse_cdf(probs.double(), uniforms)[:, None]
        chosen = logprobs.gather(1, token)
    top = top.clamp(min=LOWEST)
    if top.shape[1] < top_k:  # a vocabulary smaller than top_k
        top = torch.nn.functional.pad(top, (0, top_k - top.shape[1]), value=LOWEST)
    parts = [token.to(top.dtype), top, entropy, top[:, :1] - top[:, 1:2], -chosen]
    return torch.cat(parts, dim=1), logprobs


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
