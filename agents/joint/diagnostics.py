"""What joint training tells of itself: numbers for TensorBoard, in groups by the part of their name before the slash.

    residual/   path consistency of drawn paths by length: 1, 4, to the end (root mean square, per choice)
    value/      V_R and V_C at the first choice, beside the returns of drawn paths, and the variance that they explain
    asked/      calls per token by rule
    asking/     how well P(ask) follows where the student's token isn't the teacher's, and by how much
    kl/         distance to the teacher on the student's own tokens
    nats/       surprise of gold and of the teacher's texts
    share/      whose texts an update learns from
    drift/      nats by which a step along the gradient of texts and marks alone, or the gate's alone, moves the mean
                log-odds of asking, see `agents.joint.drift`

The whole residual (`agents.joint.whole`) tells what it has of these: V as one number, and the divergence along its own
walks. Beside them stand lambda/ and violation/ of `agents.pcl.multiplier`. Nothing here moves a weight or a draw of
training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from agents.asking import auc
from agents.joint.chain import Chain, chain_of, drawn_path, log_choice, values_of
from agents.joint.drafts import Drafts
from agents.joint.gate import Played
from agents.joint.losses import coarsened, path_residuals, reach, reverse_kl
from agents.joint.reading import Ids, Texts, steps_of
from agents.joint.teacher import Teacher
from agents.joint.wording import FREE, NEVER
from tw_env.actions import Action

FloatArray = NDArray[np.float64]
Numbers = dict[str, float]
EVERY = 10  # updates between two looks along drawn paths
TEACHER_EVERY = 50  # updates between two looks of a live teacher
TEACHER_TEXTS = 16  # own texts that it reads then
LENGTHS = (1, 4, None)  # choices in a segment of a path; None reaches to its end
GAPS = (("below_1", 0.0, 1.0), ("below_3", 1.0, 3.0), ("above_3", 3.0, np.inf))  # nats


def due(update: int) -> bool:
    """Whether the log is told more of this update, the first being 0."""
    return (update + 1) % EVERY == 0


def ask_rates(limits: FloatArray, played: Played) -> Numbers:
    """Calls per token that the gate's play comes to, by limit (episodes,): those that occur, never and free, too."""
    names = {NEVER: "never", FREE: "free"}
    return {
        f"asked/{names.get(limit, f'{limit:g}')}": float(
            played.calls[limits == limit].sum() / played.tokens[limits == limit].sum()
        )
        for limit in np.unique(limits).tolist()
    }


def data_shares(tokens: Mapping[str, int]) -> Numbers:
    """Shares of the tokens of an update by who wrote them: "own" is on-policy, the others aren't."""
    return {f"share/{name}": count / sum(tokens.values()) for name, count in tokens.items()}


def path_numbers(
    chain: Chain, logit: FloatArray, prices: FloatArray, limits: FloatArray, alpha: float, seed: list[int]
) -> Numbers:
    """Residuals by length and V against what is drawn, on one path of each episode.

    The residual of d choices is that of the head of `agents.joint.gate`, composed along the path: -V(s_t) + V(s_{t+d})
    + sum of r - lambda (c - allowance) - alpha log P(choice). It is 0 for all paths if and only if the gate is optimal.
    Squares are divided by the number of choices, as in the losses. V is exact on the drafts, so `value/..._explained`
    is what the first choice knows of its return, and the means differ by the noise of the draw alone.

    Args:
        logit: (choices,) of the gate. prices, limits: (episodes,) lambda and calls per token. seed: of the draw.
    """
    rewards, costs = values_of(chain, logit, limits, alpha)
    path = drawn_path(chain, logit, np.random.default_rng(seed))
    at, episode = (path.choice, path.called), chain.episode[path.choice]
    reward = chain.quality[at] - alpha * log_choice(logit)[at]
    cost = path.called - limits[episode] * chain.tokens[at]
    values = rewards - prices[chain.episode] * costs
    found = _segments(reward - prices[episode] * cost, values[path.choice], path.starts)
    for name, expected, steps in (("reward", rewards, reward), ("cost", costs, cost)):
        first, drawn = expected[chain.first], np.add.reduceat(steps, path.starts[:-1])
        error, spread = np.square(drawn - first).mean(), drawn.var()
        found |= {
            f"value/{name}": float(first.mean()),
            f"value/{name}_drawn": float(drawn.mean()),
            f"value/{name}_explained": float(1.0 - error / max(spread, 1e-8)),
        }
    return found


