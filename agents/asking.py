"""How well asking follows difficulty: what a policy thinks of calling, against where the teacher would differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from agents.recording import Recorded, recorded
from agents.rollout import Predicts, play_prompts
from tw_env.rules import Constraint

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Scores = Callable[[NDArray[np.float32]], FloatArray]  # observations (rows, size) -> (rows,), rising with P(call)


def call_scores(policy: Any) -> Scores | None:
    """What rises with a policy's wish to call: its `scores`, or log P(not SELF); None where it offers neither.

    Args:
        policy: a policy, or an agent that holds one.
    """
    policy = getattr(policy, "policy", None) or policy
    if hasattr(policy, "scores"):
        return policy.scores
    if hasattr(policy, "log_probabilities"):
        return lambda observations: -policy.log_probabilities(observations)[:, 0]
    return None


def asking_auc(
    env: Any,
    policy: Predicts,
    prompts: Sequence[int] | NDArray[np.int64],
    rule: str | Constraint,
    seed: int = 0,
) -> float | None:
    """Probability that a state where the two models' greedy choices differ scores above one where they agree.

    States are those of the student's own texts, each prompt written once without any call, under the rule. This is
    the area under the ROC curve, as U / (n differing x n agreeing) of Mann and Whitney (1947); ties count half. 0.5
    is chance. It judges when to `ASK`; a policy that verifies late may score low and still spend its calls well.

    Returns:
        None where the policy has no score, in sampling (the teacher has no one choice), and where all states agree
        or all differ.
    """
    scores = call_scores(policy)
    watched = recorded(env)
    if scores is None or watched.game.spec.sampling:
        return None
    if hasattr(policy, "seed"):
        policy.seed(seed)
    listener = _Listener(watched, scores, len(prompts))
    play_prompts(watched, listener, list(prompts), rule, seed, True)
    return auc(np.concatenate(listener.scores), np.concatenate(listener.differs))


def auc(score: FloatArray, positive: BoolArray) -> float | None:
    """Probability that a positive one scores above another, all (n,); ties count half, 0.5 is chance.

    The area under the ROC curve, as U / (n positive x n others) of Mann and Whitney (1947). None where one kind lacks.
    """
    if positive.all() or not positive.any():
        return None
    ranked = mannwhitneyu(score[positive], score[~positive], method="asymptotic")
    return float(ranked.statistic / (positive.sum() * (~positive).sum()))


class _Listener:
    """Lets the student write alone and notes, for each state of the first `count` episodes, score and difference."""

    def __init__(self, env: Recorded, score: Scores, count: int) -> None:
        self.env, self.score, self.count = env, score, count
        self.scores: list[FloatArray] = []
        self.differs: list[BoolArray] = []

    def predict(self, observation: NDArray[np.float32], *args: object, **kwargs: object) -> tuple[Any, None]:
        texts = self.env.game.texts
        texts.read()
        rows = np.flatnonzero(self.env.number < self.count)  # rows without a prompt left play others meanwhile
        places = texts.length[rows]
        self.differs.append(texts.best[rows, places] != texts.proposal[rows, places])
        self.scores.append(np.asarray(self.score(observation), np.float64)[rows])
        return np.zeros(len(observation), np.int64), None
