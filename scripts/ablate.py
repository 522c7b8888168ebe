"""What each choice of the joint training is good for: one thing changed at a time, small budgets, one table.

python -m scripts.ablate --out results/ablations.json
python -m scripts.ablate --out results/ablations.json --only shares --seeds 0 1 2
python -m scripts.ablate --only cloning frozen objective --told runs/told/model --started runs/started/model
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tqdm import tqdm

from agents.joint.config import JointConfig
from agents.joint.distillation_config import DistillationConfig
from agents.joint.objective import Loss
from scripts.ablate_joint import VARIANTS, Begin, JointBench, refuse_missing
from scripts.ablate_reasons import NETWORK, REASONS, ReasonBench
from scripts.ablate_shares import SHARES, Recipe, Shares
from scripts.ablate_text import print_tables
from scripts.command import run
from scripts.distill import SAMPLED, Bench
from scripts.distill import Options as DistillOptions
from scripts.joint import Options as JointOptions
from scripts.kept_rows import Row, Table
from tw_env.tasks import pronounce


class Ablation(StrEnum):
    """What is changed."""

    SHARES = "shares"  # whose texts a small gate learns from, beside a frozen pair
    ASK_SHARES = "ask-shares"  # the same of the ask tokens of a student that is otherwise frozen
    REASONS = "reasons"  # how many ask tokens a student has, before it learns to use them; what its state tells at all
    LENGTHS = "lengths"  # path lengths of distillation
    VALUE = "value"  # V as a network, as the mean of a group, or 0
    EXPECTED = "expected"  # stored distributions instead of the drawn tokens
    CLONING = "cloning"  # behaviour cloning before and beside path consistency, before it, alone, not at all
    FROZEN = "frozen"  # asking learnt on a student that is held still
    OBJECTIVE = "objective"  # the policy gradient instead of path consistency


START = "the start"
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
    "cloning, then PCL": (Ablation.CLONING, Ablation.FROZEN, Ablation.OBJECTIVE),
    "cloning, then PCL, held still": (Ablation.FROZEN,),
    "cloning alone": (Ablation.CLONING,),
    "cloning alone, going on": (Ablation.CLONING,),
    "cloning, then PCL alone": (Ablation.CLONING,),
    "no cloning": (Ablation.CLONING, Ablation.FROZEN),
    "no cloning, held still": (Ablation.FROZEN,),
    "policy gradient": (Ablation.OBJECTIVE,),
}
ROWS = 512  # of the batched game, where so many texts are played
SHARE_SETTINGS = ("share_words", "tested", "share_updates", "price")
JOINT_SETTINGS = ("joint", "joint_words", "joint_held", "joint_tested")
SETTINGS = {  # what the rows of each part depend on; none of the others makes them stale
    "shares": SHARE_SETTINGS,
    "ask shares": SHARE_SETTINGS,
    "reasons": ("share_words", "tested"),
    "distillation": ("start", "start_updates", "words", "tested", "distillation"),
    "joint ASK": JOINT_SETTINGS,
    "joint VERIFY": JOINT_SETTINGS,
}


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
    """Held-out words on which everything but joint training is judged."""
    share_words: int = 4000
    """Words of which student and teacher write a sampled text each, for `shares` and `ask-shares`."""
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
    told: Path = Path("runs/told/model")
    """Folder of a student that reads rules and was cloned to ask, from which joint training goes on."""
    started: Path = Path("runs/started/model")
    """Folder of one that reads rules and never asked."""
    stored: Path | None = None
    """File of the teacher's texts for joint training, written there if it is missing; None keeps it in --work."""
    joint_words: int | None = None
    """Only the first so many words of each training split in joint training; None takes all."""
    joint_held: int = 2000
    """Words of them that nothing is trained on, as when told and started were made: the cut is found there."""
    joint_tested: int | None = 2000
    """Only the first so many words of the test split; None takes all."""
    joint: JointConfig = field(default_factory=lambda: JointConfig(pcl=600, learning_rate=1e-3, extremes=0.12))
    """Of the last stage, `call` included; start, clone, frozen, objective and seed are set by the variant, and
    clone_kept where there is to be none."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 1
    """Torch's threads."""

    @property
    def students(self) -> dict[Begin, Path]:
        """Folders of those from which joint training goes on."""
        return {Begin.TOLD: self.told, Begin.STARTED: self.started}


