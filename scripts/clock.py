"""Outputs by the clock, one prompt at a time: the game's and transformers' own, in turns on one machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from agents.baselines.oracles import Oracle
from tw_env.actions import Action
from tw_env.costs import CostModel, LatencyTable
from tw_env.decoding.accept import parse_accept
from tw_env.decoding.loading import Pair
from tw_env.decoding.probe import examine
from tw_env.game import Game
from tw_env.generate.playing import Terms, play, set_up
from tw_env.policies import student_alone
from tw_env.rules import Constraint
from tw_env.schedule import Starts

FloatArray = NDArray[np.float64]
Ids = Sequence[Sequence[int]]

DEFAULTS = -1  # a draft length: assisted generation as transformers sets it by itself


@dataclass(frozen=True)
class Output:
    """One text and what it took.

    Attributes:
        tokens: new ids, the end token included. calls: of the teacher. steps: forward passes of the student.
        read: tokens that the teacher read, the prompt included; 0 where nobody counts them.
    """

    tokens: tuple[int, ...]
    calls: int
    steps: int
    read: int = 0


class Writer(Protocol):
    """Writes the text of a prompt; the clock runs in `write` alone."""

    def prepare(self, prompt: int) -> None:
        """Forget what an earlier text of this prompt has left behind."""
        ...

    def write(self, prompt: int) -> Output:
        """The text, as fast as it can."""
        ...


class Played:
    """The game at batch 1, the teacher reading only when it is called; one game for all prompts, as in a server.

    Args:
        policy: what `tw_env.generate.playing.set_up` takes.
        prompts: token ids of each. told: the same as a student that reads rules is told them.
        costs: what a rule on time is measured by; none for rules on calls.
    """

    def __init__(
        self, pair: Pair, policy: Any, prompts: Ids, cap: int, rule: Constraint, accept: str, told: Ids | None = None,
        costs: CostModel | None = None,
    ) -> None:  # fmt: skip
        terms = Terms(cap, False, parse_accept(accept), False, costs or CostModel(), pair.end_tokens)
        self._prompts, self._told, self._rule = prompts, told, rule
        longest = [max(prompts, key=len)]
        self._game, self._player = set_up(
            pair, policy, Starts(np.arange(1), longest, [rule], None if told is None else [max(told, key=len)]), terms
        )

    def prepare(self, prompt: int) -> None:
        self._game.texts.forget_prompts()

    def write(self, prompt: int) -> Output:
        told = None if self._told is None else [self._told[prompt]]
        starts = Starts(np.arange(1), [self._prompts[prompt]], [self._rule], told)
        before = self._game.texts.teacher_tokens
        written = play(self._game, self._player, starts, prompt, True, None)
        read = self._game.texts.teacher_tokens - before
        return Output(tuple(written.tokens[0]), int(written.calls[0]), int(self._game.steps[0]), read)


class Foresight:
    """Plays one text by an oracle, and from then on as it did, without a look at the teacher.

    Attributes:
        plan: what was chosen, step by step; an empty one is made by the oracle.
    """

    def __init__(self, game: Game) -> None:
        self.oracle = Oracle(SimpleNamespace(game=game), Action.ASK)
        self.plan: list[int] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[NDArray[np.int64], int]:  # fmt: skip
        """As a policy's; `state` counts the steps."""
        step = state or 0
        if step == len(self.plan):
            actions, _ = self.oracle.predict(observation, None, episode_start, deterministic, action_masks)
            self.plan.append(int(np.asarray(actions)[0]))
        return np.array(self.plan[step : step + 1]), step + 1


class Foreseen(Played):
    """The teacher's text by an oracle that asks where the two differ, and found out before the clock began."""

    def __init__(self, pair: Pair, prompts: Ids, cap: int, rule: Constraint) -> None:
        super().__init__(pair, student_alone, prompts, cap, rule, "exact")
        self._player = Foresight(self._game)
        self._plans: dict[int, list[int]] = {}

    def prepare(self, prompt: int) -> None:
        """Find out where to ask, once for each prompt."""
        super().prepare(prompt)
        self._player.plan = self._plans.setdefault(prompt, [])
        if not self._player.plan:
            super().write(prompt)
            super().prepare(prompt)


class Generated:
    """transformers' own `generate`, greedy: the teacher, assisted by the student in drafts of a length, or alone.

    Args:
        draft: tokens of a draft; `DEFAULTS` for what transformers chooses; None for a model alone.
        alone: which model writes then.
    """

    def __init__(self, pair: Pair, prompts: Ids, cap: int, draft: int | None, alone: str = "teacher") -> None:
        self._pair, self._draft = pair, draft
        self._model: Any = pair.student if draft is None and alone == "student" else pair.teacher
        opening = len(pair.conventions.opening)
        self._ids = [torch.tensor([ids], device=pair.teacher.device) for ids in prompts]
        self._first = [opening or len(ids) for ids in prompts]  # what stands before the new tokens
        self._options: dict[str, Any] = {
            "do_sample": False, "num_beams": 1, "eos_token_id": list(pair.end_tokens),
            "pad_token_id": pair.end_tokens[0],
            "max_new_tokens": cap + max(opening - 1, 0),  # `generate` counts a first token that is forced
        }  # fmt: skip
        if draft is not None:
            self._options["assistant_model"] = pair.student

    def prepare(self, prompt: int) -> None:
        """Nothing is left behind; the number of calls is found in an untimed run, see `counted`."""

    def write(self, prompt: int) -> Output:
        ids = self._ids[prompt]
        with drafting(self._pair.student, self._draft):
            text = self._model.generate(ids, attention_mask=torch.ones_like(ids), **self._options)
        return Output(tuple(text[0, self._first[prompt] :].tolist()), 0, 0)


