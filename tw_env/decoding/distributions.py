"""Next-token distributions turned into the few numbers that the game keeps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.floating]
LOWEST = -20.0  # log-probabilities are clipped here wherever they are observed (2e-9)


def width(top_k: int) -> int:
    """How many features `student_view` shows: `top_k` log-probabilities, entropy, margin, surprise."""
    return top_k + 3


def student_view(logits: Tensor, top_k: int) -> FloatArray:
    """What a greedy student's distribution shows of itself, on the host.

    Args:
        logits: (rows, vocab).

    Returns:
        (rows, 1 + top_k + 3): likeliest token, top log-probabilities in falling order, entropy, margin between the best
        two, surprise -log p of the token (all nats).
    """
    top, index = logits.topk(min(top_k, logits.shape[-1]))
    shifted = (logits - top[:, :1]).clamp_(min=-1e4)  # logits of -inf would turn 0 log 0 into nan
    weights = shifted.exp()
    mean = torch.linalg.vecdot(weights, shifted)[:, None]
    packed = torch.cat([index[:, :1].to(top.dtype), top, weights.sum(-1, keepdim=True), mean], dim=1)
    numbers = packed.cpu().numpy()  # the one copy to the host
    top_logits, total = numbers[:, 1:-2], numbers[:, -2]
    log_total = np.log(total)
    # H = log Z - E[logit], for logits shifted by their maximum; no normalised copy of the vocabulary is made.
    entropy = log_total - numbers[:, -1] / total
    logprobs = top_logits - (top_logits[:, 0] + log_total)[:, None]
    return _columns(numbers[:, 0], logprobs, entropy, log_total, top_k)


def sampled_view(logits: Tensor, top_k: int, uniforms: FloatArray) -> tuple[FloatArray, Tensor]:
    """As `student_view`, with a token drawn by inverse CDF; also the log-probabilities (rows, vocab), on the device.

    Args:
        uniforms: (rows,) numbers in [0, 1).
    """
    logprobs = logits.log_softmax(-1)
    probs = logprobs.exp()
    top, _ = logprobs.topk(min(top_k, logits.shape[-1]))
    token = inverse_cdf(probs.double(), uniforms)[:, None]
    entropy = torch.special.entr(probs).sum(-1, keepdim=True)
    packed = torch.cat([token.to(top.dtype), top, entropy, -logprobs.gather(1, token)], dim=1)
    numbers = packed.cpu().numpy()
    return _columns(numbers[:, 0], numbers[:, 1:-2], numbers[:, -2], numbers[:, -1], top_k), logprobs


def _columns(token: FloatArray, top: FloatArray, entropy: FloatArray, surprise: FloatArray, top_k: int) -> FloatArray:
    """The numbers of a view side by side, clipped to what is observed."""
    view = np.full((len(token), 1 + width(top_k)), LOWEST, token.dtype)  # a vocabulary may be smaller than top_k
    view[:, 0] = token
    np.maximum(top, LOWEST, out=view[:, 1 : 1 + top.shape[1]])
    np.maximum(entropy, 0.0, out=view[:, -3])
    np.subtract(view[:, 1], view[:, 2], out=view[:, -2])
    view[:, -1] = surprise
    return view


def teacher_view(logprobs: Tensor, proposal: Tensor) -> Tensor:
    """(m, 3): the teacher's likeliest token, its log-probability, and that of the student's proposal (m,)."""
    best, index = logprobs.max(-1)
    score = logprobs.gather(1, proposal[:, None])[:, 0]
    return torch.stack([index.to(best.dtype), best, score], dim=1)


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p_S || p_T) in nats over the last axis of two arrays of log-probabilities."""
    return (student.exp() * (student - teacher)).nan_to_num(0.0).sum(-1)


def inverse_cdf(weights: Tensor, uniforms: FloatArray) -> Tensor:
    """(rows,) tokens drawn from unnormalised weights (rows, vocab), one uniform number a row."""
    cumulative = weights.cumsum(-1)
    target = torch.from_numpy(uniforms).to(cumulative)[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # Rounding may push the target to the total itself; the last token with weight is meant then.
    last = weights.shape[-1] - 1 - weights.flip(-1).gt(0).to(torch.uint8).argmax(-1)
    return torch.minimum(token, last)
