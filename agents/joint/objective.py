"""The loss of one batch of texts by its name, and what it tells of the student on the way.

A batch may be one part of an update. Texts of one prompt stay together, and every loss is a mean, so that the update's
is the mean of the parts' by `weight`; what is logged is worked out of the steps of all parts (`numbers_of`).
"""

from __future__ import annotations

from collections.abc import Mapping
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
Seen = dict[str, Tensor]
"""By name, a number of each step, (steps,), or of each text, (texts,), without gradients; see `numbers_of`."""


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


def weight(settings: Settings, part: Part) -> int:
    """Of how many places, or whole texts, the loss is a mean."""
    return len(part.own) if settings.loss is Loss.PCL_GROUP else len(part.tokens)


def objective(settings: Settings, logprobs: Tensor, values: Tensor, part: Part) -> tuple[Tensor, Seen]:
    """The batch's loss, and what `numbers_of` is told.

    Args:
        logprobs: (steps, vocab) of the student where each token was written. values: (steps,) V there; zeros for none.
    """
    if part.scores is None:
        return cross_entropy(logprobs, part.tokens).mean(), {}
    student, mine = written(logprobs, part.tokens), coarsened(logprobs, part.scores.ids)
    seen = _seen(student.detach(), mine.detach(), values.detach(), part, part.scores, settings)
    return _loss(settings, student, mine, values, part, part.scores), seen


def value_gains(settings: Settings, logprobs: Tensor, part: Part) -> Tensor:
    """(steps,) what V shall sum up, given the student's (steps, vocab); no gradient."""
    assert part.scores is not None
    logprobs = logprobs.detach()
    if settings.loss is Loss.PCL:
        return token_gains(written(logprobs, part.tokens), part.scores.written)
    return -reverse_kl(coarsened(logprobs, part.scores.ids), part.scores.distribution)


def value_loss(settings: Settings, gains: Tensor, values: Tensor, part: Part) -> Tensor:
    """Squared residuals of the student's own texts, at least one; a mean over their places.

    Args:
        gains: (steps,) of `value_gains`. values: (steps,) V, with gradients.
    """
    own = part.own[part.of_step]
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


def _seen(student: Tensor, mine: Tensor, values: Tensor, part: Part, scores: Scores, settings: Settings) -> Seen:
    """Whose texts and steps they are, divergence from the teacher, squared residuals by length, V and what followed."""
    divergence = reverse_kl(mine, scores.distribution)
    seen = {"own_texts": part.own.float(), "own": part.own[part.of_step].float(), "divergence": divergence}
    if settings.loss in (Loss.PCL, Loss.PCL_EXPECTED, Loss.PCL_GROUP):
        gains = token_gains(student, scores.written)
        lengths = settings.lengths
        for length, residual in path_residuals(gains, values, part.starts, part.of_step, lengths).items():
            seen[f"residual/{length or 'end'}"] = residual.square() / reach(part.starts, part.of_step, length)
    if settings.loss.learns_value:
        seen |= {"values": values, "returns": remaining(-divergence, part.starts, part.of_step)}
    return seen


def numbers_of(seen: Mapping[str, Tensor]) -> Numbers:
    """For the log, of all parts laid end to end: divergences, residuals, V against what followed."""
    if not seen:
        return {}
    own, divergence = seen["own"] > 0, seen["divergence"]
    numbers = {"own_share": float(seen["own_texts"].mean())}
    for name, chosen in (("own", own), ("other", ~own)):
        if chosen.any():
            numbers[f"kl/{name}"] = float(divergence[chosen].mean())
    numbers |= {name: float(each.mean().sqrt()) for name, each in seen.items() if name.startswith("residual/")}
    if "values" in seen and own.any():
        values, returns = seen["values"][own], seen["returns"][own]
        error, spread = (returns - values).square().mean(), returns.var(correction=0)
        numbers |= {
            "value/mean": float(values.mean()),
            "value/return": float(returns.mean()),  # Monte Carlo
            "value/explained": float(1.0 - error / spread.clamp(min=1e-8)),
        }
    return numbers
