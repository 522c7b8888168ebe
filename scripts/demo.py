"""The whole idea in one run: train a gate on the shipped pair, compare it with what nobody trains, and show it.

    make demo
    make demo ARGS=--quick
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from torch.utils.tensorboard import SummaryWriter

import tw_env
from agents.baselines.calibration import CalibrationConfig, calibrate
from agents.evaluation import FREE, NEVER, Ends, Played, Row, make_row, play
from agents.pcl import PCL, PCLConfig
from agents.pcl.recipe import ENVIRONMENT, Recipe, train_pcl
from scripts import pictures
from scripts.demo_text import INTRODUCTION, MADE_BY, print_table, where_to_look
from scripts.examples import Example, Group, choose, write
from scripts.page import Page
from scripts.progress import Advance, Stages
from tw_env.policies import Policy, ScoreThreshold, speculative, student_alone, teacher_alone

GAME = f"{tw_env.__name__}/PronounceVerify-v0"
RULES = (
    "ask the teacher for at most 3% of the tokens",
    "no more than one call per 20 tokens",
    "please ask for at most a tenth of the tokens",
    "ask the teacher for 15% of the tokens at most",
    "you may ask for every fifth token at most",
)
SHOWN = RULES[1], RULES[2], RULES[4]  # in the coloured texts, beside student and teacher
HEURISTICS = (  # name, score, and which pending tokens the teacher lets stand
    ("random", "random", "exact"),
    ("p_max", "p_max", "exact"),
    ("surprise_at_end", "surprise_at_end", "exact"),
    ("big_little", "p_max", "probability:0.1"),
)
LIMITS = (0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)  # calls per token that cuts are calibrated for
SECONDS = {  # of each stage on 2 cores
    "the models alone": 15, "cuts of heuristics": 60, "demonstrations": 15, "learning": 100, "calibration": 15,
    "held-out words": 30, "pictures and page": 10,
}  # fmt: skip
OUTPUT = ("rows.json", "frontier.png", "page.html", "log.jsonl", "tensorboard", "policy")


@dataclass
class Options:
    """Train, compare and show; at most 5 minutes on 2 cores."""

    out: Path = Path("results/demo")
    """Where everything is written; what an earlier demo left there is replaced."""
    quick: bool = False
    """Take a tenth of everything: to see in a minute that it works, not how well."""
    words: int = 3000
    """Held-out words that every policy writes under every rule."""
    rounds: int = 300
    """Training rounds of the gate."""
    demonstrations: int = 12_000
    """Episodes of heuristics that the gate may learn from, too."""
    calibration: int = 2000
    """Words of the policy split on which cuts are calibrated."""
    rows: int = 512
    """Rows of the batched game."""
    seed: int = 0
    """Seed of training and of play."""
    threads: int = 0
    """Torch's threads; 0 takes one for each core."""

    def small(self) -> Options:
        """A tenth of everything."""
        names = ("words", "rounds", "demonstrations", "calibration")
        return dataclasses.replace(self, rows=128, **{name: getattr(self, name) // 10 for name in names})


@dataclass
class Entrant:
    """A policy, the game that it plays, and what its rows say about it."""

    name: str
    kind: str
    policy: Policy
    accept: str = "exact"


class Demo:
    """The stages in the order in which they run; each needs those before it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.bars = Stages(SECONDS)
        self.words = np.arange(options.words)
        self.cuts = CalibrationConfig(LIMITS, prompts=options.calibration)
        self.env = lru_cache(self._env)
        self.frame = self.env("policy").layout, self.env("policy").game.spec.actions
        self.rows: list[Row] = []
        self.quality: dict[tuple[str, str], np.ndarray[Any, np.dtype[np.float64]]] = {}  # by policy and rule

    def _env(self, split: str, accept: str = "exact") -> Any:
        """A batched game on one part of the dictionary. All games of a pair remember the same prefixes."""
        limit = self.options.words if split == "test" else None
        settings = {**ENVIRONMENT, "split": split, "limit": limit, "accept": accept}
        return gymnasium.make_vec(GAME, num_envs=self.options.rows, **settings)

    def run(self) -> None:
        """Everything, and what to look at."""
        alone = self.alone()
        entrants = [*self.calibrated(), Entrant("pcl", "learned", self.learned())]
        count = len(entrants) * len(RULES) * len(self.words)
        with self.bars.stage("held-out words", count) as advance:
            ruled = [(e, rule, self.play(e, rule, advance)) for e in entrants for rule in RULES]
        ends = Ends(*(played.outcomes.quality for _, _, played in alone[:2]))
        with self.bars.stage("pictures and page", 3) as advance:
            for entrant, rule, played in [*alone, *ruled]:
                self.rows.append(self.row(entrant, rule, played, ends))
            advance(1)
