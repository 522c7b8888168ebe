"""Every agent under every rule on held-out prompts: one file of rows, written as they come.

    python -m scripts.benchmark --sweep scripts/sweeps/pronounce.toml
    python -m scripts.benchmark --task pronounce --out runs/quick.json --quick

A sweep file holds options by their names, in TOML; the command line overrides it. Run again, it goes on where it was:
what stands in the file of rows is not measured again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

import tw_env
from agents.baselines.calibration import CalibrationConfig
from agents.baselines.dqn_lagrangian import DQNLagrangianConfig
from agents.baselines.ppo import PPOConfig
from agents.baselines.ppo_fixed_price import PPOFixedPriceConfig
from agents.baselines.ppo_lagrangian import PPOLagrangianConfig
from agents.baselines.router import RouterConfig
from agents.evaluation import FREE, NEVER, Ends, Row
from agents.field import FIELD, GAMES, Effort, Entry, Rules, choose
from agents.pcl.recipe import Recipe
from scripts import outcomes
from scripts.command import MISTAKE, run
from scripts.rows import read_rows
from scripts.workers import News, Pool, Run, Setting

RULES = (
    *(f"ask the teacher for at most {percent}% of the tokens" for percent in (3, 5, 10, 15, 20)),
    str(NEVER),
    str(FREE),
)
PROMPTS_A_ROUND = 512  # of the batched game
FIRST = 40.0  # for the estimate: what student and teacher alone take, while nothing is remembered yet


@dataclass
class Options:
    """Play agents under rules and write a row for each agent, game, rule and seed."""

    out: Path
    """JSON file of the rows; rows that it holds already are kept and not measured again."""
    sweep: Path | None = None
    """TOML file with any of these options; those of the command line count more."""
    task: Literal["pronounce", "translate", "summarize", "text"] = "pronounce"
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
    outcomes: Path | None = None
    """Folder for what came of every prompt, which paired tests need, and for training logs; None: beside --out."""
    policies: Path | None = None
    """Folder for the learned and calibrated policies; None keeps none."""
    student: str | None = None
    """Folder or hub id of the student; None takes the pair that ships."""
    teacher: str | None = None
    """Folder or hub id of the teacher."""
    data: str | None = None
    """JSONL with `prompt` and `reference`, or a `datasets` name; for translate also two languages: en-it."""
    metric: str | None = None
    """chrf, bleu, rouge1, rouge2, rougeL, exact or edit; None: exact (text), chrf (translate), rougeL (summarize)."""
    template: str | None = None
    """What models read, with {text} where the text goes; None leaves the wording to the task."""
    chat: bool = False
    """Write each prompt as a user's turn in the tokenizer's chat template."""
    max_new_tokens: int | None = None
    """Cap on new tokens; None takes the task's."""
    rows: int = PROMPTS_A_ROUND
    """Rows of the batched game."""
    device: str = "auto"
    """auto, cpu or cuda."""
    workers: int = 2
    """Processes that make agents and play them side by side; 1 does all in this one."""
    threads: int = 0
    """Torch's threads in each process; 0 takes one with several workers, torch's default with one."""

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
            logged=2000,
            ppo=PPOLagrangianConfig(steps=10_000),
            fixed_price=PPOFixedPriceConfig(steps=10_000),
            masked=PPOConfig(steps=10_000),
            dqn=DQNLagrangianConfig(steps=10_000),
            router=RouterConfig(prompts=1000, members=1, epochs=2),
            calibration=cuts,
        )

    @property
    def setting(self) -> Setting:
        """What all runs share."""
        arguments: dict[str, Any] = {"device": self.device} | ({"chat": True} if self.chat else {})
        for name in ("student", "teacher", "data", "metric", "template", "max_new_tokens"):
            if (value := getattr(self, name)) is not None:
                arguments[name] = value
        return Setting(
            id=f"{tw_env.__name__}/{self.task.capitalize()}Verify-v0",
            arguments=arguments, prompts=self.prompts, rows=self.rows, effort=self.effort,
            outcomes=self.outcomes or self.out.with_suffix(".outcomes"), policies=self.policies,
            threads=self.threads or int(self.workers > 1),
        )  # fmt: skip


