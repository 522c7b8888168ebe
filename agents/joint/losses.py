"""Losses of distillation as pure functions of tensors: cross-entropy, divergences, and path consistency with tokens.

Maximise E[sum_i log p_T(y_i)] + H(p_S) over the student's own texts, tokens being the actions: the optimum is the
teacher itself, with value 0 in every state. Every segment t..t+d of every text then satisfies (Nachum et al. 2017,
arXiv 1702.08892, eq. 11, with reward log p_T and entropy weight 1)

    C = -V(s_t) + V(s_{t+d}) + sum_i [log p_T(y_i) - log p_S(y_i)] = 0

with V = 0 behind the last token. Texts are laid end to end as in `agents.pcl.losses`: step i is one written token,
`starts` (texts + 1,) has each text's first step, `of_step` (steps,) the text of each step. What a step earns or spends
beside its token (price, entropy of a gate) is added to its gain, so the same functions serve a student that may ask.
log p_S stands once in C; standing twice, it would make the optimum proportional to p_T^(1/2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from agents.pcl.losses import residuals, segment_ends, sibling_residuals

# ---- one place at a time -----------------------------------------------------------------------------------------


def written(logprobs: Tensor, tokens: Tensor) -> Tensor:
    """(steps,) log-probabilities of the written `tokens` (steps,), out of (steps, vocab)."""
    return logprobs.gather(1, tokens[:, None])[:, 0]


def cross_entropy(logprobs: Tensor, tokens: Tensor) -> Tensor:
    """(steps,) nats of the written tokens: the loss on gold texts, and on the teacher's (sequence-level distillation).

    Source: Kim & Rush 2016, arXiv 1606.07947.
    """
    return -written(logprobs, tokens)


def coarsened(logprobs: Tensor, ids: Tensor | None) -> Tensor:
    """(steps, k + 1) log-probabilities of the k tokens that `ids` (steps, k) names, then of all others together.

    A divergence between coarsened distributions is a lower bound of that between the whole ones. Without `ids`, the
    distributions are whole and come back as they are.
    """
    if ids is None:
        return logprobs
    others = logprobs.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([logprobs.gather(1, ids), others], dim=1)


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """(steps,) KL(p_T || p_S) in nats, of log-probabilities (steps, outcomes)."""
    return (teacher.exp() * (teacher - student)).sum(1)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """(steps,) KL(p_S || p_T) in nats, of log-probabilities (steps, outcomes).

    On the student's own texts its gradient is the single-step part of the gradient of the texts' divergence (Gu et al.
    2023, arXiv 2306.08543, section 2.2); see `expected_path_loss` for the rest of it.
    """
    return (student.exp() * (student - teacher)).sum(1)


def generalised_jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """(steps,) beta KL(p_T || m) + (1 - beta) KL(p_S || m), m = beta p_T + (1 - beta) p_S, in nats.

    Near beta = 0 it is beta times the forward KL, near 1 it is (1 - beta) times the reverse one (Agarwal et al. 2024,
    arXiv 2306.13649, section 2).

    Raises:
        ValueError: beta outside (0, 1), where the divergence is 0.
    """
    if not 0.0 < beta < 1.0:
        raise ValueError(
            f"Expected beta between 0 and 1, both excluded, got {beta}; take forward_kl or reverse_kl at the ends."
        )
    shares = torch.tensor([beta, 1.0 - beta], dtype=student.dtype, device=student.device).log()
    mixture = torch.logaddexp(teacher + shares[0], student + shares[1])
    return beta * forward_kl(mixture, teacher) + (1.0 - beta) * forward_kl(mixture, student)


# ---- along paths -------------------------------------------------------------------------------------------------


def token_gains(student: Tensor, teacher: Tensor) -> Tensor:
    """(steps,) log p_T(y) - log p_S(y) of the written tokens, with the student's gradient; on anybody's texts."""
    return teacher - student


def path_residuals(
    gains: Tensor,
    values: Tensor,
    starts: Tensor,
    of_step: Tensor,
    lengths: Sequence[int | None],
    behind: Tensor | None = None,
    values_last: Tensor | None = None,
) -> dict[int | None, Tensor]:
    """(steps,) residuals C of the segments that begin at each step, for each of several lengths.

    Args:
        gains: (steps,) what each step gains, such as `token_gains`, less its price.
        values: (steps,) V(s_t) where each token was written; zeros for none.
        lengths: values of d; None reaches to the end of the text.
        behind: (steps,) V at a segment's far end, where it is a lagged or detached one.
        values_last: (texts,) V behind the last token, for texts that were cut; 0 by default.
    """
    last = gains.new_zeros(len(starts) - 1) if values_last is None else values_last
    return {d: residuals(gains, values, last, starts, of_step, d, behind) for d in lengths}


def reach(starts: Tensor, of_step: Tensor, length: int | None) -> Tensor:
    """(steps,) how many steps the segment from each step really has: d, or what is left of the text."""
    return segment_ends(starts, of_step, length) - torch.arange(len(of_step), device=of_step.device)


def path_loss(
    found: Mapping[int | None, Tensor], starts: Tensor, of_step: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Mean of w C^2 / (2 d) over all segments of all lengths; a sum of d gains has about d times the variance of one.

    Args:
        found: residuals by length, from `path_residuals`.
        weights: (steps,) w of the segments that begin there, such as 1 / (1 + lambda); 1 by default.
    """
    parts = []
    for length, residual in found.items():
        squares = residual.square() / reach(starts, of_step, length)
        parts.append(0.5 * (squares if weights is None else squares * weights).mean())
    return torch.stack(parts).mean()


