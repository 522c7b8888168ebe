"""How the gate of the benchmark is trained: demonstrations of heuristics, constrained PCL, a calibrated cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from agents.baselines.calibration import CalibrationConfig, calibrate
from agents.limits import soft_limits
from agents.pcl.agent import PCL, Log, PCLConfig
from agents.pcl.logged import log_behaviour
from agents.rollout import Collector, Episodes
from tw_env.actions import Action
from tw_env.policies import ScoreThreshold
from tw_env.policies.cuts import CutTable
from tw_env.vector_env import AssistedDecodingVectorEnv


@dataclass(frozen=True)
class Recipe:
    """The three stages' sizes."""

    pcl: PCLConfig = field(default_factory=PCLConfig)
    """Of learning."""
    demonstrations: int = 12_000
    """Episodes of the heuristics that show what calling late, or when unsure, is good for; 0 for none."""
    exploration: int = 0
    """Further episodes that show every prompt several policies, see `agents.pcl.logged`; for gates which read so much
    that they have to know the paths of all prompts."""
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    """Of the cut."""


def demonstrate(env: AssistedDecodingVectorEnv, episodes: int, seed: int) -> Episodes | None:
    """Off-policy paths: heuristics of every call kind in the game, each with cuts drawn anew over its whole range."""
    if episodes == 0:
        return None
    generator = np.random.default_rng(seed)
    actions = env.game.spec.actions
    scores = [("p_max", 0.0, 0.7), ("chain_surprise", 0.0, 3.0)]
    if Action.VERIFY in actions:
        scores.append(("surprise_at_end", 0.0, 3.0))
    collector, parts = Collector(env, seed), []
    rounds = max(episodes // 1000, len(scores))
    for turn in range(rounds):
        score, low, high = scores[turn % len(scores)]
        cut = CutTable(default=float(generator.uniform(low, high)))
        policy = ScoreThreshold(env.layout, actions, score, cut, actions[-1])
        parts.append(collector.collect(policy, episodes // rounds))
        collector.restart(seed + turn + 1)
    return Episodes.join(parts)


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
        env: see `agents.learning_env`.
        folder, resume, log: see `PCL.learn`.
        stage: called with the name of each stage as it begins.
    """
    recipe = Recipe() if recipe is None else recipe
    tell = stage or (lambda name: None)
    tell("demonstrations")
    shown = demonstrate(env, recipe.demonstrations, recipe.pcl.seed + 17)
    if recipe.exploration:
        explored = log_behaviour(env, recipe.exploration, recipe.pcl.seed + 19, each=4).episodes
        shown = explored if shown is None else Episodes.join([shown, explored])
    tell("learning")
    agent = PCL(recipe.pcl).learn(env, shown, folder, resume, log)
    tell("calibration")
    assert agent.policy is not None
    calibrate(agent.policy, env, calibration_of(env, recipe.calibration))
    return agent


def calibration_of(env: AssistedDecodingVectorEnv, config: CalibrationConfig) -> CalibrationConfig:
    """Cuts for the rules that the environment plays, where those are not shares of the tokens."""
    limits = soft_limits(env)
    if limits is None or limits.share:
        return config
    return replace(config, quantity=limits.quantity, limits=limits.limits)