class Sweep:
    """The runs to make, and the rows that they leave.

    Raises:
        ValueError: unknown agents or games, numbers out of range, or a file that holds no rows.
    """

    def __init__(self, options: Options) -> None:
        if options.quick:
            options = replace(options, seeds=1, prompts=options.prompts or 400, rows=min(options.rows, 128))
        for game in options.games:
            if game not in GAMES:
                raise ValueError(f"Expected games out of {', '.join(GAMES)}; got {game!r}.")
        for name in ("seeds", "workers", "rows", "prompts"):
            if (value := getattr(options, name)) is not None and value < 1:
                raise ValueError(f"Expected at least 1 for --{name}, got {value}.")
        self.options, self.entries = options, choose(options.agents)
        self.rows: list[Row] = read_rows(options.out, at_least=0) if options.out.is_file() else []

    def runs(self) -> list[tuple[Run, Entry]]:
        """What has rules without a row yet; what takes longest comes first, so that no worker ends much later."""
        done = {(row["agent"], row["actions"], row["accept"], row["seed"], row["rule"]) for row in self.rows}
        only = {Rules.NEVER: (str(NEVER),), Rules.FREE: (str(FREE),)}
        left = []
        for game in self.options.games:
            for entry in self.entries:
                if game not in entry.games:
                    continue
                for seed in range(self.options.seeds if entry.seeded else 1):
                    rules = tuple(
                        rule
                        for rule in only.get(entry.rules, self.options.rules)
                        if (entry.name, game, entry.accept, seed, rule) not in done
                    )
                    if rules:
                        left.append((Run(game, entry.name, seed, rules), entry))
        return sorted(left, key=lambda one: -one[1].weight)

    def run(self, bar: tqdm[Any]) -> None:
        """Make and judge what is left."""
        runs = self.runs()
        weights = {run: entry.weight for run, entry in runs}
        shares = dict.fromkeys(weights, 0.0)

        def tell(news: News) -> None:
            bar.set_description(news.run.name.ljust(40), refresh=False)
            bar.update(max(news.share - shares[news.run], 0.0) * weights[news.run])
            shares[news.run] = max(news.share, shares[news.run])
            if news.row is not None:
                self.add(news.row)
                bar.update(1)

        with Pool(self.options.setting, min(self.options.workers, max(len(runs), 1))) as pool:
            ends = pool.ends(self.options.games[0])
            self.check(ends)
            outcomes.keep_ends(self.options.setting.outcomes, ends)
            bar.update(FIRST)
            pool.play([run for run, _ in runs], ends, tell)

    def check(self, ends: Ends) -> None:
        """Raises ValueError where rows that were found are of other prompts or another pair than these ends."""
        now = len(ends.student), float(ends.student.mean()), float(ends.teacher.mean())
        for row in self.rows:
            then = tuple(float(row.get(name, np.nan)) for name in ("prompts", "student_quality", "teacher_quality"))
            if not np.allclose(then, now, atol=1e-9):
                raise ValueError(
                    f"Expected rows of the same prompts and pair in {self.options.out}: {now[0]} prompts, student "
                    f"{now[1]:.4f}, teacher {now[2]:.4f}; got {then[0]:g}, {then[1]:.4f}, {then[2]:.4f}. Name another "
                    "file for --out, or delete this one."
                )

    def add(self, row: Row) -> None:
        """Keep a row; the file's order is that of games, agents and seeds, whatever was ready first."""
        places = {entry.name: place for place, entry in enumerate(FIELD)}

        def place(row: Row) -> tuple[int, int, int]:
            game = GAMES.index(row["actions"]) if row["actions"] in GAMES else len(GAMES)
            return game, places.get(row["agent"], len(places)), row["seed"]

        self.rows = sorted([*self.rows, row], key=place)
        write(self.options.out, self.rows)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Replace the file; a kill leaves the old rows or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    temporary.replace(path)


# ---- the command ---------------------------------------------------------------------------------------------


def arguments(words: Sequence[str]) -> list[str]:
    """The command line with the options of its sweep file before its own words, which therefore count more.

    Raises:
        FileNotFoundError: there is no such sweep file.
        ValueError: it isn't TOML, or names something that is no option.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--sweep", type=Path)
    path = parser.parse_known_args(words)[0].sweep
    if path is None:
        return list(words)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a sweep file at {path}, as scripts/sweeps/pronounce.toml; found none.")
    try:
        settings = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"Expected TOML in {path}, for example `seeds = 5`; got something else: {error}.") from None
    known = [field.name for field in fields(Options) if field.name != "sweep"]
    found: list[str] = []
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"Expected options of scripts.benchmark in {path}: {', '.join(known)}; got {name!r}.")
        option = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{option}" if value else f"--no-{option}")
        else:
            found += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    return [*found, *words]


def main(options: Options, said: str = "") -> None:
    """Run the sweep, or what is left of it.

    Args:
        said: the command, which is kept beside the outcomes of the rows that it makes, for the report.
    """
    sweep = Sweep(options)
    left = sweep.runs()
    if left and said:
        outcomes.keep_command(options.setting.outcomes, said)
    work = sum(entry.weight + len(run.rules) for run, entry in left)
    print(f"{len(sweep.rows)} rows found in {options.out}" if sweep.rows else f"rows go to {options.out}")
    shape = "{desc} {percentage:3.0f}% |{bar:20}| {elapsed} gone, {remaining} left"
    with tqdm(total=work + FIRST, bar_format=shape, smoothing=0) as bar:
        bar.set_description("student and teacher alone".ljust(40))
        sweep.run(bar)
    print(f"{len(sweep.rows)} rows in {options.out}; see them with")
    kept = "" if options.outcomes is None else f" --outcomes {options.outcomes}"
    print(f"  python -m scripts.report --rows {options.out}{kept} --out {options.out.with_suffix('')}")


def command(words: Sequence[str]) -> None:
    """The whole command; a user's mistake ends it with status 2."""
    said = shlex.join(["python", "-m", "scripts.benchmark", *words])
    try:
        words = arguments(words)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(MISTAKE) from None
    run(lambda options: main(options, said), Options, __doc__, words)


if __name__ == "__main__":
    command(sys.argv[1:])
