"""The whole idea in one run: train a gate on the shipped pair, compare it with what nobody trains, and show it.

make demo
make demo ARGS=--quick
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

import tw_env
from agents.baselines.calibration import CalibrationConfig
from agents.evaluation import FREE, NEVER, Ends, Played, Row, make_row, play
from agents.field import VERIFYING, Arena, Effort, Entry, Rules, choose
from agents.learning_env import ENVIRONMENT
from agents.pcl import PCLConfig
from agents.pcl.recipe import Recipe, train_pcl
from agents.recording import Recorded
from agents.rollout import Predicts
from scripts import learning_curves, pictures
from scripts.command import run
from scripts.demo_text import INTRODUCTION, MADE_BY, print_table, where_to_look
from scripts.examples import Example, Group, choose_groups, collect, columns_of, one_row
from scripts.page import Page
from scripts.progress import Advance, Stages
from tw_env.rules import Constraint

GAME = f"{tw_env.__name__}/PronounceVerify-v0"
RULES = (
    "ask the teacher for at most 3% of the tokens",
    "no more than one call per 20 tokens",
    "please ask for at most a tenth of the tokens",
    "ask the teacher for 15% of the tokens at most",
    "you may ask for every fifth token at most",
)
SHOWN = RULES[1], RULES[2], RULES[4]  # in the coloured texts, beside student and teacher
ALONE = "student", "teacher", "speculative"
HEURISTICS = "random", "p-max", "surprise-at-end", "big-little"
LIMITS = (0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3)  # calls per token that cuts are calibrated for
SECONDS = {  # of each stage on 2 cores
    "the models alone": 15, "cuts of heuristics": 50, "demonstrations": 3, "learning": 110, "calibration": 9,
    "held-out words": 15, "table, pictures, page": 5,
}  # fmt: skip
LOG = "log.jsonl"
OUTPUT = ("rows.json", "frontier.png", "page.html", LOG, "tensorboard", "policy")


@dataclass
class Options:
    """Train, compare and show; at most 5 minutes on 2 cores."""

    out: Path = Path("runs/demo")
    """Where everything is written; what an earlier demo left there is replaced."""
    quick: bool = False
    """Take a tenth of everything: to see in a minute that it works, not how well."""
    words: int = 3000
    """Held-out words that every policy writes under every rule."""
    rounds: int = 120
    """Training rounds of the gate."""
    demonstrations: int = 12_000
    """Episodes of heuristics that the gate may learn from, too."""
    calibration: int = 1500
    """Words of the policy split on which cuts are calibrated."""
    rows: int = 512
    """Rows of the batched game."""
    seed: int = 0
    """Seed of training and of play."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 0
    """Torch's threads; 0 takes one for each core."""

    def small(self) -> Options:
        """A tenth of everything."""
        names = ("words", "rounds", "demonstrations", "calibration")
        return dataclasses.replace(self, rows=128, **{name: getattr(self, name) // 10 for name in names})


@dataclass
class Result:
    """What came of an agent under a rule, in the game where it was judged."""

    entry: Entry
    policy: Predicts
    rule: str | Constraint
    game: Recorded
    played: Played

    @property
    def quality(self) -> NDArray[np.float64]:
        """(words,) of every text."""
        return self.played.outcomes.quality


class Demo:
    """The stages in the order in which they run; each needs those before it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.bars = Stages(SECONDS)
        self.words = np.arange(options.words)
        cuts = CalibrationConfig(LIMITS, prompts=options.calibration)
        pcl = PCLConfig(iterations=options.rounds, seed=options.seed)
        self.effort = Effort(Recipe(pcl, options.demonstrations, calibration=cuts), calibration=cuts)
        self.arena = Arena(self.game("policy"), self.game("test"))

    def game(self, split: str, accept: str = "exact") -> Recorded:
        """Rows of the game on one part of the dictionary. All games of a pair remember the same prefixes."""
        limit = self.options.words if split == "test" else None
        settings: dict[str, Any] = {"split": split, "limit": limit, "accept": accept, **ENVIRONMENT}
        settings["device"] = self.options.device
        return Recorded(tw_env.make_vec(GAME, self.options.rows, actions=VERIFYING, **settings))

    def run(self) -> None:
        """Train, judge and show."""
        results = self.alone()
        judged = [*self.calibrated(), *self.learned()]
        with self.bars.stage("held-out words", len(judged) * len(RULES) * len(self.words)) as advance:
            for entry, policy in judged:
                results += self.judge(entry, policy, RULES, advance)
        with self.bars.stage("table, pictures, page", 3) as advance:
            rows = self.rows(results)
            advance(1)
            examples = self.examples(results)
            advance(1)
            self.show(rows, examples)
        self.bars.close()
        print_table(rows)
        print(where_to_look(self.options.out, rows))

    # ---- what plays ------------------------------------------------------------------------------------------

    def alone(self) -> list[Result]:
        """What takes no rule: each model alone, and the student with all that it wrote checked at the end."""
        results = []
        with self.bars.stage("the models alone", len(ALONE) * len(self.words)) as advance:
            for entry in choose(ALONE):
                policy = entry.make(self.arena, self.options.seed, self.effort, float)
                rule = NEVER if entry.rules == Rules.NEVER else FREE
                results += self.judge(entry, policy, [rule], advance)
        return results

    def calibrated(self) -> list[tuple[Entry, Predicts]]:
        """Heuristics, each with cuts that keep the limits on the policy split."""
        made = []
        with self.bars.stage("cuts of heuristics", len(HEURISTICS)) as advance:
            for number, entry in enumerate(choose(HEURISTICS)):
                arena = self.arena if entry.accept == "exact" else Arena(self.game("policy", entry.accept), None)

                def progress(share: float, before: int = number) -> None:
                    advance(before + share - advance.done)

                made.append((entry, entry.make(arena, self.options.seed, self.effort, progress)))
        return made

    def learned(self) -> list[tuple[Entry, Predicts]]:
        """The gate, trained and calibrated on the policy split; its rounds are logged."""
        out, totals = self.options.out, {"demonstrations": 1, "learning": self.options.rounds, "calibration": 1}
        with (
            SummaryWriter(str(out / "tensorboard")) as board,
            (out / LOG).open("w") as lines,
            ExitStack() as stage,
        ):
            advance: list[Advance] = []

            def begin(name: str) -> None:
                stage.close()
                advance[:] = [stage.enter_context(self.bars.stage(name, totals[name]))]

            def log(iteration: int, numbers: dict[str, float]) -> None:
                for name, value in numbers.items():
                    board.add_scalar(name, value, iteration)
                lines.write(json.dumps({"round": iteration, **numbers}) + "\n")
                advance[0](1)

            agent = train_pcl(self.arena.train, self.effort.recipe, log=log, stage=begin)
        agent.save(out / "policy")
        return [(entry, agent) for entry in choose(("pcl",))]

    # ---- held-out words --------------------------------------------------------------------------------------

    def judge(
        self, entry: Entry, policy: Predicts, rules: Sequence[str | Constraint], advance: Advance
    ) -> list[Result]:
        """Let a policy write every held-out word once under each rule."""
        game = self.arena.test if entry.accept == "exact" else self.game("test", entry.accept)
        seed = self.options.seed
        return [
            Result(entry, policy, rule, game, play(game, policy, self.words, rule, seed, progress=advance))
            for rule in rules
        ]

    def rows(self, results: Sequence[Result]) -> list[Row]:
        """The benchmark's rows; student and teacher come first."""
        ends = Ends(results[0].quality, results[1].quality)
        return [
            make_row(r.game, r.played, ends, r.rule, agent=r.entry.name, kind=r.entry.kind, seed=self.options.seed)
            for r in results
        ]

    def examples(self, results: Sequence[Result]) -> list[tuple[Group, list[Example]]]:
        """Words of every kind, written again one by one to see who wrote each token."""
        gate = results[-1].policy
        qualities = [r.quality for rule in SHOWN for r in results if r.policy is gate and r.rule == rule]
        groups = choose_groups(results[0].quality, results[1].quality, qualities, count=5)
        game = one_row(self.arena.test.env)
        return collect(game, columns_of(game, gate, SHOWN), groups)

    def show(self, rows: Sequence[Row], examples: Sequence[tuple[Group, list[Example]]]) -> None:
        """Write rows, picture and page."""
        out = self.options.out
        (out / "rows.json").write_text(json.dumps(rows, indent=1) + "\n")
        (out / "frontier.png").write_bytes(pictures.png(pictures.frontier(rows)))
        page = Page(
            rows,
            introduction=INTRODUCTION,
            examples=examples,
            curves={"this run": learning_curves.read_curves(out / LOG)},
            made_by=MADE_BY.format(options=self.options),
        )
        (out / "page.html").write_text(page.html(), encoding="utf-8")


def main(options: Options) -> None:
    """Run the demo into a folder of its own."""
    if options.quick:
        options = options.small()
    torch.set_num_threads(options.threads or os.cpu_count() or 1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in OUTPUT:
        old = options.out / name
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    Demo(options).run()


if __name__ == "__main__":
    run(main, Options, __doc__)
