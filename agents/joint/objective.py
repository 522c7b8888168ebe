"""The loss of one batch of texts by its name, and what it tells of the student on the way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from agents.joint.losses import (
    coarsened,
    cross_entropy,
    every_action_loss,
    expected_path_loss,
    forward_kl,
    generalised_jsd,
    group_loss,
    logarithmic_mean,
    path_loss,
    path_residuals,
    reach,
    reverse_kl,
    token_gains,
    written,
)
from agents.joint.teacher import Scores
from agents.pcl.losses import remaining

Numbers = dict[str, float]


class Loss(StrEnum):
    """What is minimised, and on which texts if nothing else is said (`own_share`)."""

    SUPERVISED = "supervised"  # cross-entropy of gold texts
    SEQUENCE_KD = "sequence_kd"  # cross-entropy of the teacher's texts
    FORWARD_KL = "forward_kl"  # KL(p_T || p_S) at the teacher's texts
    REVERSE_KL = "reverse_kl"  # KL(p_S || p_T) at the student's own texts
    JSD = "jsd"  # generalised JSD at own and the teacher's texts (GKD)
    PCL = "pcl"  # squared residuals of the written tokens, V as a network, own and the teacher's texts
    PCL_GROUP = "pcl_group"  # squared residuals of whole texts of one prompt, V as their mean
    PCL_EXPECTED = "pcl_expected"  # with stored distributions instead of the written tokens alone

    @property
    def own_share(self) -> float:
        """Share of the student's own texts in a batch."""
        if self in (Loss.SUPERVISED, Loss.SEQUENCE_KD, Loss.FORWARD_KL):
            return 0.0
        if self is Loss.PCL_GROUP:
            return 1.0 - 1.0 / self.siblings  # the teacher's text is one of the group
        return 1.0 if self is Loss.REVERSE_KL else 0.5

    @property
    def siblings(self) -> int:
        """Texts of each prompt in a batch."""
        return 4 if self is Loss.PCL_GROUP else 1

    @property
    def learns_value(self) -> bool:
        """Whether V is a network."""
        return self in (Loss.PCL, Loss.PCL_EXPECTED)


@dataclass(frozen=True)
class Part:
    """A batch of texts laid end to end, on the student's device.

    Attributes:
        tokens: (steps,) written. starts: (texts + 1,). of_step: (steps,), see `Texts`.
        own: (texts,) whether the student wrote it just now; the others are gold or the teacher's.
        group: (texts,) which prompt of the batch, counted from 0. groups: how many prompts.
        scores: the teacher's; None for gold texts.
    """

    tokens: Tensor
    starts: Tensor
    of_step: Tensor
    own: Tensor
    group: Tensor
    groups: int
    scores: Scores | None


@dataclass(frozen=True)
class Settings:
    """What a loss can be told."""

    loss: Loss
    beta: float = 0.5
    path_lengths: tuple[int, ...] = (1, 4, 0)

    @property
    def lengths(self) -> tuple[int | None, ...]:
        """Path lengths d, None to the end of the text."""
        return tuple(length or None for length in self.path_lengths)


def objective(settings: Settings, logprobs: Tensor, values: Tensor, part: Part) -> tuple[Tensor, Numbers]:
    """The batch's loss and some numbers for the log.

    Args:
        logprobs: (steps, vocab) of the student where each token was written. values: (steps,) V there; zeros for none.
    """
    if part.scores is None:
        return cross_entropy(logprobs, part.tokens).mean(), {}
    student, mine = written(logprobs, part.tokens), coarsened(logprobs, part.scores.ids)
    numbers = _diagnostics(student.detach(), mine.detach(), values.detach(), part, part.scores, settings)
    return _loss(settings, student, mine, values, part, part.scores), numbers


def value_loss(settings: Settings, logprobs: Tensor, values: Tensor, part: Part) -> Tensor:
    """Squared residuals of the student's own texts, with a gradient in V alone.

    Args:
        logprobs: (steps, vocab), see `objective`. values: (steps,) V.
    """
    assert part.scores is not None
    logprobs, own = logprobs.detach(), part.own[part.of_step]
    if settings.loss is Loss.PCL:
        gains = token_gains(written(logprobs, part.tokens), part.scores.written)
    else:
        gains = -reverse_kl(coarsened(logprobs, part.scores.ids), part.scores.distribution)
    starts, of_step = _laid(part)
    return path_loss(path_residuals(gains[own], values[own], starts, of_step, settings.lengths), starts, of_step)


