"""What joint training must beat: the same student, only distilled, with calibrated thresholds in the same games.

python -m scripts.joint_rivals --out runs/distilled --rows runs/rivals.json
python -m scripts.joint_rivals --out runs/told --name told --updates 0 --student runs/start/model --rows FILE
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from agents.baselines.calibration import CalibrationConfig
from agents.baselines.heuristic import Heuristic
from agents.evaluation import Row, make_row, play
from agents.joint.deployment import MODEL, TRAINED
from agents.joint.training_cost import TrainingCost
from agents.recording import Recorded
from agents.supervised import SupervisedConfig, Trainer
from scripts.command import run
from scripts.joint import Options, add_rows, load_data, taken_before
from scripts.joint_games import game, original_ends, settings_of
from scripts.joint_rules import JUDGED
from tw_env.rules import Constraint, Quantity
from tw_env.settings import load_models

RIVALS: dict[Literal["SELF/ASK", "SELF/VERIFY"], tuple[str, ...]] = {
    "SELF/ASK": ("p_max", "entropy"),
    "SELF/VERIFY": ("p_max", "surprise_at_end"),
}


@dataclass
class RivalOptions(Options):
    """Distil a student without asking, calibrate heuristics on it, and play them."""

    updates: int = 4000
    """Gradient steps of distillation on gold and the teacher's texts, one of them drawn at random each time; 0 takes
    --student as it is, such as one that scripts.joint gave only a start, told rules but never to ask; what it took is
    read from its training.json."""
    name: str = "distilled"
    """How its rows are called, before the name of each heuristic."""
    seed: int = 0
    """Of the order of the prompts and of the draws."""
    games: tuple[Literal["SELF/ASK", "SELF/VERIFY"], ...] = tuple(RIVALS)
    """Where it plays."""
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    """How carefully cuts are searched, which takes its time on long texts."""
    supervised: SupervisedConfig = field(
        default_factory=lambda: SupervisedConfig(steps=4000, decay_steps=3950, warmup=50, weight_decay=0.0)
    )
    """The rest of the distillation's settings; steps, decay and seed are set by the above."""


def distil(options: RivalOptions) -> tuple[Path, TrainingCost]:
    """The distilled student's folder, and what it took, the runs before included.

    Raises:
        ValueError: no updates and no student.
    """
    if options.updates == 0:
        if options.student is None:
            raise ValueError("Expected --student with --updates 0, got none; name the folder of a distilled student.")
        return Path(options.student), taken_before(options.student) or TrainingCost()
    pair = load_models(settings_of(options, "policy"))
    data = load_data(options, pair)
    config = SupervisedConfig(**{
        **vars(options.supervised), "steps": options.updates, "decay_steps": max(options.updates - 50, 1),
        "seed": options.seed,
    })  # fmt: skip
    targets = [[*answers, *[text] * len(answers)] for answers, text in zip(data.gold, data.stored, strict=True)]
    student = copy.deepcopy(pair.student).requires_grad_(True)
    trainer = Trainer(student, data.prompts, targets, config, options.out / "distilled")
    before = taken_before(options.student)
    with tqdm(total=config.steps, initial=trainer.step, unit="update", desc="distilling") as bar:
        model = trainer.run(lambda trainer, loss: bar.update(trainer.step - bar.n))
    folder = options.out / MODEL
    model.save_pretrained(folder)
    pair.tokenizer.save_pretrained(folder)
    cost = TrainingCost(trainer.cpu_seconds, trainer.step, teacher_tokens=data.teacher_tokens)
    cost.save(folder, before)
    return folder, (before or TrainingCost()) + cost


def judge(options: RivalOptions, folder: Path, cost: TrainingCost) -> list[Row]:
    """Rows of every heuristic in both games, against the ends of the original pair.

    A heuristic takes what its student took, and what it was calibrated with.
    """
    ends, rows = original_ends(options), []
    for actions in options.games:
        learning, test = game(options, "policy", folder, actions), game(options, "test", folder, actions)
        prompts = np.arange(len(test.task.prompts))
        for score in RIVALS[actions]:
            seen: Any = Recorded(learning.env)  # counts from 0
            began = time.process_time()
            policy: Any = Heuristic(score, config=options.calibration).learn(seen).policy
            taken = cost.with_play(seen, time.process_time() - began)
            for limit in JUDGED:
                rule = Constraint(Quantity.CALLS_PER_TOKEN, limit)
                agent = f"{options.name} {score.replace('_', '-')}"
                played = play(test, policy, prompts, rule, options.seed)
                row = make_row(
                    test, played, ends, rule, agent=agent, kind="heuristic", seed=options.seed, **taken.fields()
                )
                rows.append({**row, "told": TRAINED, "words": str(rule), "sentences": 1})
    return rows


def main(options: RivalOptions) -> None:
    """Distil, play, write."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    folder, cost = distil(options)
    rows = judge(options, folder, cost)
    if options.rows is not None:
        add_rows(options.rows, rows)
    for row in rows:
        print(
            f"{row['actions']:12} {row['agent']:26} {row['rule']:46} calls/token {row['calls_per_token']:.3f} "
            f"recovered {row['recovered_gap']:.1%}"
        )


if __name__ == "__main__":
    run(main, RivalOptions, __doc__)
