"""What each choice of the joint training is good for: one thing changed at a time, small budgets, one table.

python -m scripts.ablate --out results/ablations.json
python -m scripts.ablate --out results/ablations.json --only shares --seeds 0 1 2
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from tqdm import tqdm
from transformers import PreTrainedModel

from agents.joint.config import JointConfig
from agents.joint.distillation import DistillationConfig
from agents.joint.objective import Loss
from agents.joint.reading import Ids
from agents.joint.sampling import Writer
from agents.joint.shares import Places, fit_gate, judged, places_of
from scripts.ablate_joint import JointBench, joint_variants
from scripts.ablate_reasons import REASONS, ReasonBench
from scripts.ablate_text import print_tables
from scripts.command import run
from scripts.distill import SAMPLED, Bench, Table
from scripts.distill import Options as DistillOptions
from tw_env.settings import Settings, encode_prompts, load_models, load_task
from tw_env.tasks import pronounce

Row = dict[str, Any]


class Ablation(StrEnum):
    """What is changed."""

    SHARES = "shares"  # whose texts a gate learns from, beside a frozen pair
    REASONS = "reasons"  # how many ask tokens a student has, before it learns to use them
    LENGTHS = "lengths"  # path lengths of distillation
    VALUE = "value"  # V as a network, as the mean of a group, or 0
    EXPECTED = "expected"  # stored distributions instead of the drawn tokens
    CLONING = "cloning"  # behaviour cloning before path consistency
    FROZEN = "frozen"  # asking learnt on a student that is held still


START = "the start"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
DISTILLED: dict[str, tuple[tuple[Ablation, ...], dict[str, Any]]] = {  # name -> where it belongs, what is changed
    "d = 1, 4, end; V a network": ((Ablation.LENGTHS, Ablation.VALUE, Ablation.EXPECTED), {}),
    "d = 1": ((Ablation.LENGTHS,), {"path_lengths": (1,)}),
    "d = 4": ((Ablation.LENGTHS,), {"path_lengths": (4,)}),
    "d to the end": ((Ablation.LENGTHS,), {"path_lengths": (0,)}),
    "V the mean of a group": ((Ablation.VALUE,), {"loss": Loss.PCL_GROUP}),
    "V = 0": ((Ablation.VALUE,), {"with_value": False}),
    "stored distributions": ((Ablation.EXPECTED,), {"loss": Loss.PCL_EXPECTED}),
}
JOINT = {
    "cloning": (Ablation.CLONING, Ablation.FROZEN),
    "no cloning": (Ablation.CLONING, Ablation.FROZEN),
    "start, then frozen": (Ablation.FROZEN,),
    "cloning, frozen": (Ablation.FROZEN,),
}
MAY_DIFFER = ("out", "work", "only", "seeds", "threads", "device")  # when a table is taken up again


@dataclass
class Options:
    """Run ablations of the joint training, and write a row of each variant and seed."""

    out: Path = Path("results/ablations.json")
    """Where the rows go; a run that finds some there does those that are missing."""
    work: Path = Path("runs/ablations")
    """Checkpoints, TensorBoard logs, the teacher's texts."""
    only: tuple[Annotated[Ablation, tyro.conf.EnumChoicesFromValues], ...] = tuple(Ablation)
    """Which ablations; a variant that two of them need is run once."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of each variant."""
    tested: int = 2000
    """Held-out words on which everything is judged."""
    share_words: int = 4000
    """Words of which student and teacher write a sampled text each, for `shares`."""
    share_updates: int = 400
    """Gradient steps of each gate there."""
    price: float = 1.0
    """Lambda there, in nats per call."""
    start: str | None = None
    """Folder of the student that distillation starts from; None trains one, with the shipped student's recipe."""
    start_updates: int = 1000
    """Gradient steps of that one."""
    words: int = 9600
    """Words of distillation."""
    distillation: DistillationConfig = field(
        default_factory=lambda: DistillationConfig(updates=150, batch=64, learning_rate=1e-3)
    )
    """Of each distillation; loss, path lengths, V and seed are set by the variant."""
    joint_words: int = 6000
    """Words of each training split in joint training."""
    joint_held: int = 500
    """Of them, words on which only the cut is found."""
    joint_first: int = 800
    """Updates before path consistency, of cloning or of the supervised start."""
    joint_pcl: int = 200
    """Updates of path consistency."""
    joint: JointConfig = field(default_factory=lambda: JointConfig(episodes=64, texts=128, gold_share=0.0))
    """Of joint training, on the teacher's texts alone, as cloning needs them; stages, limits, `frozen` and seed are set
    by the variant."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 1
    """Torch's threads."""