def _laid(part: Part) -> tuple[Tensor, Tensor]:
    """`starts` and `of_step` of the student's own texts alone."""
    lengths = part.starts.diff()[part.own]
    starts = torch.cat([part.starts[:1], lengths.cumsum(0)])
    return starts, torch.arange(len(lengths), device=starts.device).repeat_interleave(lengths)


def _loss(settings: Settings, student: Tensor, mine: Tensor, values: Tensor, part: Part, scores: Scores) -> Tensor:
    """The mean over all places. student (steps,) written tokens; mine (steps, outcomes), coarsened as the teacher's."""
    match settings.loss:
        case Loss.SUPERVISED | Loss.SEQUENCE_KD:
            return -student.mean()
        case Loss.FORWARD_KL:
            return forward_kl(mine, scores.distribution).mean()
        case Loss.REVERSE_KL:
            return reverse_kl(mine, scores.distribution).mean()
        case Loss.JSD:
            return generalised_jsd(mine, scores.distribution, settings.beta).mean()
        case Loss.PCL_GROUP:
            gains = token_gains(student, scores.written)
            return group_loss(gains, part.starts, part.of_step, part.group, part.groups)
        case Loss.PCL:
            # V is the value of the student's own texts, so it learns from those alone.
            values = torch.where(part.own[part.of_step], values, values.detach())
            gains = token_gains(student, scores.written)
            found = path_residuals(gains, values, part.starts, part.of_step, settings.lengths)
            return path_loss(found, part.starts, part.of_step)
        case Loss.PCL_EXPECTED:
            return _expected(settings, student, mine, values, part, scores)


def _expected(settings: Settings, student: Tensor, mine: Tensor, values: Tensor, part: Part, scores: Scores) -> Tensor:
    """Own texts: divergence and its echo along the path; the teacher's: every token that it might have written."""
    own = part.own[part.of_step]
    share = own.float().mean()
    loss = mine.new_zeros(())
    if own.any():
        starts, of_step = _laid(part)
        divergence = reverse_kl(mine[own], scores.distribution[own])
        along = expected_path_loss(divergence, student[own], values[own], starts, of_step, settings.lengths)
        loss = loss + share * along
    if not own.all():
        theirs = scores.distribution[~own]
        loss = loss + (1.0 - share) * every_action_loss(mine[~own], theirs, logarithmic_mean(mine[~own], theirs))
    return loss


def _diagnostics(
    student: Tensor, mine: Tensor, values: Tensor, part: Part, scores: Scores, settings: Settings
) -> Numbers:
    """Divergence from the teacher on own and other texts, residuals by path length, V against what followed."""
    own = part.own[part.of_step]
    divergence = reverse_kl(mine, scores.distribution)
    numbers = {"own_share": float(part.own.float().mean())}
    for name, chosen in (("own", own), ("other", ~own)):
        if chosen.any():
            numbers[f"kl/{name}"] = float(divergence[chosen].mean())
    if settings.loss in (Loss.PCL, Loss.PCL_EXPECTED, Loss.PCL_GROUP):
        gains = token_gains(student, scores.written)
        lengths = settings.lengths
        for length, residual in path_residuals(gains, values, part.starts, part.of_step, lengths).items():
            squares = residual.square() / reach(part.starts, part.of_step, length)
            numbers[f"residual/{length or 'end'}"] = float(squares.mean().sqrt())
    if settings.loss.learns_value and own.any():
        returns = remaining(-divergence, part.starts, part.of_step)[own]
        error, spread = (returns - values[own]).square().mean(), returns.var(correction=0)
        numbers |= {
            "value/mean": float(values[own].mean()),
            "value/return": float(returns.mean()),  # Monte Carlo
            "value/explained": float(1.0 - error / spread.clamp(min=1e-8)),
        }
    return numbers
