"""A pair's latency table, measured once at batch 1: a student step, teacher calls of 1..K unread tokens, encoders."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from transformers import PreTrainedModel

from tw_env.costs import LatencyTable
from tw_env.decoding import distributions
from tw_env.decoding.checks import check_room
from tw_env.decoding.conventions import conventions_of
from tw_env.decoding.loading import Pair
from tw_env.decoding.session import Session

Clock = Callable[[], float]
WARM_UP = 3  # first passes allocate and compile


def measure(
    pair: Pair,
    prompt: int = 12,
    unread: Sequence[int] = (1, 2, 4, 8, 16),
    rounds: int = 30,
    top_k: int = 5,
    clock: Clock = time.perf_counter,
) -> LatencyTable:
    """Time both models on one row of text and fit c_T(k) = a + b (k - 1).

    Medians over rounds; the sizes of the calls take turns, so that a busy machine slows all of them alike. The
    student's step includes what the policy sees of its distribution; the policy itself is not timed. Of
    encoder-decoders, the encoders are timed, too.

    Args:
        prompt: tokens of text before what is timed, or of the source of an encoder-decoder.
        unread: numbers of unread tokens k whose calls are timed, at least two different ones.
        rounds: how often each is timed.
        top_k: see `Settings.top_k`.
        clock: seconds; on a busy machine, `time.process_time` tells what models on a processor take by themselves.

    Raises:
        ValueError: fewer than two sizes, sizes below 1, or more tokens than a model has positions for.
    """
    sizes = sorted(set(unread))
    if len(sizes) < 2 or sizes[0] < 1 or rounds < 1 or prompt < 1:
        raise ValueError(
            f"Expected at least two different numbers of unread tokens >= 1, a prompt and rounds >= 1; got "
            f"unread={list(unread)}, prompt={prompt}, rounds={rounds}."
        )
    for model in (pair.student, pair.teacher):
        check_room(model, prompt, sizes[-1], "what is timed")
    student = _timer(pair.student, prompt, 1, lambda logits: distributions.student_view(logits, top_k), clock)
    teacher = {
        size: _timer(pair.teacher, prompt, size, lambda logits: logits.argmax(-1).cpu(), clock) for size in sizes
    }
    models = (pair.student, pair.teacher) if pair.encoder_decoder else ()
    encoders = [_encoder_timer(model, prompt, clock) for model in models]
    timers = [student, *teacher.values(), *encoders]
    for timer in timers * WARM_UP:
        timer()
    samples = [[timer() for timer in timers] for _ in range(rounds)]
    ms = [1000.0 * median(column) for column in zip(*samples, strict=True)]
    slope, first = _fit(np.array(sizes, np.float64), np.array(ms[1 : 1 + len(sizes)]))
    table = LatencyTable(student_ms=ms[0], teacher_ms=first, teacher_ms_per_token=slope)
    if not encoders:
        return table
    return replace(table, student_prompt_ms=ms[-2], teacher_prompt_ms=max(ms[-1] - slope * prompt, 0.0))


def _timer(
    model: PreTrainedModel, prompt: int, size: int, use: Callable[[torch.Tensor], object], clock: Clock
) -> Callable[[], float]:
    """Seconds of one pass over `size` tokens behind the prompt, its logits used on the host; repeatable."""
    opening = len(conventions_of(model).opening)
    session, row = Session(model, 1, (opening or prompt) + size), np.zeros(1, np.int64)
    session.reset(row, [[0] * prompt])
    begin = session.lengths.copy()
    tokens = np.zeros((1, size), np.int64)

    @torch.inference_mode()
    def once() -> float:
        session.rewind(row, begin)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        begun = clock()
        use(session.logits(session.append(row, tokens)[0]))  # the copy to the host waits for the device
        return clock() - begun

    return once


def _encoder_timer(model: PreTrainedModel, prompt: int, clock: Clock) -> Callable[[], float]:
    """Seconds in which an encoder-decoder begins a text: the encoder reads the prompt, the decoder's session is set."""
    room = len(conventions_of(model).opening) + 1
    session, row = Session(model, 1, room, prompt_memory=0), np.zeros(1, np.int64)

    @torch.inference_mode()
    def once() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        begun = clock()
        session.reset(row, [[0] * prompt])
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return clock() - begun

    return once


def _fit(sizes: np.ndarray, ms: np.ndarray) -> tuple[float, float]:
    """Slope and value at one token of the least-squares line; no slope below 0, since reading more is not faster."""
    slope, _ = np.polyfit(sizes, ms, 1)
    slope = max(float(slope), 0.0)
    return slope, max(float(ms.mean() - slope * (sizes.mean() - 1.0)), 0.0)