class Shares:
    """Places of texts that student and teacher sampled, once for all shares and seeds."""

    def __init__(self, options: Options) -> None:
        self.options = options
        words = options.share_words + options.tested
        task = load_task(Settings(task="pronounce", split="policy", limit=words))
        if len(task.prompts) < words:
            raise ValueError(f"Expected at most {len(task.prompts)} words in all (share_words + tested), got {words}.")
        self.pair, self.cap = load_models(Settings(task="pronounce", device=options.device)), task.max_new_tokens
        prompts = encode_prompts(task, self.pair, self.cap)
        learnt, held = prompts[: options.share_words], prompts[options.share_words :]
        self.own, self.theirs = self._places(self.pair.student, learnt, 0), self._places(self.pair.teacher, learnt, 1)
        self.held = self._places(self.pair.student, held, 2)

    def _places(self, writer: PreTrainedModel, prompts: Sequence[Ids], seed: int) -> Places:
        longest = max(map(len, prompts))
        written = Writer(writer, longest, self.cap, self.pair.end_tokens, self.pair.vocabulary).sample(
            prompts, np.random.default_rng(seed)
        )
        return places_of(self.pair.student, self.pair.teacher, written, self.pair.vocabulary)

    def row(self, share: float, seed: int) -> Row:
        """Fit a gate and judge it on the student's own held-out texts."""
        options = self.options
        gate = fit_gate(self.own, self.theirs, share, options.price, options.share_updates, seed=seed)
        return {**judged(gate, self.held, share, options.price), "places": len(self.held)}


@dataclass
class Benches:
    """What the three parts share, made when it is first needed."""

    options: Options

    @cached_property
    def shares(self) -> Shares:
        """Of the frozen pair."""
        return Shares(self.options)

    @cached_property
    def reasons(self) -> ReasonBench:
        """Of the frozen pair, too."""
        return ReasonBench(self.options.share_words, self.options.tested, self.options.device)

    @cached_property
    def distillation(self) -> Bench:
        """Of distillation: start, teacher's texts, test words."""
        options, given = self.options, self.options.start
        teacher = str(pronounce.TEACHER) if given else None  # a pair is named whole, or not at all
        shared = DistillOptions(
            work=options.work / "distillation", start_updates=options.start_updates, prompts=options.words,
            held_out=options.tested, student=given, teacher=teacher, config=options.distillation,
            losses=(Loss.PCL, Loss.PCL_GROUP, Loss.PCL_EXPECTED), device=options.device,
        )  # fmt: skip
        return Bench(shared)

    @cached_property
    def joint(self) -> JointBench:
        """Of joint training."""
        options = self.options
        return JointBench(
            options.work / "joint", options.joint_words, options.joint_held, options.tested, options.device
        )

    def of_share(self, share: float, seed: int) -> Row:
        """The row of a gate that learnt from this share of own places."""
        return self.shares.row(share, seed)

    def of_reasons(self, reasons: int) -> Row:
        """The row of a student with so many ask tokens."""
        return self.reasons.row(reasons)

    def of_start(self) -> Row:
        """The row of the student that all distillations start from."""
        found = self.distillation.judge(self.distillation.start, self.distillation.test, SAMPLED)
        return {**found, "loss": None, "updates": 0, "texts": 0, "tokens": 0, "seconds": 0.0}

    def of_distillation(self, name: str, config: DistillationConfig) -> Row:
        """The row of a student that was distilled with these settings."""
        folder = "".join(letter if letter.isalnum() else "-" for letter in f"{name}-{config.seed}")
        with tqdm(total=config.updates, unit="update") as bar:
            row, _ = self.distillation.distil(config, self.distillation.test, SAMPLED, bar, folder)
        return {name: row[name] for name in ("loss", "quality", "nats", "kl", "updates", "texts", "tokens", "seconds")}

    def of_joint(self, name: str, config: JointConfig) -> Row:
        """The row of a student that learnt to ask with these settings."""
        return self.joint.row(name, config)


Task = tuple[str, str, int, Callable[[], Row]]  # part, variant, seed, what makes its row


def tasks(options: Options, benches: Benches) -> Iterator[Task]:
    """Everything that was asked for, seed by seed."""
    for reasons in REASONS if Ablation.REASONS in options.only else ():
        yield "reasons", str(reasons), 0, partial(benches.of_reasons, reasons)
    if any(set(where) & set(options.only) for where, _ in DISTILLED.values()):
        yield "distillation", START, 0, benches.of_start
    for seed in options.seeds:
        for share in SHARES if Ablation.SHARES in options.only else ():
            yield "shares", f"{share:g}", seed, partial(benches.of_share, share, seed)
        for name, (where, changed) in DISTILLED.items():
            if set(where) & set(options.only):
                config = replace(options.distillation, seed=seed, **changed)
                yield "distillation", name, seed, partial(benches.of_distillation, name, config)
        variants = joint_variants(options.joint_first, options.joint_pcl, replace(options.joint, seed=seed))
        for name, joint in variants.items():
            if set(JOINT[name]) & set(options.only):
                yield "joint", name, seed, partial(benches.of_joint, name, joint)


def main(options: Options) -> None:
    """Run what is missing, write the rows, print the tables."""
    torch.set_num_threads(options.threads)
    table, benches = Table(options, MAY_DIFFER), Benches(options)
    for part, variant, seed, make in tasks(options, benches):
        if table.find("rows", part=part, variant=variant, seed=seed) is None:
            print(f"{part}: {variant}, seed {seed}", flush=True)
            table.add("rows", {"part": part, "variant": variant, "seed": seed, **make()})
    print_tables(table.content["rows"])
    print(f"rows written to {options.out}")


if __name__ == "__main__":
    run(main, Options, __doc__)
