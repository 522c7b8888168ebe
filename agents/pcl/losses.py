"""Path consistency under a constraint: residuals as pure functions of arrays.

Maximise E[sum r] + alpha * H(gate) subject to E[sum (c - allowance)] <= 0. At the optimum, every segment t..t+d of
every path satisfies (Nachum et al. 2017, arXiv 1702.08892, eq. 11, with the Lagrangian's reward)

    C = -V(s_t) + V(s_{t+d}) + sum_i [r_i - lambda (c_i - allowance_i) - alpha log P(a_i | s_i)] = 0

with V = V_R - lambda V_C, and 0 behind the end of an episode.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_ends(starts: Tensor, of_step: Tensor, length: int | None) -> Tensor:
    """(steps,) where the segment that begins at each step stops.

    Args:
        starts: (episodes + 1,) first steps, and the number of steps. of_step: (steps,) episode of each step.
        length: d, the number of steps of a segment, cut at the episode's end; None goes to the end.
    """
    episode_end = starts[1:][of_step]
    if length is None:
        return episode_end
    return torch.minimum(torch.arange(len(of_step), device=starts.device) + length, episode_end)


def residuals(
    gains: Tensor,
    values: Tensor,
    values_last: Tensor,
    starts: Tensor,
    of_step: Tensor,
    length: int | None,
    behind: Tensor | None = None,
) -> Tensor:
    """(steps,) path-consistency residuals C of the segments that begin at each step.

    Args:
        gains: (steps,) r - lambda (c - allowance) - alpha log P(a | s), with the gate's gradient.
        values: (steps,) V(s_t). values_last: (episodes,) V of the state behind a truncated episode, 0 behind others.
        starts, of_step, length: see `segment_ends`.
        behind: (steps,) V at a segment's far end, where it isn't `values` (a lagged average, for instance).
    """
    behind = values if behind is None else behind
    ends = segment_ends(starts, of_step, length)
    running = torch.cat([gains.new_zeros(1), gains.cumsum(0)])  # (steps + 1,)
    first = torch.arange(len(of_step), device=starts.device)
    inside = ends < starts[1:][of_step]
    far = torch.where(inside, behind[ends.clamp(max=len(behind) - 1)], values_last[of_step])
    return -values + far + running[ends] - running[first]


def sibling_residuals(gains: Tensor, of_step: Tensor, group: Tensor, groups: int) -> Tensor:
    """(episodes,) residuals of whole paths that begin in the same state, without a value network.

    V(s_0) that fits a group's paths best is the mean of their sums, so the residual is the deviation from it: the
    log-variance loss (Richter et al. 2020, arXiv 2010.10436), valid for paths of any policy in a deterministic game.
    What makes one prompt harder than another is the same for all of its paths and drops out.

    Args:
        gains: (steps,) see `residuals`. of_step: (steps,) path of each step.
        group: (episodes,) which of the `groups` starting states each path has.
    """
    sums = gains.new_zeros(len(group)).index_add(0, of_step, gains)
    sizes = torch.bincount(group, minlength=groups).clamp(min=1)
    means = gains.new_zeros(groups).index_add(0, group, sums) / sizes
    return sums - means[group]


def weighted_loss(residual: Tensor, multiplier: Tensor) -> Tensor:
    """Mean of w C^2 / 2 with w = 1 / (1 + lambda), so that a steep price does not drown the other rules.

    The weight stands outside the residual: scaling r, c or the entropy instead would change the temperature.
    """
    return 0.5 * (residual.square() / (1.0 + multiplier)).mean()


def remaining(values: Tensor, starts: Tensor, of_step: Tensor) -> Tensor:
    """(steps,) the sum from each step to the end of its episode: the Monte Carlo target of V_C."""
    running = torch.cat([values.new_zeros(1), values.cumsum(0)])
    return running[starts[1:][of_step]] - running[:-1]
