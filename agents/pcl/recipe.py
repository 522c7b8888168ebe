"""How the gate of the benchmark is trained: demonstrations of heuristics, constrained PCL, a calibrated cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from agents.baselines.calibration import CalibrationConfig, calibrate
from agents.pcl.agent import PCL, Log, PCLConfig, settled
from agents.rollout import Collector, Episodes
from tw_env.actions import Action
from tw_env.policies import ScoreThreshold
from tw_env.policies.cuts import CutTable
from tw_env.vector_env import AssistedDecodingVectorEnv

#: Arguments of the environment that the gate learns in: what it is judged by, and every rule.
ENVIRONMENT = {"reward": "quality", "rule": "sample"}


@dataclass(frozen=True)
class Recipe:
    """The three stages' sizes."""

    pcl: PCLConfig = field(default_factory=PCLConfig)
    """Of learning."""
    demonstrations: int = 40_000
    """Episodes of heuristics that show what calls are good for; 0 for none."""
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    """Of the cut."""


def demonstrate(env: AssistedDecodingVectorEnv, episodes: int, seed: int, at_end: bool = False) -> Episodes | None:
    """Off-policy paths: heuristics that go through all prompts in turn, with cuts drawn anew over their whole range.

    A gate compares paths of one prompt, so what counts is that most prompts have several.

    Args:
        at_end: only by heuristics that call where the text would end.
    """
    if episodes == 0:
        return None
    generator = np.random.default_rng(seed)
    actions, prompts = env.game.spec.actions, len(env.task.prompts)
    scores = [] if at_end else [("p_max", 0.0, 0.7), ("chain_surprise", 0.0, 3.0)]
    if Action.VERIFY in actions:
        scores += [("surprise_at_end", 0.0, 3.0), ("random_at_end", -1.0, -0.3)]
    collector, parts = Collector(env, seed), []
    rounds = max(episodes // 5000, len(scores))
    orders = {score: _in_turn(generator, prompts) for score, _, _ in scores}
    for turn in range(rounds):
        score, low, high = scores[turn % len(scores)]
        size = (turn + 1) * episodes // rounds - turn * episodes // rounds
        shown = list(islice(orders[score], size))
        cut = CutTable(default=float(generator.uniform(low, high)))
        policy = ScoreThreshold(env.layout, actions, score, cut, actions[-1])
        policy.seed(seed + turn)
        collector.restart(seed + turn + 1, options={"prompts": shown})
        parts.append(collector.collect_first(policy, size))
    return Episodes.join(parts)


def _in_turn(generator: np.random.Generator, prompts: int) -> Iterator[int]:
    """All prompts in a random order, again and again."""
    while True:
        yield from generator.permutation(prompts).tolist()


def train_pcl(
    env: AssistedDecodingVectorEnv,
    recipe: Recipe | None = None,
    folder: Path | None = None,
    resume: bool = False,
    log: Log | None = None,
    stage: Callable[[str], object] | None = None,
) -> PCL:
    """Train on the policy split and calibrate the deterministic cut there.

    Args:
        env: made with `ENVIRONMENT` as further arguments.
        folder, resume, log: see `PCL.learn`.
        stage: called with the name of each stage as it begins.
    """
    recipe = Recipe() if recipe is None else recipe
    tell = stage or (lambda name: None)
    tell("demonstrations")
    at_end = bool(settled(recipe.pcl, env).at_end)
    shown = demonstrate(env, recipe.demonstrations, recipe.pcl.seed + 17, at_end)
    tell("learning")
    agent = PCL(recipe.pcl).learn(env, shown, folder, resume, log)
    tell("calibration")
    assert agent.policy is not None
    calibrate(agent.policy, env, recipe.calibration)
    return agent
