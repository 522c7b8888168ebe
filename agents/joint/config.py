"""Settings of joint training, and the data that it learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agents.joint.drafts import Quality
from agents.joint.reading import Ids
from agents.supervised import SupervisedConfig, Targets
from tw_env.actions import Action


class Stage(StrEnum):
    """What joint training does, in this order; a stage of no updates is left out."""

    START = "start"  # token probabilities alone, on gold and stored teacher texts
    CLONE = "clone"  # and the ask tokens, on marked places of the teacher's texts
    PCL = "pcl"  # and the gate's path consistency along own drafts


@dataclass(frozen=True)
class JointConfig:
    """What is learnt, how long and how fast."""

    call: Literal["ASK", "VERIFY"] = "VERIFY"
    """What asking does: ASK at any token, or VERIFY where the text would end. With ASK and path consistency a call
    behind a mistake counts as one that changes nothing: true of a metric that is lost by then, such as exact match, and
    an approximation of all others, since in the game the teacher writes a token there, too."""
    start: int = 0
    """Updates of the supervised start; a student that was fitted before needs none."""
    clone: int = 800
    """Updates of behaviour cloning before path consistency, beside which it goes on (`clone_kept`)."""
    pcl: int = 600
    """Updates of constrained PCL."""
    episodes: int = 128
    """Episodes of an update of PCL."""
    texts: int = 256
    """Texts of an update from which token probabilities learn."""
    gold_share: float = 0.5
    """Share of gold texts among them; the others are the teacher's."""
    clone_weight: float = 1.0
    """Weight of behaviour cloning beside the token loss. A small student's writing pays for a large one."""
    clone_kept: float = 0.25
    """Weight that behaviour cloning keeps in `Stage.PCL`; over 600 updates 0 was found to do as well. None beside the
    whole residual, which pays for every place itself."""
    write_weight: float = 1.0
    """Weight of the token loss beside the gate's."""
    frozen: bool = False
    """Behind the supervised start, hold the student still but for the rows of its ask tokens and of the rules' words;
    no token loss then."""
    write_alone: bool = False
    """Weight each text by the probability that nobody is asked, so that what is verified anyway takes no capacity."""
    limits: tuple[float, ...] = (
        0.01, 0.02, 0.03, 0.045, 0.05, 0.06, 0.07, 0.085, 0.09, 0.1, 0.12, 0.14, 0.15, 0.18, 0.2, 0.24, 0.28, 0.3,
    )  # fmt: skip
    """Limits that are trained on, in calls per token; every digit stands in one, and not behind others alone."""
    extremes: float = 0.05
    """Chance of the rule "never", and again of one without limit."""
    misread: float = 0.15
    """Chance that some words of a rule are replaced by random ones, see `agents.joint.wording`."""
    alpha: float = 0.1
    """Entropy weight of the gate at the start, in units of the metric."""
    alpha_end: float = 0.05
    """At the end; falls linearly."""
    gate_span: float = 6.0
    """Log-odds of calling, in nats, beyond which the gate need not be surer."""
    least_reach: float = 0.1
    """Least weight of a choice that the gate hardly comes to."""
    objective: Literal["path_consistency", "expected_return", "whole"] = "path_consistency"
    """What `Stage.PCL` learns from: squared residuals of the gate along greedy drafts, for the task's metric; the
    policy gradient on the same states; or the whole residual of tokens and calls along texts sampled in SELF/ASK, for
    minus the divergence from the teacher (see `agents.joint.whole`). The last wants `call` ASK and entropy weights,
    prices and steps in nats: alpha 1, price 2, price_step .05, price_largest 10."""
    level_rate: float = 0.0
    """Share of what the gate's logits miss that goes to a number beside the words, one a limit (`agents.joint.levels`);
    0 leaves limits to the words alone."""
    gate_weight: float = 1.0
    """Weight of the gate's loss; of the whole residual's, too."""
    replay: int = 8
    """Of the whole residual: updates whose walks are kept, one of which is learnt from again beside the fresh ones; 0
    learns from fresh ones alone."""
    value_lr: float = 1e-2
    """Of the whole residual: Adam's step size for V."""
    value_steps: int = 4
    """Of the whole residual: gradient steps of V an update."""
    price: float = 0.2
    """Lambda at the start for a limit of .1 calls per token, in units of the metric per call; others go with the square
    root of 1 / limit."""
    price_step: float = 0.01
    """Lambda's move per call of violation in an episode."""
    price_least: float = 0.005
    """Least lambda: a price above 0 tells good calls from wasted ones where the limit doesn't bind."""
    price_largest: float = 3.0
    """Largest lambda, and that of the rule "never"."""
    learning_rate: float = 4e-3
    """Peak step size, in units of an Adam update."""
    embedding_rate: float = 1.0
    """Factor on it for embeddings and head; T5's, whose embeddings are large and whose logits are scaled, want more."""
    warmup: int = 50
    """Updates during which it rises; afterwards it falls linearly to zero."""
    ema_decay: float = 0.99
    """Decay of the moving average of the weights; the average is what training returns."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    muon: bool = True
    """Orthogonalise the updates of the hidden matrices (Muon); AdamW everywhere otherwise."""
    accumulate: int = 1
    """Parts that each process splits its share of an update into, for less memory; the result is the same up to
    rounding. Two or more cost a second reading of every text, without gradients."""
    precision: Literal["no", "bf16", "fp16"] | None = None
    """Of the passes that are learnt from, under autocast; log-probabilities and losses stay in single precision. None
    takes what `accelerate launch` was told, else "no". On a CPU, attention by "sdpa" goes back very slowly in bf16."""
    seed: int = 0
    """Of all draws."""
    checkpoint_every: int = 100
    """Updates between two checkpoints."""

    def __post_init__(self) -> None:
        if min(self.start, self.clone, self.pcl) < 0 or self.updates < 1 or min(self.episodes, self.texts) < 1:
            raise ValueError("Expected stages of at least 0 updates, 1 in all, and at least 1 episode and text each.")
        most = min(self.episodes, self.texts)
        if not 1 <= self.accumulate <= most:
            raise ValueError(
                f"Expected to accumulate 1 to {most} parts, a text and an episode in each, got {self.accumulate}."
            )
        if not 0 <= min(self.gold_share, self.misread) <= max(self.gold_share, self.misread) <= 1:
            raise ValueError(
                "Expected shares of gold texts and of misread rules between 0 and 1, got "
                f"{self.gold_share} and {self.misread}."
            )
        if self.objective == "whole" and (self.call != "ASK" or self.accumulate > 1):
            raise ValueError(
                "Expected call='ASK' and accumulate=1 for the whole residual, whose walks are those of SELF/ASK and "
                f"are learnt from at once; got {self.call} and {self.accumulate}."
            )
        if not 0 < self.alpha_end <= self.alpha:
            raise ValueError(f"Expected 0 < alpha_end <= alpha, got {self.alpha_end} and {self.alpha}.")

    @property
    def updates(self) -> int:
        """Of all stages."""
        return self.start + self.clone + self.pcl

    @property
    def action(self) -> Action:
        """What asking does in the game."""
        return Action[self.call]

    def stage(self, update: int) -> Stage:
        """Where an update belongs."""
        if update < self.start:
            return Stage.START
        return Stage.CLONE if update < self.start + self.clone else Stage.PCL

    def cloning(self, stage: Stage) -> float:
        """Weight of behaviour cloning in a stage."""
        kept = 0.0 if self.objective == "whole" else self.clone_kept
        return {Stage.START: 0.0, Stage.CLONE: self.clone_weight, Stage.PCL: kept}[stage]

    def holds(self, stage: Stage) -> bool:
        """Whether the student's writing is held still in a stage."""
        return self.frozen and stage is not Stage.START

    def alpha_at(self, update: int) -> float:
        """Entropy weight at an update of PCL."""
        done = (update - self.start - self.clone) / max(self.pcl, 1)
        return self.alpha + (self.alpha_end - self.alpha) * min(max(done, 0.0), 1.0)

    def optimizer(self) -> SupervisedConfig:
        """What the optimisers and the course of their rate are told."""
        return SupervisedConfig(
            steps=self.updates, decay_steps=self.updates - min(self.warmup, self.updates - 1),
            learning_rate=self.learning_rate, warmup=self.warmup, weight_decay=0.0, muon=self.muon, seed=self.seed,
            embedding_rate=self.embedding_rate,
        )  # fmt: skip


