"""The environment that agents learn in: every rule, and rewards in a unit that their settings fit."""

from __future__ import annotations

from typing import Any

import numpy as np

import tw_env
from agents.evaluation import play_ends
from tw_env.vector_env import AssistedDecodingVectorEnv

#: Arguments of the environment that the gate learns in: what it is judged by, and every rule.
ENVIRONMENT = {"reward": "quality", "rule": "sample"}
USUAL_GAP = 0.22  # teacher's quality less the student's, of the shipped pair that the agents' settings were found on
NEARLY = 2.0  # times; a gap that is so near leaves rewards as they are
PROBED = 1000  # prompts


def learning_env(id_: str, rows: int, **settings: Any) -> AssistedDecodingVectorEnv:
    """The batched game with `ENVIRONMENT`, its rewards scaled by the pair's gap.

    Entropy weights, prices and the multiplier's steps are in the reward's unit, and a call of a teacher that is worth
    .04 of a metric earns much less than one of a teacher that is worth .22: a pair whose gap on some prompts is far
    from the usual one has its rewards multiplied, so that both ends lie as far apart as usual. Quality, rules and
    costs stay as they are. Playing both ends is not counted as training.

    Args:
        settings: of the environment; those of `ENVIRONMENT` are given here.
    """
    env = tw_env.make_vec(id_, rows, **{**settings, **ENVIRONMENT})
    if settings.get("student") is None and env.task.name == "pronounce":
        return env
    scale = reward_scale(env)
    if scale == 1.0:
        return env
    return tw_env.make_vec(id_, rows, **{**settings, **ENVIRONMENT, "reward": {"quality": scale}})


def reward_scale(env: AssistedDecodingVectorEnv) -> float:
    """What the metric is multiplied by so that both ends of a pair lie as far apart as usual; 1 where they nearly do.

    Args:
        env: of the pair, on prompts that neither model was fitted on; both ends are played on its first `PROBED`.
    """
    ends = play_ends(env, np.arange(min(PROBED, len(env.task.prompts))))
    gap = float((ends.teacher - ends.student).mean())
    return 1.0 if gap <= 0 or 1 / NEARLY <= USUAL_GAP / gap <= NEARLY else USUAL_GAP / gap