@dataclass
class Benches:
    """What the three parts share, made when it is first needed."""

    options: Options

    @cached_property
    def shares(self) -> Shares:
        """Of the frozen pair."""
        options = self.options
        return Shares(Recipe(options.share_words, options.tested, options.share_updates, options.price, options.device))

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
        options, work = self.options, self.options.work / "joint"
        shared = JointOptions(
            work, resume=True, stored=options.stored or work / "teacher.safetensors", limit=options.joint_words,
            held=options.joint_held, judged=options.joint_tested, device=options.device,
            play_rows=min(ROWS, options.joint_held * len(options.joint.limits)),
        )  # fmt: skip
        return JointBench(shared, options.students)

    def of_share(self, share: float, seed: int) -> Row:
        """The row of a gate that learnt from this share of own places."""
        return self.shares.row(share, seed)

    def of_ask_share(self, share: float, seed: int) -> Row:
        """The row of ask tokens that did."""
        return self.shares.ask_row(share, seed)

    def of_reasons(self, reasons: int) -> Row:
        """The row of a student with so many ask tokens."""
        return self.reasons.row(reasons)

    def of_network(self, seed: int) -> Row:
        """The row of a network on the student's state and probabilities."""
        return self.reasons.network_row(seed)

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
    for seed in options.seeds if Ablation.REASONS in options.only else ():
        yield "reasons", NETWORK, seed, partial(benches.of_network, seed)
    if any(set(where) & set(options.only) for where, _ in DISTILLED.values()):
        yield "distillation", START, 0, benches.of_start
    for seed in options.seeds:
        for share in SHARES if Ablation.SHARES in options.only else ():
            yield "shares", f"{share:g}", seed, partial(benches.of_share, share, seed)
        for share in SHARES if Ablation.ASK_SHARES in options.only else ():
            yield "ask shares", f"{share:g}", seed, partial(benches.of_ask_share, share, seed)
        for name, (where, changed) in DISTILLED.items():
            if set(where) & set(options.only):
                config = replace(options.distillation, seed=seed, **changed)
                yield "distillation", name, seed, partial(benches.of_distillation, name, config)
        for name, where in JOINT.items():
            if set(where) & set(options.only):
                joint = replace(options.joint, seed=seed)
                yield f"joint {joint.call}", name, seed, partial(benches.of_joint, name, joint)


def missing(options: Options, table: Table, benches: Benches) -> list[Task]:
    """What has no row yet.

    Raises:
        FileNotFoundError: a student that it begins from isn't there. ValueError: rows of other settings.
    """
    every, settings = list(tasks(options, benches)), asdict(options)
    for part in dict.fromkeys(part for part, *_ in every):
        table.keep_to({name: settings[name] for name in SETTINGS[part]}, part=part)
    found = [task for task in every if table.find("rows", part=task[0], variant=task[1], seed=task[2]) is None]
    for begin in {VARIANTS[variant].begin for part, variant, *_ in found if part.startswith("joint")}:
        refuse_missing(begin, options.students[begin])
    return found


def main(options: Options) -> None:
    """Run what is missing, write the rows, print the tables."""
    torch.set_num_threads(options.threads)
    table = Table(options.out)
    for part, variant, seed, make in missing(options, table, Benches(options)):
        print(f"{part}: {variant}, seed {seed}", flush=True)
        table.add("rows", {"part": part, "variant": variant, "seed": seed, **make()})
    print_tables(table.content["rows"])
    print(f"rows written to {options.out}")


if __name__ == "__main__":
    run(main, Options, __doc__)
