"""Compare plain, PI and PID steps of the multiplier: on a table with a known optimum, and in the pronunciation game.

python -m scripts.multiplier
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import tw_env
from agents.cmdp import CMDP, TabularVectorEnv
from agents.learning_env import ENVIRONMENT
from agents.pcl import PCL, PCLConfig
from agents.pcl.dynamics import of_log
from scripts.command import run

GAME = f"{tw_env.__name__}/PronounceVerify-v0"
SHOWN = "0.05", "0.1", "0.2", "cost"  # limits in the printed table
Row = dict[str, Any]


class Control(StrEnum):
    """How lambda is moved."""

    PLAIN = "plain"  # by the violation: dual ascent
    PI = "PI"  # and proportional to it
    PID = "PID"  # and to its rise


@dataclass
class Options:
    """Train with each control for a few rounds, and measure what the multiplier does."""

    out: Path = Path("results/multiplier.json")
    """Where the rows go."""
    rounds: int = 100
    """Rounds of each run."""
    episodes: int = 128
    """Episodes a round, and a batch."""
    updates: int = 2
    """Gradient steps a round."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of each run."""
    gain: float = 5.0
    """Proportional and derivative gains as multiples of the integral one."""
    window: int = 10
    """Rounds over which violations are averaged."""
    tolerance: float = 0.1
    """Violation that counts as none, in calls per output and in costs per episode of the table."""
    prompts: int | None = None
    """Only the first so many words of the policy split."""
    threads: int = 1
    """Torch's threads."""


def controlled(config: PCLConfig, control: Control, gain: float) -> PCLConfig:
    """The configuration with the gains of a control, in units of its integral gain."""
    extra = gain * config.multiplier_step
    return replace(
        config,
        multiplier_proportional=0.0 if control is Control.PLAIN else extra,
        multiplier_derivative=extra if control is Control.PID else 0.0,
    )


def tasks(options: Options) -> Iterator[tuple[str, Any, PCLConfig]]:
    """Name, environment and configuration of each task."""
    table = CMDP.random(seed=0)
    general = PCLConfig.general(
        0.5 * table.optimum().cost, 3, iterations=options.rounds, episodes=options.episodes, batch=options.episodes,
        updates=options.updates, capacity=2000, alpha=0.1, alpha_final=0.03, gate_lr=5e-3, value_lr=5e-3, width=32,
        multiplier_step=0.05,
    )  # fmt: skip
    yield "table", TabularVectorEnv(table, 64), general
    arguments = {**ENVIRONMENT, "split": "policy", **({} if options.prompts is None else {"limit": options.prompts})}
    game = tw_env.make_vec(GAME, num_envs=options.episodes, **arguments)
    yield (
        "pronounce",
        game,
        PCLConfig(
            iterations=options.rounds, episodes=options.episodes, batch=options.episodes, updates=options.updates
        ),
    )


def measure(task: str, env: Any, config: PCLConfig, control: Control, options: Options) -> list[Row]:
    """One run; a row per limit of the multiplier's grid."""
    rounds: list[dict[str, float]] = []
    PCL(controlled(config, control, options.gain)).learn(env, log=lambda _, numbers: rounds.append(numbers))
    settings = {"task": task, "control": str(control), "seed": config.seed}
    return [
        {**settings, "limit": "cost" if task == "table" else limit, **asdict(found)}
        for limit, found in of_log(rounds, options.tolerance, options.window).items()
    ]


def print_table(rows: list[Row]) -> None:
    """Means over seeds, for some of the limits."""
    columns = "feasible_after", "overshoot", "oscillation", "swing", "violation", "multiplier"
    print(f"{'task':10}{'limit':>6} {'control':8}" + "".join(f"{name:>15}" for name in columns))
    keys = sorted({(row["task"], row["limit"]) for row in rows if row["limit"] in SHOWN})
    for task, limit in keys:
        for control in Control:
            chosen = [r for r in rows if (r["task"], r["limit"], r["control"]) == (task, limit, control)]
            means = []
            for name in columns:
                known = [row[name] for row in chosen if row[name] is not None]
                means.append(f"{np.mean(known):15.3f}" if known else f"{'never':>15}")
            print(f"{task:10}{limit:>6} {control:8}" + "".join(means))


def main(options: Options) -> None:
    """Run all, print a table and write the rows."""
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    with tqdm(total=2 * len(Control) * len(options.seeds), desc="runs", unit="run") as bar:
        for task, env, config in tasks(options):
            for seed in options.seeds:
                for control in Control:
                    rows += measure(task, env, replace(config, seed=seed), control, options)
                    bar.update()
    print_table(rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    settings = json.loads(json.dumps(asdict(options), default=str))
    options.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    print(f"rows written to {options.out}")


if __name__ == "__main__":
    run(main, Options, __doc__)
