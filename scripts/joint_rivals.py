"""What joint training must beat: the same student, only distilled, with calibrated thresholds in the same games.

python -m scripts.joint_rivals --out runs/distilled --rows results/pronounce-joint.json --updates 4000
python -m scripts.joint_rivals --out runs/told --name told --updates 0 --student runs/start/model --rows FILE
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from agents.baselines.heuristic import Heuristic
from agents.evaluation import Row, make_row, play
from agents.joint.deployment import MODEL
from agents.supervised import SupervisedConfig, Trainer
from scripts.command import run
from scripts.joint import Options, add_rows, game, load_data, original_ends, settings_of
from scripts.joint_rules import JUDGED
from tw_env.rules import Constraint, Quantity
from tw_env.settings import load_models

RIVALS = {"SELF/ASK": ("p_max", "entropy"), "SELF/VERIFY": ("p_max", "surprise_at_end")}


@dataclass
class RivalOptions(Options):
    """Distil a student without asking, calibrate heuristics on it, and play them."""

    updates: int = 4000
    """Gradient steps of distillation on gold and the teacher's texts, one of them drawn at random each time; 0 takes
    --student as it is, such as one that scripts.joint gave only a start, told rules but never to ask."""
    name: str = "distilled"
    """How its rows are called, before the name of each heuristic."""
    seconds: float = 0.0
    """With --updates 0: processor seconds that the student's training took."""
    seed: int = 0
    """Of the order of the prompts and of the draws."""
    supervised: SupervisedConfig = field(
        default_factory=lambda: SupervisedConfig(steps=4000, decay_steps=3950, warmup=50, weight_decay=0.0)
    )
    """The rest of the distillation's settings; steps, decay and seed are set by the above."""


def distil(options: RivalOptions) -> tuple[Path, float]:
    """The distilled student's folder, and the processor seconds that it took.

    Raises:
        ValueError: no updates and no student.
    """
    if options.updates == 0:
        if options.student is None:
            raise ValueError("Expected --student with --updates 0, got none; name the folder of a distilled student.")
        return Path(options.student), options.seconds
    pair = load_models(settings_of(options, "policy"))
    data = load_data(options, pair)
    config = SupervisedConfig(**{
        **vars(options.supervised), "steps": options.updates, "decay_steps": max(options.updates - 50, 1),
        "seed": options.seed,
    })  # fmt: skip
    targets = [[*answers, *[text] * len(answers)] for answers, text in zip(data.gold, data.stored, strict=True)]
    student = copy.deepcopy(pair.student).requires_grad_(True)
    trainer = Trainer(student, data.prompts, targets, config, options.out / "distilled")
    started = time.process_time()
    with tqdm(total=config.steps, initial=trainer.step, unit="update", desc="distilling") as bar:
        model = trainer.run(lambda trainer, loss: bar.update(trainer.step - bar.n))
    folder = options.out / MODEL
    model.save_pretrained(folder)
    pair.tokenizer.save_pretrained(folder)
    return folder, time.process_time() - started


def judge(options: RivalOptions, folder: Path, seconds: float) -> list[Row]:
    """Rows of every heuristic in both games, against the ends of the original pair."""
    ends, rows = original_ends(options), []
    for actions, scores in RIVALS.items():
        learning, test = game(options, "policy", folder, actions), game(options, "test", folder, actions)
        prompts = np.arange(len(test.task.prompts))
        for score in scores:
            policy: Any = Heuristic(score).learn(learning.env).policy
            for limit in JUDGED:
                rule = Constraint(Quantity.CALLS_PER_TOKEN, limit)
                agent = f"{options.name} {score.replace('_', '-')}"
                played = play(test, policy, prompts, rule, options.seed)
                row = make_row(
                    test, played, ends, rule, agent=agent, kind="heuristic", seed=options.seed, training_seconds=seconds
                )
                rows.append({**row, "told": "trained", "words": str(rule), "sentences": 1})
    return rows


def main(options: RivalOptions) -> None:
    """Distil, play, write."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    folder, seconds = distil(options)
    rows = judge(options, folder, seconds)
    if options.rows is not None:
        add_rows(options.rows, rows)
    for row in rows:
        print(
            f"{row['actions']:12} {row['agent']:26} {row['rule']:46} calls/token {row['calls_per_token']:.3f} "
            f"recovered {row['recovered_gap']:.1%}"
        )


if __name__ == "__main__":
    run(main, RivalOptions, __doc__)
