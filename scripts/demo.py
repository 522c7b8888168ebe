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

import gymnasium
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

import tw_env
from agents.baselines.calibration import CalibrationConfig, calibrate
from agents.evaluation import FREE, NEVER, Ends, Played, Row, make_row, play
from agents.pcl import PCLConfig
from agents.pcl.recipe import ENVIRONMENT, Recipe, train_pcl
from scripts import pictures
from scripts.demo_text import INTRODUCTION, MADE_BY, print_table, where_to_look
from scripts.examples import Example, Group, choose, write
from scripts.page import Page
from scripts.progress import Advance, Stages
from tw_env.policies import Gate, Policy, ScoreThreshold, speculative, student_alone, teacher_alone
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
HEURISTICS = (  # name, score, and which pending tokens the teacher lets stand
    ("random", "random", "exact"),
    ("p_max", "p_max", "exact"),
    ("surprise_at_end", "surprise_at_end", "exact"),
    ("big_little", "p_max", "probability:0.1"),
)
LIMITS = (0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)  # calls per token that cuts are calibrated for
SECONDS = {  # of each stage on 2 cores
    "the models alone": 15, "cuts of heuristics": 60, "demonstrations": 15, "learning": 100, "calibration": 15,
    "held-out words": 30, "table, pictures, page": 10,
}  # fmt: skip
LOG = "log.jsonl"
OUTPUT = ("rows.json", "frontier.png", "page.html", LOG, "tensorboard", "policy")


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


@dataclass
class Result:
    """What came of a policy under a rule, in the game where it was judged."""

    entrant: Entrant
    rule: str | Constraint
    game: Any
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
        self.cuts = CalibrationConfig(LIMITS, prompts=options.calibration)
        self.train, self.test = self.game("policy"), self.game("test")
        self.frame = self.train.layout, self.train.game.spec.actions

    def game(self, split: str, accept: str = "exact") -> Any:
        """Rows of the game on one part of the dictionary. All games of a pair remember the same prefixes."""
        limit = self.options.words if split == "test" else None
        settings: dict[str, Any] = {**ENVIRONMENT, "split": split, "limit": limit, "accept": accept}
        return gymnasium.make_vec(GAME, num_envs=self.options.rows, **settings)

    def run(self) -> None:
        """Train, judge and show."""
        results = self.alone()
        entrants = [*self.calibrated(), Entrant("pcl", "learned", self.learned())]
        with self.bars.stage("held-out words", len(entrants) * len(RULES) * len(self.words)) as advance:
            for entrant in entrants:
                results += [self.judge(entrant, rule, advance) for rule in RULES]
        with self.bars.stage("table, pictures, page", 3) as advance:
            rows = self.rows(results)
            advance(1)
            self.show(rows, self.examples(results), advance)
        self.bars.close()
        print_table(rows)
        print(where_to_look(self.options.out, rows))

    # ---- policies --------------------------------------------------------------------------------------------

    def alone(self) -> list[Result]:
        """What needs no rule: the two models, and the student whose every token the teacher checks at the end."""
        fixed = {"student": student_alone, "teacher": teacher_alone, "speculative": speculative}
        with self.bars.stage("the models alone", len(fixed) * len(self.words)) as advance:
            return [
                self.judge(Entrant(name, "fixed", make(*self.frame)), NEVER if name == "student" else FREE, advance)
                for name, make in fixed.items()
            ]

    def calibrated(self) -> list[Entrant]:
        """Heuristics, each with cuts that keep the limits on the policy split."""
        entrants = []
        with self.bars.stage("cuts of heuristics", len(HEURISTICS) * self.cuts.rounds) as advance:
            for name, score, accept in HEURISTICS:
                policy = ScoreThreshold(*self.frame, score, 0.0, self.frame[1][-1])
                game = self.train if accept == "exact" else self.game("policy", accept)
                calibrate(policy, game, self.cuts, lambda done: advance(1))
                entrants.append(Entrant(name, "heuristic", policy, accept))
        return entrants

    def learned(self) -> Gate:
        """The gate, trained and calibrated on the policy split."""
        options = self.options
        pcl = PCLConfig(iterations=options.rounds, seed=options.seed)
        totals = {"demonstrations": 1, "learning": options.rounds, "calibration": 1}
        with (
            SummaryWriter(str(options.out / "tensorboard")) as board,
            (options.out / LOG).open("w") as lines,
            ExitStack() as current,
        ):
            advance: Advance = abs  # until the first stage begins

            def begin(name: str) -> None:
                nonlocal advance
                current.close()
                advance = current.enter_context(self.bars.stage(name, totals[name]))

            def log(iteration: int, numbers: dict[str, float]) -> None:
                for name, value in numbers.items():
                    board.add_scalar(name, value, iteration)
                lines.write(json.dumps({"round": iteration, **numbers}) + "\n")
                advance(1)

            recipe = Recipe(pcl, options.demonstrations, self.cuts)
            agent = train_pcl(self.train, recipe, log=log, stage=begin)
        assert agent.policy is not None
        agent.save(options.out / "policy")
        return agent.policy

    # ---- held-out words --------------------------------------------------------------------------------------

    def judge(self, entrant: Entrant, rule: str | Constraint, advance: Advance) -> Result:
        """Let a policy write every held-out word once."""
        game = self.test if entrant.accept == "exact" else self.game("test", entrant.accept)
        played = play(game, entrant.policy, self.words, rule, self.options.seed, progress=advance)
        return Result(entrant, rule, game, played)

    def rows(self, results: Sequence[Result]) -> list[Row]:
        """The benchmark's rows; the models alone come first."""
        ends = Ends(results[0].quality, results[1].quality)
        return [
            make_row(r.game, r.played, ends, r.rule, agent=r.entrant.name, kind=r.entrant.kind, seed=self.options.seed)
            for r in results
        ]

    def examples(self, results: Sequence[Result]) -> list[tuple[Group, list[Example]]]:
        """Words of every kind, written again one by one to see who wrote each token."""
        gate = results[-1].entrant.policy
        of_gate = {str(r.rule): r.quality for r in results if r.entrant.policy is gate}
        groups = choose(results[0].quality, results[1].quality, [of_gate[rule] for rule in SHOWN], count=5)
        settings: dict[str, Any] = {**ENVIRONMENT, "split": "test", "limit": len(self.words)}
        game: Any = gymnasium.make(GAME, **settings).unwrapped
        plays: list[tuple[str, Policy, str | Constraint]] = [
            ("student alone", results[0].entrant.policy, NEVER),
            *((rule, gate, rule) for rule in SHOWN),
            ("teacher alone", results[1].entrant.policy, FREE),
        ]
        return [
            (
                group,
                [
                    Example(game.task.words[prompt], game.task.references[prompt],
                            [write(game, policy, prompt, rule, title) for title, policy, rule in plays])
                    for prompt in group.prompts.tolist()
                ],
            )
            for group in groups
        ]  # fmt: skip

    def show(self, rows: Sequence[Row], examples: Sequence[tuple[Group, list[Example]]], advance: Advance) -> None:
        """Write rows, picture and page."""
        out = self.options.out
        (out / "rows.json").write_text(json.dumps(rows, indent=1) + "\n")
        (out / "frontier.png").write_bytes(pictures.png(pictures.frontier(rows)))
        advance(1)
        page = Page(
            rows,
            introduction=INTRODUCTION,
            examples=examples,
            curves={"this run": pictures.read_curves(out / LOG)},
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
    main(tyro.cli(Options, description=__doc__))
