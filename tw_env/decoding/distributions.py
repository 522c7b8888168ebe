"""Next-token distributions turned into the few numbers that the game keeps."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.floating]
LOWEST = -20.0  # log-probabilities are clipped here wherever they are observed
LEAST = math.exp(LOWEST)  # the probability there, 2e-9


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
    count, probs = min(top_k, logits.shape[-1]), logits.softmax(-1)
    if logits.is_cpu:
        token, top, best, mean = _summary(logits.numpy(), probs.numpy(), count)
    else:
        index = logits.argmax(-1)  # as `generate` chooses; among ties, topk may choose another
        best_logit = logits.gather(1, index[:, None])[:, 0]
        largest, mean_logit = probs.topk(count).values, torch.linalg.vecdot(probs, logits)
        token, top, best, mean = _to_host(index, largest, best_logit, mean_logit)
    logprobs = np.log(np.maximum(top, LEAST))
    # H = log Z - E[logit]; no logarithm of the whole vocabulary is taken.
    entropy: FloatArray = best - logprobs[:, 0] - mean
    if math.isnan(entropy.sum()):  # logits of -inf: 0 log 0
        entropy = _to_host(torch.special.entr(logits.softmax(-1)).sum(-1))[0]
    return _view(token, logprobs, entropy, -logprobs[:, 0], top_k)


def _summary(
    logits: FloatArray, probs: FloatArray, count: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Likeliest token, its (rows, count) largest probabilities, its logit, and the mean logit; `probs` are used up.

    On the host, numpy's passes over a row cost less than torch's selection and sums.
    """
    with np.errstate(invalid="ignore"):  # 0 times -inf, see `student_view`
        mean = np.vecdot(probs, logits)
    left, first = probs.reshape(-1), np.arange(0, probs.size, probs.shape[1])
    token = logits.argmax(axis=1)
    at = first + token
    best = logits.reshape(-1)[at]
    top = np.empty((count, len(probs)), probs.dtype)
    top[0] = left[at]
    for place in range(1, count):
        left[at] = -1.0
        at = first + probs.argmax(axis=1)
        top[place] = left[at]
    return token, top.T, best, mean


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
    shown, top_logprobs, nats, of_token = _to_host(token, top, entropy, surprise)
    return _view(shown, top_logprobs, nats, of_token, top_k), logprobs


def _to_host(*tensors: Tensor) -> list[FloatArray]:
    """Tensors (rows,) or (rows, n) as arrays; from an accelerator in one copy."""
    if tensors[0].is_cpu:
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
