"""Every agent under every rule on held-out prompts: one file of rows, written as they come.

    python -m scripts.benchmark --task pronounce --out results/pronounce.json
    python -m scripts.benchmark --task pronounce --out runs/quick.json --quick

Run again, it goes on where it was: what stands in the file is not measured again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

import tw_env
from agents.baselines.calibration import CalibrationConfig
from agents.baselines.ppo_lagrangian import PPOLagrangianConfig
from agents.evaluation import Ends, Row, make_row, play, play_ends
from agents.field import GAMES, Arena, Effort, Entry, Rules, choose
from agents.pcl.recipe import ENVIRONMENT, Recipe
from agents.recording import Recorded

NEVER, FREE = "never", "as often as you like"
RULES = (
    *(f"ask the teacher for at most {percent}% of the tokens" for percent in (3, 5, 10, 15, 20)),
    NEVER,
    FREE,
)
PROMPTS_A_ROUND = 512  # of the batched game


@dataclass
class Options:
    """Play agents under rules and write a row for each agent, game, rule and seed."""

    out: Path
    """JSON file of the rows; rows that it holds already are kept and not measured again."""
    task: Literal["pronounce", "text"] = "pronounce"
    """Which task."""
    quick: bool = False
    """Few words, little training, one seed: to see that it runs (under 3 minutes), not who is best."""
    agents: tuple[str, ...] = ()
    """Names of agents; all without any."""
    games: tuple[str, ...] = GAMES
    """Action sets."""
    rules: tuple[str, ...] = RULES
    """Rules in words."""
    seeds: int = 3
    """Runs of agents that depend on the seed."""
    prompts: int | None = None
    """Only the first so many held-out prompts; None takes all."""
    iterations: int | None = None
    """Training rounds of PCL; None takes the recipe's."""
    policies: Path | None = None
    """Folder for the learned policies; None keeps none."""
    student: str | None = None
    """Folder or hub id of the student; None takes the pair that ships."""
    teacher: str | None = None
    """Folder or hub id of the teacher."""
    data: str | None = None
    """For the text task: JSONL with `prompt` and `reference`, or a `datasets` name; None takes the sample."""
    metric: str = "edit"
    """For the text task: chrf, bleu, rougeL, exact or edit."""
    max_new_tokens: int | None = None
    """Cap on new tokens; None takes the task's."""
    rows: int = PROMPTS_A_ROUND
    """Rows of the batched game."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 0
    """Torch's threads; 0 leaves the default."""

    @property
    def effort(self) -> Effort:
        """How much agents may learn."""
        full = Effort()
        pcl = full.recipe.pcl if self.iterations is None else replace(full.recipe.pcl, iterations=self.iterations)
        if not self.quick:
            return replace(full, recipe=replace(full.recipe, pcl=pcl))
        cuts = CalibrationConfig(limits=(0.03, 0.1, 0.2, 0.5), prompts=150, rounds=10)
        if self.iterations is None:
            pcl = replace(pcl, iterations=15)
        small = replace(pcl, episodes=128, batch=128, updates=2)
        return Effort(
            recipe=Recipe(pcl=small, demonstrations=1000, calibration=cuts),
            ppo=PPOLagrangianConfig(steps=10_000),
            calibration=cuts,
        )