def _segments(gains: FloatArray, values: FloatArray, starts: NDArray[np.int64]) -> Numbers:
    begin, gain = torch.from_numpy(starts), torch.from_numpy(gains)
    of_step = torch.arange(len(starts) - 1).repeat_interleave(begin.diff())
    found = path_residuals(gain, torch.from_numpy(values), begin, of_step, LENGTHS)
    return {
        f"residual/{d or 'end'}": float((residual.square() / reach(begin, of_step, d)).mean().sqrt())
        for d, residual in found.items()
    }


def asking_numbers(drafts: Drafts, log_odds: Tensor, logprobs: Tensor) -> Numbers:
    """AUC with which P(ask), and one minus the largest probability, tell the places where the student goes wrong.

    Places are those whose text is the teacher's so far, each once. A number is left out where nothing or all differs.

    Args:
        log_odds: (steps,) of asking. logprobs: (steps, vocab) of the student.
    """
    draft, starts = drafts.texts.of_step.numpy(), drafts.texts.starts.numpy()
    place = np.arange(len(draft)) - starts[draft]
    known = (place >= drafts.first[draft]) & (place <= drafts.kept[draft])
    differs = ((place == drafts.kept[draft]) & ~drafts.agrees[draft])[known]
    scores = {"auc": log_odds, "auc_p_max": -logprobs.max(1).values}
    found = {name: auc(score.detach().double().cpu().numpy()[known], differs) for name, score in scores.items()}
    return {f"asking/{name}": value for name, value in found.items() if value is not None}


def teacher_numbers(
    drafts: Drafts, prompts: Sequence[Ids], log_odds: Tensor, logprobs: Tensor, teacher: Teacher
) -> Numbers:
    """KL(p_S || p_T) per own token, and P(ask) by the gap log p_T(y_T) - log p_T(y_S), on a few first drafts.

    y_T is the teacher's likeliest token after the student's own text, y_S what the student wrote. The divergence is a
    lower bound where the teacher keeps but the likeliest tokens (`agents.joint.losses.coarsened`).

    Args:
        prompts: of each episode, as the teacher reads them. log_odds, logprobs: see `asking_numbers`.
    """
    rows = np.flatnonzero(drafts.number == 0)[:TEACHER_TEXTS]
    steps = steps_of(drafts.texts, rows).to(logprobs.device)
    texts = Texts([prompts[i] for i in drafts.episode[rows]], [drafts.texts.outputs[i] for i in rows])
    scores = teacher.score(texts).scores.to(logprobs.device)
    mine = coarsened(logprobs[steps].detach(), scores.ids)
    named = scores.distribution if scores.ids is None else scores.distribution[:, :-1]  # the last is all others
    gap = (named.max(1).values - scores.written).clamp(min=0.0).double().cpu().numpy()
    ask = torch.sigmoid(log_odds[steps].detach()).double().cpu().numpy()
    found = {"kl/own": float(reverse_kl(mine, scores.distribution).mean())}
    if gap.std() > 0 and ask.std() > 0:
        found["asking/rank_with_gap"] = float(spearmanr(ask, gap).statistic)
    chosen = {"none": gap == 0, **{name: (gap > low) & (gap <= high) for name, low, high in GAPS}}
    return found | {f"asking/gap_{name}": float(ask[at].mean()) for name, at in chosen.items() if at.any()}


def play_numbers(
    drafts: Drafts, logit: Tensor, prices: FloatArray, limits: FloatArray, call: Action, alpha: float, seed: list[int]
) -> Numbers:
    """`path_numbers` of an update of training; `logit` (choices,) as in `agents.joint.gate.Choices`."""
    chain = chain_of(drafts, call)
    return path_numbers(chain, logit.detach().double().cpu().numpy(), prices, limits, alpha, seed)
