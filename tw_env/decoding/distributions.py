"""Next-token distributions turned into the few numbers that the game keeps."""

from __future__ import annotations

import math

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
    # H = log Z - E[logit], for logits shifted by their maximum; no normalised copy of the vocabulary is made.
    shifted = logits - logits.amax(-1, keepdim=True)
    weights = shifted.exp()
    mean, total = _to_host(torch.linalg.vecdot(weights, shifted), weights.sum(-1))
    log_total = np.log(total)
    entropy = log_total - mean / total
    if math.isnan(entropy.sum()):  # logits of -inf: 0 log 0
        (entropy,) = _to_host(torch.special.entr(logits.softmax(-1)).sum(-1))
    token, top = _top(shifted, min(top_k, logits.shape[-1]))
    return _view(token, top - log_total[:, None], entropy, log_total, top_k)


def sampled_view(logits: Tensor, top_k: int, uniforms: FloatArray) -> tuple[FloatArray, Tensor]:
    """As `student_view`, with a token drawn by inverse CDF; also the log-probabilities (rows, vocab), on the device.

    Args:
        uniforms: (rows,) numbers in [0, 1).
    """
    logprobs = logits.log_softmax(-1)
    probs = logprobs.exp()
    top, _ = logprobs.topk(min(top_k, logits.shape[-1]))
    token = inverse_cdf(probs.double(), uniforms)
    entropy, surprise = torch.special.entr(probs).sum(-1), -logprobs.gather(1, token[:, None])[:, 0]
    return _view(*_to_host(token, top, entropy, surprise), top_k), logprobs


def _top(scores: Tensor, count: int) -> tuple[FloatArray, FloatArray]:
    """(rows,) the best column, and (rows, count) the largest scores in falling order. The scores are used up."""
    if scores.device.type != "cpu":
        values, index = scores.topk(count)
        best, top = _to_host(index[:, 0], values)
        return best, top
    left, rows = scores.numpy(), np.arange(len(scores))  # a few passes of numpy's argmax beat torch's selection here
    top, best = np.empty((len(left), count), left.dtype), left.argmax(axis=1)
    column = best
    for place in range(count):
        top[:, place] = left[rows, column]
        if place + 1 < count:
            left[rows, column] = -np.inf
            column = left.argmax(axis=1)
    return best, top


def _to_host(*tensors: Tensor) -> list[FloatArray]:
    """Tensors (rows,) or (rows, n) as arrays; from an accelerator in one copy."""
    if tensors[0].device.type == "cpu":
        return [tensor.numpy() for tensor in tensors]
    columns = [tensor.float().reshape(len(tensor), -1) for tensor in tensors]
    parts = np.split(torch.cat(columns, dim=1).cpu().numpy(), np.cumsum([c.shape[1] for c in columns[:-1]]), axis=1)
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _view(token: FloatArray, top: FloatArray, entropy: FloatArray, surprise: FloatArray, top_k: int) -> FloatArray:
    """The numbers of a view side by side, clipped to what is observed; columns as in `student_view`."""
    view = np.empty((len(token), 1 + width(top_k)), np.float32)
    view[:, 0] = token
    shown = top.shape[1]
    np.maximum(top, LOWEST, out=view[:, 1 : 1 + shown])
    if shown < top_k:  # a smaller vocabulary
        view[:, 1 + shown : -3] = LOWEST
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
