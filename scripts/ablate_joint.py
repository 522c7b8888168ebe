"""Ablations of joint training: what comes before path consistency, a student held still, another loss.

All begin from a student that reads its rules, since none learns that in the updates of an ablation: *told*, which was
also cloned to ask, or *started*, which never was.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from agents.evaluation import Ends
from agents.joint.config import JointConfig
from agents.joint.deployment import MODEL, ranking, rows_of, told
from agents.joint.parallel import Processes
from agents.joint.wording import FREE, NEVER
from scripts.joint import Options as JointOptions
from scripts.joint import fitted, save, train
from scripts.joint_games import game, original_ends, settings_of
from tw_env.settings import load_models

Row = dict[str, Any]
RULES = {"3%": 0.03, "5%": 0.05, "10%": 0.1, "20%": 0.2, "never": NEVER, "free": FREE}  # in calls per token
RANKED = 3000  # test words on which P(ask) and p_max are compared
STAGES = {
    "told": "--config.start 2000 --config.clone 12000 --config.clone-weight 0.25",
    "started": "--config.start 14000 --config.clone 0",
}


class Begin(StrEnum):
    """The student that a variant begins from."""

    TOLD = "told"  # reads rules, writes, asks by cloning
    STARTED = "started"  # reads rules, writes


@dataclass(frozen=True)
class Variant:
    """What is changed.

    Attributes:
        begin: the student. changed: fields of `JointConfig`. trained: whether there is a last stage at all.
        cloned: whether it is one of cloning, without path consistency.
    """

    begin: Begin = Begin.TOLD
    changed: dict[str, Any] = field(default_factory=dict)
    trained: bool = True
    cloned: bool = False

    def config(self, base: JointConfig) -> JointConfig:
        """Settings of the one stage that is trained."""
        common = replace(base, start=0, clone=0, frozen=False, objective="path_consistency")
        if self.cloned:
            return replace(common, clone=base.pcl, pcl=0, clone_weight=base.clone_kept)
        return replace(common, **self.changed)


VARIANTS = {
    "cloning, then PCL": Variant(),
    "cloning, then PCL, held still": Variant(changed={"frozen": True}),
    "cloning alone": Variant(trained=False),
    "cloning alone, going on": Variant(cloned=True),
    "cloning, then PCL alone": Variant(changed={"clone_kept": 0.0}),
    "no cloning": Variant(Begin.STARTED, {"clone_kept": 0.0}),
    "no cloning, held still": Variant(Begin.STARTED, {"clone_kept": 0.0, "frozen": True}),
    "policy gradient": Variant(changed={"objective": "expected_return"}),
}


def refuse_missing(begin: Begin, folder: Path) -> None:
    """Say how a student is made that isn't there.

    Raises:
        FileNotFoundError: no model in the folder.
    """
    if not (folder / "config.json").is_file():
        out = folder.parent if folder.name == MODEL else f"runs/{begin}"
        raise FileNotFoundError(
            f"Expected the {begin} student in {folder}, found no config.json there. Make it with `python -m "
            f"scripts.joint --out {out} --config.call ASK {STAGES[begin]} --config.pcl 0`, or name its folder: "
            f"--{begin} OUT/{MODEL}."
        )


class JointBench:
    """What all runs share: students, texts, the ends of the gap.

    Args:
        options: of `scripts.joint`; each variant sets student, folder and config.
        students: the folder of each beginning.
    """

    def __init__(self, options: JointOptions, students: dict[Begin, Path]) -> None:
        self._options, self._students = options, students
        self._ends: Ends | None = None
        self._processes = Processes(cpu=options.device == "cpu")

    def row(self, name: str, base: JointConfig) -> Row:
        """Train one variant, going on from its checkpoint, and judge it under every rule."""
        variant = VARIANTS[name]
        config, student = variant.config(base), self._students[variant.begin]
        folder = self._options.out / f"{config.call.lower()}-{name.replace(',', '').replace(' ', '-')}-{config.seed}"
        options = replace(self._options, out=folder, config=config, student=str(student))
        folder.mkdir(parents=True, exist_ok=True)
        pair = load_models(settings_of(options, "policy"))
        self._check(variant.begin, pair.student)
        model, seconds = student, 0.0
        if variant.trained:
            joint, tokenizer = train(options, pair, self._processes)
            model, seconds = save(options, joint, tokenizer), joint.cost.seconds
        policy, _ = fitted(options, model)
        env = game(options, "test", model, f"SELF/{config.call}")
        if self._ends is None:
            self._ends = original_ends(options)
        rows = rows_of(policy, env, self._ends, [told(limit) for limit in RULES.values()], "joint", config.seed)
        judged = dict(zip(RULES, rows, strict=True))
        auc = ranking(env, np.arange(min(RANKED, len(env.task.prompts))), 0.1, config.seed)
        found: Row = {"began": str(variant.begin), "auc": auc["ask"], "p_max_auc": auc["p_max"]}
        found["alone"] = judged["never"]["quality"]
        for rule, row in judged.items():
            found |= {f"gap/{rule}": row["recovered_gap"], f"calls/{rule}": row["calls_per_token"]}
        return {**found, "updates": config.updates if variant.trained else 0, "seconds": round(seconds, 3)}

    @staticmethod
    def _check(begin: Begin, student: Any) -> None:
        """Refuse a student of the other kind: cloning is what gives ask tokens their first rows.

        Raises:
            ValueError: ask tokens of a told student that are as they were added, or of a started one that are not.
        """
        asks = getattr(student.config, "ask_token_ids", None) or []
        learnt = bool(student.get_output_embeddings().weight[asks].any())
        if not asks or learnt != (begin is Begin.TOLD):
            raise ValueError(
                "Expected a told student whose ask tokens were learnt, or a started one whose weren't; the "
                f"{begin} one has {len(asks)} of them, {'learnt' if learnt else 'not learnt'}."
            )