class Sweep:
    """The runs to make, the environments they need, and the rows they leave.

    Raises:
        ValueError: unknown agents or games, or a file whose rows were measured otherwise.
    """

    def __init__(self, options: Options) -> None:
        if options.quick:
            options = replace(options, seeds=1, prompts=options.prompts or 400, rows=min(options.rows, 128))
        for game in options.games:
            if game not in GAMES:
                raise ValueError(f"Expected games out of {', '.join(GAMES)}; got {game!r}.")
        self.options, self.entries = options, choose(options.agents)
        self.rows: list[Row] = json.loads(options.out.read_text()) if options.out.is_file() else []
        self._arenas: dict[tuple[str, str], Arena] = {}

    # ---- environments ------------------------------------------------------------------------------------------

    def arena(self, game: str, accept: str) -> Arena:
        """The environments of a game, made once."""
        key = game, accept
        if key not in self._arenas:
            self._arenas[key] = Arena(self._env("policy", *key), self._env("test", *key))
        return self._arenas[key]

    def _env(self, split: str, game: str, accept: str) -> Recorded:
        options = self.options
        id_ = f"{tw_env.__name__}/{'Pronounce' if options.task == 'pronounce' else 'Text'}Verify-v0"
        settings: dict[str, Any] = {"actions": game, "accept": accept, "split": split, "device": options.device}
        for name in ("student", "teacher", "data", "max_new_tokens"):
            if (value := getattr(options, name)) is not None:
                settings[name] = value
        if options.task == "text":
            settings["metric"] = options.metric
        limit = options.prompts if split == "test" else None
        rows = options.rows if limit is None else min(options.rows, limit)
        return Recorded(tw_env.make_vec(id_, rows, limit=limit, **settings, **ENVIRONMENT))

    @cached_property
    def prompts(self) -> np.ndarray:
        """Indices of the held-out prompts."""
        return np.arange(len(self.arena(self.options.games[0], "exact").test.task.prompts))

    @cached_property
    def ends(self) -> Ends:
        """Student alone and teacher alone; the same in all games."""
        ends = play_ends(self.arena(self.options.games[0], "exact").test, self.prompts)
        now = len(self.prompts), float(ends.student.mean()), float(ends.teacher.mean())
        for row in self.rows:
            then = row["prompts"], row["student_quality"], row["teacher_quality"]
            if not np.allclose(then, now, atol=1e-9):
                raise ValueError(
                    f"Expected rows of the same prompts and pair in {self.options.out}: {now[0]} prompts, student "
                    f"{now[1]:.4f}, teacher {now[2]:.4f}; got {then[0]}, {then[1]:.4f}, {then[2]:.4f}. Name another "
                    "file for --out, or delete this one."
                )
        return ends

    # ---- runs --------------------------------------------------------------------------------------------------

    def runs(self) -> Iterator[tuple[str, Entry, int, list[str]]]:
        """(game, entry, seed, rules without a row yet) of every run that has something left to do."""
        done = {(row["agent"], row["actions"], row["accept"], row["seed"], row["rule"]) for row in self.rows}
        only = {Rules.NEVER: (NEVER,), Rules.FREE: (FREE,)}
        for game in self.options.games:
            for entry in self.entries:
                if game not in entry.games:
                    continue
                rules = only.get(entry.rules, self.options.rules)
                for seed in range(self.options.seeds if entry.seeded else 1):
                    left = [rule for rule in rules if (entry.name, game, entry.accept, seed, rule) not in done]
                    if left:
                        yield game, entry, seed, left

    def run(self, bar: tqdm[Any]) -> None:
        """Make and judge what is left."""
        for game, entry, seed, rules in list(self.runs()):
            arena = self.arena(game, entry.accept)
            bar.set_description(f"{game} {entry.name} {seed}".ljust(34))
            begun, tokens = bar.n, arena.train.teacher_tokens

            def progress(share: float, begun: float = begun, weight: float = entry.weight) -> None:
                bar.update(begun + share * weight - bar.n)

            policy = entry.make(arena, seed, self.options.effort, progress)
            progress(1.0)
            tokens = arena.train.teacher_tokens - tokens
            if self.options.policies is not None and hasattr(policy, "save"):
                folder = f"{entry.name}-{game.lower().replace('/', '-')}-{seed}"
                policy.save(self.options.policies / folder)
            for rule in rules:
                played = play(arena.test, policy, self.prompts, rule, seed, entry.deterministic)
                row = make_row(
                    arena.test, played, self.ends, rule, agent=entry.name, kind=str(entry.kind), seed=seed,
                    training_teacher_tokens=tokens,
                )  # fmt: skip
                self.rows.append(row)
                write(self.options.out, self.rows)
                bar.update(1)


def write(path: Path, rows: list[Row]) -> None:
    """Replace the file; a kill leaves the old rows or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    temporary.replace(path)


def main(options: Options) -> None:
    """Run the sweep, or what is left of it."""
    if options.threads:
        torch.set_num_threads(options.threads)
    sweep = Sweep(options)
    work = sum(entry.weight + len(rules) for _, entry, _, rules in sweep.runs())
    print(f"{len(sweep.rows)} rows found in {options.out}" if sweep.rows else f"rows go to {options.out}")
    shape = "{desc} {percentage:3.0f}% |{bar:20}| {elapsed} gone, {remaining} left"
    with tqdm(total=work, bar_format=shape) as bar:
        bar.set_description("student and teacher alone".ljust(34))
        _ = sweep.ends
        sweep.run(bar)
    print(f"{len(sweep.rows)} rows in {options.out}; see them with")
    print(f"  python -m scripts.report --rows {options.out} --out {options.out.with_suffix('')}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
