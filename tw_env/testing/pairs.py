"""Check of a pair of models: deterministic, causal in what they write, and the same with a cache as without."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tw_env.decoding.conventions import conventions_of
from tw_env.decoding.loading import load_pair
from tw_env.decoding.session import NEVER, Session
from tw_env.testing.compare import expect


def check_pair(
    student: str,
    teacher: str,
    *,
    device: str = "cpu",
    dtype: str = "float64",
    tolerance: float = 1e-4,
    seed: int = 0,
) -> None:
    """Check that two models can play the game together.

    Checked: they load as a pair (same vocabulary); each gives finite logits for every token, the same ones
    twice, and none that depend on later tokens; a text written piece by piece in a row of a batch, with
    tokens taken back, gives the logits of one whole forward pass.

    Args:
        student, teacher: folders or hub ids. device, dtype: where and how precisely to compute.
        tolerance: between log-probabilities, in nats. seed: of the token ids tried.

    Raises:
        AssertionError: what was expected and what came.
    """
    try:
        pair = load_pair(student, teacher, device=device, dtype=dtype)
    except (OSError, TypeError, ValueError) as error:
        raise AssertionError(str(error)) from error
    ends = list(pair.end_tokens)
    expect(
        bool(ends) and all(0 <= end < pair.vocabulary for end in ends),
        f"Expected end tokens among the {pair.vocabulary} ids of the vocabulary, got {ends}.",
    )
    tokens = np.random.default_rng(seed).integers(pair.vocabulary, size=(2, 8))  # (rows, length)
    for who, model in (("student", pair.student), ("teacher", pair.teacher)):
        _check_model(who, model, tokens, pair.vocabulary, tolerance)


@torch.inference_mode()
def _whole(model: Any, tokens: NDArray[np.int64], vocabulary: int) -> torch.Tensor:
    """(rows, length, vocabulary) log-probabilities by one forward pass; an encoder reads what the decoder reads."""
    ids = torch.from_numpy(tokens).to(model.device)
    source = torch.from_numpy(_sources(tokens)).to(model.device)
    decoded = {"input_ids": source, "decoder_input_ids": ids} if model.config.is_encoder_decoder else {"input_ids": ids}
    return _logprobs(model(**decoded, use_cache=False).logits, model, vocabulary)


def _logprobs(logits: torch.Tensor, model: Any, vocabulary: int) -> torch.Tensor:
    """Without the tokens that the model's conventions rule out."""
    logits = logits[..., :vocabulary].double().clone()
    logits[..., list(conventions_of(model).never)] = NEVER
    return logits.log_softmax(-1)


def _sources(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """(rows, 3) what the encoder reads before these texts; later tokens don't change it."""
    return tokens[:, :3]


def _check_model(who: str, model: Any, tokens: NDArray[np.int64], vocabulary: int, tolerance: float) -> None:
    whole = _whole(model, tokens, vocabulary)
    known = whole.shape[-1]
    expect(known == vocabulary, f"Expected {vocabulary} tokens of the {who}, got {known}.")
    expect(bool(whole.isfinite().all()), f"Expected finite log-probabilities of the {who}; some aren't.")
    again = _apart(whole, _whole(model, tokens, vocabulary))
    expect(again <= tolerance, f"Expected the {who}'s logits twice; they differ by {again:.2g} nats.")
    changed = tokens.copy()
    changed[:, -1] = (changed[:, -1] + 1) % vocabulary
    moved = _apart(whole[:, :-1], _whole(model, changed, vocabulary)[:, :-1])
    expect(moved <= tolerance, f"Expected a causal {who}; a later token moves logits by {moved:.2g} nats.")
    try:
        cached = _apart(whole[:, 2:], _through_cache(model, tokens, vocabulary))
    except ValueError as error:
        raise AssertionError(f"Expected a {who} that can be written token by token. {error}") from error
    expect(
        cached <= tolerance,
        f"Expected the {who}'s cached logits within {tolerance} nats of a whole pass, got {cached:.2g}.",
    )


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference between log-probabilities, in nats."""
    return float((one - other).abs().max())


@torch.inference_mode()
def _through_cache(model: Any, tokens: NDArray[np.int64], vocabulary: int) -> torch.Tensor:
    """(rows, length - 2, vocabulary) log-probabilities from place 2 on, after a rewind, piece by piece."""
    session = Session(model, len(tokens), tokens.shape[1])
    rows = np.arange(len(tokens))
    if session.opening:
        session.reset(rows, _sources(tokens).tolist())
        session.rewind(rows, np.zeros(len(tokens), np.int64))
        for place, row in enumerate(tokens):
            session.append(np.array([place]), row[None, : 2 + place])
    else:
        session.reset(rows, [row[: 2 + place].tolist() for place, row in enumerate(tokens)])
    session.append(None, (tokens[:, 4:6] + 1) % vocabulary)  # what will be taken back
    session.rewind(rows, np.full(len(tokens), 2))
    pieces = [session.append(None, tokens[:, start:stop]) for start, stop in ((2, 5), (5, 6), (6, 8))]
    return _logprobs(session.logits(torch.cat(pieces, dim=1)), model, vocabulary)