@contextmanager
def drafting(student: PreTrainedModel, draft: int | None) -> Iterator[None]:
    """Drafts of this constant length while it lasts; they end early at the end token alone."""
    if draft is None or draft == DEFAULTS:
        yield
        return
    config: Any = student.generation_config
    wanted = {
        "num_assistant_tokens": draft,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.0,
    }
    before = {name: getattr(config, name, None) for name in wanted}
    for name, value in wanted.items():
        setattr(config, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


@contextmanager
def passes(model: PreTrainedModel) -> Iterator[list[int]]:
    """Counts the forward passes of a model, those of the decoder where there is an encoder, in a list of one."""
    count = [0]

    def one_more(*_: object) -> None:
        count[0] += 1

    handle = examine(model).base.register_forward_pre_hook(one_more)
    try:
        yield count
    finally:
        handle.remove()


def counted(writer: Writer, pair: Pair, prompt: int) -> tuple[Output, int]:
    """The text, and the teacher's forward passes; they are the calls of what keeps no account of its own.

    An encoder-decoder of the game makes one pass more than it has calls: the one that reads the source.
    """
    writer.prepare(prompt)
    with passes(pair.teacher) as calls, passes(pair.student) as steps:
        output = writer.write(prompt)
    if isinstance(writer, Generated):
        output = Output(output.tokens, calls[0], steps[0])
    return output, calls[0]


# ---- the clock -------------------------------------------------------------------------------------------------


@dataclass
class Timed:
    """Seconds of each prompt, medians over rounds, (prompts,); `cpu` is the process's time on the processor."""

    cpu: FloatArray
    wall: FloatArray
    outputs: list[Output]

    def chosen(self, device: str) -> FloatArray:
        """What ratios are made of: processor time, which a busy machine can't stretch much, or a GPU's clock."""
        return self.wall if device == "cuda" else self.cpu


def race(
    writers: Mapping[str, Writer],
    prompts: Sequence[int],
    rounds: int,
    device: torch.device,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Timed]:
    """Every writer writes every prompt's text `rounds` times, in turns that begin with another writer each time.

    Raises:
        ValueError: no prompts, or fewer than one round.
    """
    if not len(prompts) or rounds < 1:
        raise ValueError(f"Expected prompts to time and rounds >= 1, got {len(prompts)} prompts and rounds={rounds}.")
    names = list(writers)
    seconds = {name: np.zeros((2, len(prompts), rounds)) for name in names}
    outputs: dict[str, list[Output]] = {name: [] for name in names}
    for name in names:
        writers[name].prepare(prompts[0])
        writers[name].write(prompts[0])  # what the first pass sets up is not timed
    for place, prompt in enumerate(prompts):
        for turn in range(rounds):
            first = (place + turn) % len(names)
            for name in names[first:] + names[:first]:
                writers[name].prepare(prompt)
                _wait(device)
                cpu, wall = time.process_time(), time.perf_counter()
                output = writers[name].write(prompt)
                _wait(device)
                seconds[name][:, place, turn] = time.process_time() - cpu, time.perf_counter() - wall
                if turn == 0:
                    outputs[name].append(output)
        progress()
    medians = {name: np.median(seconds[name], axis=2) for name in names}  # (2, prompts)
    return {name: Timed(medians[name][0], medians[name][1], outputs[name]) for name in names}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def side_by_side(
    pair: Pair, policy: Any, prompts: Ids, cap: int, rule: Constraint, rows: int
) -> tuple[FloatArray, int]:
    """Write all prompts' texts, `rows` at a time, with a teacher that reads the rows that call it.

    Returns:
        (2,) seconds on the processor and by the wall clock, without setting up; tokens written.
    """
    terms = Terms(cap, False, parse_accept("exact"), False, CostModel(), pair.end_tokens)
    seconds, tokens = np.zeros(2), 0
    for first in range(0, len(prompts), rows):
        ids = list(prompts[first : first + rows])
        starts = Starts(np.arange(len(ids)), ids, [rule] * len(ids), None)
        game, player = set_up(pair, policy, starts, terms)
        _wait(pair.teacher.device)
        begun = np.array([time.process_time(), time.perf_counter()])
        written = play(game, player, starts, first, True, None)
        _wait(pair.teacher.device)
        seconds += np.array([time.process_time(), time.perf_counter()]) - begun
        tokens += sum(map(len, written.tokens))
    return seconds, tokens


# ---- the model of latency --------------------------------------------------------------------------------------


def modelled(table: LatencyTable, outputs: Sequence[Output]) -> FloatArray:
    """(outputs,) milliseconds by the table: c_S for each step, c_T(unread tokens) for each call, and the encoders."""
    numbers = np.array(
        [(one.steps, one.calls, one.read - one.calls, one.steps > 0, one.calls > 0) for one in outputs], np.float64
    )
    prices = (
        table.student_ms, table.teacher_ms, table.teacher_ms_per_token, table.student_prompt_ms, table.teacher_prompt_ms
    )  # fmt: skip
    ms: FloatArray = numbers @ np.array(prices)
    return ms
