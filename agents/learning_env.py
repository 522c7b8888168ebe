"""The environment that agents learn in: every rule, and rewards in a unit that their settings fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tw_env
from agents.evaluation import FREE, NEVER, play
from tw_env.policies import student_alone, teacher_alone
from tw_env.vector_env import AssistedDecodingVectorEnv

#: Arguments of the environment that the gate learns in: what it is judged by, and any share of the tokens.
ENVIRONMENT = {"reward": "quality", "rule": "sample"}
USUAL_GAP = 0.031  # teacher's quality less the student's for a token that is written, of the pair that settings are for
NEARLY = 2.0  # times; a gap that is so near leaves rewards as they are
PROBED = 1000  # prompts


def learning_env(id_: str, rows: int, **settings: Any) -> AssistedDecodingVectorEnv:
    """The batched game with `ENVIRONMENT`, its rewards scaled by the pair's gap for a written token.

    Entropy weights, prices and the multiplier's steps are in the reward's unit, and what a call may earn goes with the
    gap between both ends, spread over the tokens that a rule's calls are spread over: a teacher that is worth .11 of a
    metric in 21 tokens earns much less by a call than one that is worth .22 in 7. A pair whose gap for a token is far
    from the usual one on some prompts has its rewards multiplied, so that it is as usual. Quality, rules and costs
    stay as they are. Playing both ends is not counted as training.

    Args:
        settings: of the environment; `rule` may be among them, the reward is given here.
    """
    settings = {**settings, **ENVIRONMENT, "rule": settings.get("rule", ENVIRONMENT["rule"])}
    env = tw_env.make_vec(id_, rows, **settings)
    if settings.get("student") is None and env.task.name == "pronounce":
        return env
    scale = reward_scale(env)
    if scale == 1.0:
        return env
    return tw_env.make_vec(id_, rows, **{**settings, "reward": {"quality": scale}})


def reward_scale(env: AssistedDecodingVectorEnv) -> float:
    """What the metric is multiplied by so that a pair's gap for a written token is as usual; 1 where it nearly is.

    Args:
        env: of the pair, on prompts that neither model was fitted on; both ends are played on its first `PROBED`.
    """
    gap = token_gap(env, np.arange(min(PROBED, len(env.task.prompts))))
    return 1.0 if gap <= 0 or 1 / NEARLY <= USUAL_GAP / gap <= NEARLY else USUAL_GAP / gap


def token_gap(env: AssistedDecodingVectorEnv, prompts: NDArray[np.int64]) -> float:
    """The teacher's quality less the student's on these prompts, for a token that the teacher writes."""
    layout, actions = env.layout, env.game.spec.actions
    alone = play(env, student_alone(layout, actions), prompts, NEVER).outcomes
    taught = play(env, teacher_alone(layout, actions), prompts, FREE).outcomes
    return float((taught.quality - alone.quality).sum() / taught.tokens.sum())