@dataclass(frozen=True)
class JointData:
    """Prompts as the teacher reads them, and the texts that were stored for them.

    Attributes:
        prompts: token ids. gold: right answers to each, end token included. stored: the teacher's greedy text of each.
        asking: prompts on which asking is learnt: none that the teacher was fitted on, where it is better than it is.
        writing: prompts whose texts the token probabilities learn from.
        quality: the task's metric. end_tokens: ids that end a text. max_new_tokens: cap, end token included.
        scale: what a unit of the metric is worth to the gate, see `agents.learning_env.reward_scale`.
        teacher_tokens: what the teacher read to write the stored texts, see `agents.joint.training_cost`.
    """

    prompts: Sequence[Ids]
    gold: Sequence[Targets]
    stored: Sequence[Ids]
    asking: NDArray[np.int64]
    writing: NDArray[np.int64]
    quality: Quality
    end_tokens: tuple[int, ...]
    max_new_tokens: int
    name: str = field(default="", compare=False)
    scale: float = 1.0
    teacher_tokens: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.prompts) == len(self.gold) == len(self.stored):
            raise ValueError(
                f"Expected gold and stored texts for all {len(self.prompts)} prompts, got {len(self.gold)} and "
                f"{len(self.stored)}."
            )
        if not len(self.asking) or not len(self.writing):
            raise ValueError("Expected at least one prompt to learn asking on, and one to learn writing on.")

    def worth(self, index: int, text: Ids) -> float:
        """What the gate learns from: the metric in a unit that prices and entropy weights fit."""
        return self.scale * self.quality(index, text)
