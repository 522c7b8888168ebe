"""Ablations of joint training: with and without behaviour cloning, and on a student that is held still."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.evaluation import Ends
from agents.joint.config import JointConfig
from agents.joint.deployment import ranking, rows_of, told
from agents.joint.parallel import Processes
from agents.joint.wording import NEVER
from scripts.joint import Options as JointOptions
from scripts.joint import deploy, game, original_ends, settings_of, train
from tw_env.policies import AskToken
from tw_env.settings import load_models

Row = dict[str, Any]
LIMITS = (0.05, 0.1, 0.2)  # told in training and in the test, in calls per token
ROWS = 512  # of the batched game


def joint_variants(first: int, pcl: int, base: JointConfig) -> dict[str, JointConfig]:
    """Settings by name: `first` updates before asking is learnt by path consistency, `pcl` of that."""
    common = replace(base, limits=LIMITS, pcl=pcl)
    return {
        "cloning": replace(common, start=0, clone=first),
        "no cloning": replace(common, start=first, clone=0),
        "start, then frozen": replace(common, start=first, clone=0, frozen=True),
        "cloning, frozen": replace(common, start=0, clone=first, frozen=True),
    }


class JointBench:
    """What all runs share: where they live, how many words they see, the ends of the gap.

    Args:
        work: folder of all runs. words: of each training split. held: of them, only for the cut. tested: test words.
    """

    def __init__(self, work: Path, words: int, held: int, tested: int, device: str) -> None:
        self._work, self._tested = work, tested
        self._options = JointOptions(
            work, resume=True, stored=work / "teacher.safetensors", limit=words, held=held, device=device,
            play_rows=min(ROWS, len(LIMITS) * held),
        )  # fmt: skip
        self._ends: Ends | None = None
        self._processes = Processes(cpu=device == "cpu")

    def row(self, name: str, config: JointConfig) -> Row:
        """Train one variant, going on from its checkpoint, and judge it under every rule."""
        folder = self._work / f"{name.replace(',', '').replace(' ', '-')}-{config.seed}"
        options = replace(self._options, out=folder, config=config)
        folder.mkdir(parents=True, exist_ok=True)
        joint, tokenizer = train(options, load_models(settings_of(options, "policy")), self._processes)
        model, cost = deploy(options, joint, tokenizer)
        tests = replace(options, limit=self._tested)
        if self._ends is None:
            self._ends = original_ends(tests)
        env = game(tests, "test", model, f"SELF/{config.call}")
        rules = [told(limit) for limit in (*LIMITS, NEVER)]
        rows = rows_of(AskToken.read(model), env, self._ends, rules, "joint", config.seed, **cost.fields())
        auc = ranking(env, np.arange(len(env.task.prompts)), 0.1, config.seed)
        found = {"auc": auc["ask"], "p_max_auc": auc["p_max"], "alone": rows[-1]["quality"]}
        for limit, row in zip(LIMITS, rows, strict=False):
            found |= {f"gap/{limit:g}": row["recovered_gap"], f"calls/{limit:g}": row["calls_per_token"]}
        return {**found, "seconds": round(joint.cost.seconds, 1)}
