"""The benchmark's runs, in this process or several: make an agent, play it under rules, tell what came of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tw_env
from agents.asking import asking_auc
from agents.evaluation import Ends, Row, make_row, play, play_ends
from agents.field import Arena, Effort, Kind, choose
from agents.learning_env import ENVIRONMENT, learning_env
from agents.recording import Recorded
from scripts import outcomes

SCORED = 3000  # prompts whose states tell how well asking follows difficulty
LOG = "log.jsonl"


@dataclass(frozen=True)
class Setting:
    """What all runs of a sweep share.

    Attributes:
        id: of the environment. arguments: of `make_vec`, without split, actions, accept and hard.
        prompts: only the first so many held-out ones; None takes all.
        rows: of the batched game. effort: how much agents may learn.
        outcomes, policies: folders, see `scripts.benchmark.Options`. threads: of torch, 0 for its default.
    """

    id: str
    arguments: Mapping[str, Any]
    prompts: int | None
    rows: int
    effort: Effort
    outcomes: Path
    policies: Path | None
    threads: int = 0


@dataclass(frozen=True)
class Run:
    """One agent in one game with one seed, and the rules that it is played under."""

    game: str
    agent: str
    seed: int
    rules: tuple[str, ...]

    @property
    def name(self) -> str:
        """For folders and for the progress bar."""
        return f"{self.agent}-{self.game.lower().replace('/', '-')}-{self.seed}"


@dataclass(frozen=True)
class News:
    """Of a run: the share of making the agent that is done, or a finished row."""

    run: Run
    share: float = 0.0
    row: Row | None = None


Tell = Callable[[News], object]


class Bench:
    """The environments of one process, and what is played in them."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._arenas: dict[tuple[str, str, bool, bool], Arena] = {}
        if setting.threads:
            torch.set_num_threads(setting.threads)

    def arena(self, game: str, accept: str = "exact", hard: bool = False, hidden: bool = False) -> Arena:
        """The environments of a game, made once; all games of a process remember the same prefixes."""
        key = game, accept, hard, hidden
        if key not in self._arenas:
            self._arenas[key] = Arena(self._env("policy", *key), self._env("test", *key))
        return self._arenas[key]

    def _env(self, split: str, game: str, accept: str, hard: bool, hidden: bool) -> Recorded:
        setting = self.setting
        limit = setting.prompts if split == "test" else None
        rows = setting.rows if limit is None else min(setting.rows, limit)
        settings = {
            **setting.arguments, "actions": game, "accept": accept, "hard": hard, "hidden": hidden, "split": split,
            "limit": limit,
        }  # fmt: skip
        if split == "test":
            return Recorded(tw_env.make_vec(setting.id, rows, **settings, **ENVIRONMENT))
        return Recorded(learning_env(setting.id, rows, **settings))

    def ends(self, game: str) -> Ends:
        """Student alone and teacher alone on the held-out prompts; the same in all games."""
        test = self.arena(game).test
        return play_ends(test, np.arange(len(test.task.prompts)))

    def play(self, run: Run, ends: Ends, tell: Tell) -> None:
        """Make the agent and play it under every rule of the run."""
        (entry,) = choose((run.agent,))
        arena = self.arena(run.game, entry.accept, entry.hard, entry.hidden)
        tokens, steps, seconds = arena.train.teacher_tokens, arena.train.env_steps, time.process_time()
        policy = entry.make(arena, run.seed, self.setting.effort, self._progress(run, tell))
        made = {
            "training_teacher_tokens": arena.train.teacher_tokens - tokens,
            "training_env_steps": arena.train.env_steps - steps,
            "training_seconds": round(time.process_time() - seconds, 2),
        }
        tell(News(run, 1.0))
        found = entry.kind in (Kind.HEURISTIC, Kind.LEARNED)  # by learning or calibration, without seeing the teacher
        if self.setting.policies is not None and found and hasattr(policy, "save"):
            policy.save(self.setting.policies / run.name)
        prompts = np.arange(len(arena.test.task.prompts))
        for rule in run.rules:
            played = play(arena.test, policy, prompts, rule, run.seed)
            auc = asking_auc(arena.test, policy, prompts[:SCORED], rule, run.seed) if found else None
            row = make_row(
                arena.test, played, ends, rule, agent=entry.name, kind=str(entry.kind), seed=run.seed,
                asking_auc=auc, **made,
            )  # fmt: skip
            outcomes.keep(self.setting.outcomes, row, played.outcomes)
            tell(News(run, 1.0, row))

    def _progress(self, run: Run, tell: Tell) -> Callable[..., None]:
        """What an agent calls with the share of its making that is done and, if it likes, numbers for its log."""
        log, rounds = self.setting.outcomes / run.name / LOG, 0

        def progress(share: float, numbers: Mapping[str, float] | None = None) -> None:
            nonlocal rounds
            if numbers is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                with log.open("a" if rounds else "w") as file:
                    file.write(json.dumps({"round": rounds, **numbers}) + "\n")
                rounds += 1
            tell(News(run, share))

        return progress


# ---- processes -----------------------------------------------------------------------------------------------


class Pool:
    """Does runs in this process, or in several that live until the pool is left.

    Args:
        workers: processes; with 1, everything happens here.
    """

    def __init__(self, setting: Setting, workers: int) -> None:
        self._bench: Bench | None = Bench(setting) if workers == 1 else None
        if workers > 1:
            context = multiprocessing.get_context("spawn")  # models and their threads don't survive a fork
            self._news: SimpleQueue[News] = context.SimpleQueue()  # what is put has arrived before the run is done
            self._pool = ProcessPoolExecutor(workers, context, _begin, (setting, self._news))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, error: object, *details: object) -> None:
        if self._bench is None:
            self._pool.shutdown(wait=error is None, cancel_futures=True)
            for process in multiprocessing.active_children() if error is not None else ():
                process.terminate()  # or the program would end only after the runs that are under way

    def ends(self, game: str) -> Ends:
        """See `Bench.ends`."""
        return self._bench.ends(game) if self._bench is not None else _result(self._pool.submit(_ends, game))

    def play(self, runs: Sequence[Run], ends: Ends, tell: Tell) -> None:
        """Do all runs; those that stand first begin first."""
        if self._bench is not None:
            for run in runs:
                self._bench.play(run, ends, tell)
            return
        still: set[Future[Any]] = {self._pool.submit(_play, run, ends) for run in runs}
        while still:
            done, still = wait(still, timeout=0.2, return_when=FIRST_COMPLETED)
            while not self._news.empty():
                tell(self._news.get())
            for future in done:
                _result(future)


_HERE: dict[str, Any] = {}  # of a worker: its bench, and where its news go


def _begin(setting: Setting, news: SimpleQueue[News]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()  # a killed benchmark leaves no workers behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to tell
    _HERE["bench"], _HERE["news"] = Bench(setting), news


def _ends(game: str) -> Ends:
    return _HERE["bench"].ends(game)


def _play(run: Run, ends: Ends) -> None:
    _HERE["bench"].play(run, ends, _HERE["news"].put)


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise ChildProcessError(
            "Expected the worker processes to live until the sweep is done; one was killed, as when memory runs out. "
            "Run the command again, it goes on where it was; with fewer --workers or --rows it takes less memory."
        ) from None
