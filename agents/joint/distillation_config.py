"""Settings of distillation without asking, and the data that it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from agents.joint.objective import Loss
from agents.joint.reading import Ids
from agents.joint.teacher import ScoredTexts, Teacher
from agents.supervised import SupervisedConfig, Targets


@dataclass(frozen=True)
class DistillationConfig:
    """What is learnt from which texts, how long and how fast."""

    loss: Loss = Loss.PCL
    """What is minimised."""
    updates: int = 400
    """Gradient steps."""
    batch: int = 64
    """Texts of an update."""
    on_policy_share: float | None = None
    """Share of the texts that the student samples itself; None takes the loss's own."""
    siblings: int | None = None
    """Texts of each prompt in a batch, at least 2 for pcl_group; None takes the loss's own number."""
    path_lengths: tuple[int, ...] = (1, 4, 0)
    """Segment lengths d of the residuals, several at once; 0 goes to the end of the text."""
    with_value: bool = True
    """V as a network, for losses that have one; without, V = 0, as at the optimum."""
    beta: float = 0.5
    """Of the generalised JSD: small is near forward KL, large near reverse KL."""
    temperature: float = 1.0
    """Of the student's own samples."""
    learning_rate: float = 3e-3
    """Peak step size, in units of an Adam update."""
    value_lr: float = 1e-2
    """Adam's step size for V."""
    value_steps: int = 10
    """Gradient steps of V alone after each update, on its own texts: a baseline that lags is noise for the student."""
    warmup: int = 20
    """Updates during which the rates rise."""
    decay_share: float = 0.8
    """Share of the updates, the last ones, over which the rates fall to zero."""
    weight_decay: float = 0.0
    """Decoupled decay of the weight matrices, times the learning rate."""
    ema_decay: float = 0.98
    """Decay of the moving average of the weights; the average is what training returns."""
    clip: float = 1.0
    """Largest norm of the gradient, student and V apart."""
    muon: bool = True
    """Orthogonalise the updates of the hidden matrices (Muon); AdamW everywhere otherwise."""
    accumulate: int = 1
    """Parts that each process splits its share of an update into, for less memory; the result is the same up to
    rounding."""
    precision: Literal["no", "bf16", "fp16"] | None = None
    """Of the passes that are learnt from, under autocast; log-probabilities and losses stay in single precision. None
    takes what `accelerate launch` was told, else "no". On a CPU, attention by "sdpa" goes back very slowly in bf16."""
    seed: int = 0
    """Of the order of the prompts and of all draws."""
    checkpoint_every: int = 50
    """Updates between two checkpoints."""

    @property
    def own_share(self) -> float:
        """Share of the student's own texts."""
        return self.loss.own_share if self.on_policy_share is None else self.on_policy_share

    @property
    def texts_per_prompt(self) -> int:
        """Texts of each prompt in a batch."""
        return self.loss.siblings if self.siblings is None else self.siblings

    @property
    def learns_value(self) -> bool:
        """Whether V is a network."""
        return self.with_value and self.loss.learns_value

    def recipe(self) -> SupervisedConfig:
        """What the optimiser and the course of its rate are told."""
        return SupervisedConfig(
            steps=self.updates, decay_steps=round(self.decay_share * self.updates), batch_size=self.batch,
            learning_rate=self.learning_rate, warmup=self.warmup, weight_decay=self.weight_decay,
            ema_decay=self.ema_decay, clip=self.clip, muon=self.muon, seed=self.seed,
        )  # fmt: skip

    def deciding(self, precision: str) -> dict[str, Any]:
        """What decides the result, as plain data, with the precision that a run really has.

        Into how many parts an update is split does not, so it may change when a run is resumed.
        """
        return {**asdict(self), "loss": str(self.loss), "accumulate": 1, "precision": precision}

    def check(self) -> None:
        """Raises ValueError: settings that make no sense, alone or together."""
        siblings = self.texts_per_prompt
        if min(self.updates, self.batch, siblings) < 1 or self.batch % siblings:
            raise ValueError(
                f"Expected updates, batch and siblings of at least 1, and batch a multiple of siblings; got "
                f"{self.updates}, {self.batch} and {siblings}."
            )
        if not 0.0 <= self.own_share <= 1.0 or (siblings > 1 and self.own_share < 1.0 - 1.0 / siblings):
            raise ValueError(
                f"Expected an on-policy share up to 1, and at least 1 - 1/siblings since a prompt has one stored text; "
                f"got {self.own_share} with {siblings} siblings."
            )
        if not 1 <= self.accumulate <= self.batch // siblings:
            raise ValueError(
                f"Expected to accumulate 1 to {self.batch // siblings} parts, a prompt with its texts in each, got "
                f"{self.accumulate}."
            )
        if self.loss is Loss.PCL_GROUP and siblings < 2:
            raise ValueError(f"Expected at least 2 siblings for {self.loss}, got {siblings}.")


@dataclass(frozen=True)
class DistillationData:
    """What all losses share.

    Attributes:
        prompts: token ids. end_tokens: ids that end a text. max_new_tokens: cap, end token included.
        gold: right answers to each prompt, end token included; for `Loss.SUPERVISED`.
        stored: the teacher's text for each prompt, in the prompts' order; for all texts that are not the student's.
        vocabulary: tokens that student and teacher share; the student's others are left out. None for all.
    """

    prompts: Sequence[Ids]
    end_tokens: Sequence[int]
    max_new_tokens: int
    gold: Sequence[Targets] | None = None
    stored: ScoredTexts | None = None
    vocabulary: int | None = None

    def check(self, config: DistillationConfig, teacher: Teacher | None) -> None:
        """Raises ValueError: something that the loss needs isn't there, or doesn't fit the prompts."""
        gold = config.loss is Loss.SUPERVISED
        needed = {
            "gold": gold and (self.gold is None or len(self.gold) != len(self.prompts)),
            "stored": not gold and config.own_share < 1.0
            and (self.stored is None or list(map(list, self.stored.texts.prompts)) != list(map(list, self.prompts))),
        }  # fmt: skip
        for name, missing in needed.items():
            if missing:
                raise ValueError(f"Expected `{name}` to hold a text for each prompt, as {config.loss} needs.")
        if config.own_share > 0.0 and teacher is None:
            raise ValueError(
                f"Expected a teacher, since {config.own_share:.0%} of the texts are the student's own; give one, or "
                "take on_policy_share=0."
            )