def group_loss(
    gains: Tensor, starts: Tensor, of_step: Tensor, group: Tensor, groups: int, weights: Tensor | None = None
) -> Tensor:
    """Mean of w C^2 / (2 length) of whole texts, V(s_0) being the mean of their group: no value network.

    See `agents.pcl.losses.sibling_residuals` for `group` (texts,) and for the source. A text that is alone in its group
    teaches nothing. `weights` (texts,) is 1 by default.
    """
    squares = sibling_residuals(gains, of_step, group, groups).square() / starts.diff()
    return 0.5 * (squares if weights is None else squares * weights).mean()


def every_action_loss(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Mean of sum_y w(y) C(y)^2 / 2 over the segments of one step that every possible token y makes, with V = 0.

    A stored distribution tells C(y) = log p_T(y) - log p_S(y) of all tokens, not only of the written one, so no noise
    of a draw is left. Which tokens count how much is free, as the path is: with w = p_S held fixed the gradient is
    exactly that of the reverse KL, with w = `logarithmic_mean` that of the forward KL.

    Args:
        student, teacher: (steps, outcomes) log-probabilities. weights: (steps, outcomes) w, without gradient.
    """
    return 0.5 * (weights * (teacher - student).square()).sum(1).mean()


def logarithmic_mean(student: Tensor, teacher: Tensor) -> Tensor:
    """(steps, outcomes) (p_T - p_S) / (log p_T - log p_S), which lies between the two; no gradient."""
    student, teacher = student.detach(), teacher.detach()
    ratio = teacher - student
    near = ratio.abs() < 1e-3  # the quotient would lose its digits
    return torch.where(
        near, student.exp() * (1.0 + ratio / 2), (teacher.exp() - student.exp()) / ratio.masked_fill(near, 1.0)
    )


def expected_path_loss(
    divergence: Tensor,
    student: Tensor,
    values: Tensor,
    starts: Tensor,
    of_step: Tensor,
    lengths: Sequence[int | None],
    extra: Tensor | None = None,
) -> Tensor:
    """Path consistency on the student's own texts with -KL(p_S || p_T) at each place instead of the drawn token's gain.

    With C = -V(s_t) + V(s_{t+d}) + sum_i (extra_i - KL_i) and [.] held fixed, the mean over all segments of

        KL_t - [C] log p_S(y_t) + C([KL], extra, V)^2 / (2 d)

    For d = 1 the student's gradient has the expectation of that of C^2 / 2 with drawn gains, and at V = 0 it is that
    of the reverse KL without the noise of the draw. To the end of the text it is an unbiased one of the divergence of
    whole texts, V being a baseline: each token answers for what comes after it. Squaring the divergence itself would
    not do: its gradient fades with C, and V would learn to expect a gap instead of the student closing it.

    Args:
        divergence: (steps,) KL(p_S || p_T), see `reverse_kl`; 0 where somebody else wrote.
        student: (steps,) log p_S of the drawn tokens; 0 where somebody else wrote.
        values, starts, of_step, lengths: see `path_residuals`.
        extra: (steps,) further gains of each step, such as minus its price and the gate's entropy, learnt as in
            `path_loss`; 0 by default.
    """
    gains = -divergence.detach() if extra is None else extra - divergence.detach()
    found = path_residuals(gains, values, starts, of_step, lengths)
    credit = torch.stack([residual.detach() for residual in found.values()]).mean(0)
    return path_loss(found, starts, of_step) + (divergence - credit * student).mean()
