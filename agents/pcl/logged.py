"""Logged play in files: what offline learning needs, and no model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from agents.pcl.agent import describe
from agents.pcl.recipe import demonstrate
from agents.rollout import Collector, Episodes
from tw_env.actions import parse_actions
from tw_env.observations import Layout
from tw_env.policies import random_calls
from tw_env.vector_env import AssistedDecodingVectorEnv

EPISODES, DESCRIPTION = "episodes.npz", "play.json"


@dataclass
class LoggedPlay:
    """Episodes of any behaviour policies, and how to read them.

    Attributes:
        layout: of the observations. actions: the action set; `episodes.actions` are indices into it.
        sampling: whether actions led to random states.
    """

    episodes: Episodes
    layout: Layout
    actions: tuple[Any, ...]
    sampling: bool

    def save(self, folder: Path) -> None:
        """Write arrays and description into a folder, without pickle."""
        self.episodes.save(folder / EPISODES)
        named = "/".join(getattr(action, "name", str(action)) for action in self.actions)
        record = {"actions": named, "sampling": self.sampling, "layout": self.layout.record()}
        (folder / DESCRIPTION).write_text(json.dumps(record, indent=2) + "\n")

    @staticmethod
    def load(folder: Path) -> LoggedPlay:
        """What `save` wrote.

        Raises:
            FileNotFoundError: no logged play there.
        """
        if not (folder / DESCRIPTION).is_file():
            raise FileNotFoundError(f"Expected a folder that LoggedPlay.save wrote ({DESCRIPTION}), got {folder}.")
        record = json.loads((folder / DESCRIPTION).read_text())
        foreign = record["actions"].replace("/", "").isdigit()  # numbers, not names
        actions = tuple(map(int, record["actions"].split("/"))) if foreign else parse_actions(record["actions"])
        layout = Layout.restore(record["layout"])
        return LoggedPlay(Episodes.load(folder / EPISODES), layout, actions, record["sampling"])


def logged(env: VectorEnv, episodes: Episodes) -> LoggedPlay:
    """Episodes that were played in this environment, with its description."""
    layout, actions, sampling = describe(env)
    return LoggedPlay(episodes, layout, actions, sampling)


def log_behaviour(env: AssistedDecodingVectorEnv, episodes: int, seed: int) -> LoggedPlay:
    """Play and log what needs no learning: a half by heuristics with cuts drawn anew, a half by random calls.

    The rates of the random half, log-uniform between 2% and 60%, are drawn anew, too. Random calls show every action in
    every state that the student reaches, without which nobody can tell offline what the other action would have done.
    """
    shown = demonstrate(env, episodes // 2, seed)
    generator = np.random.default_rng(seed + 1)
    parts, turns = [] if shown is None else [shown], 12
    collector = Collector(env, seed + 2)
    rest = episodes - sum(len(part) for part in parts)
    for turn in range(turns):
        policy = random_calls(env.layout, env.game.spec.actions, float(np.exp(generator.uniform(*np.log([0.02, 0.6])))))
        policy.seed(seed + turn)
        parts.append(collector.collect(policy, max(rest // turns, 1)))
    joined = Episodes.join(parts)
    return logged(env, joined.take(generator.permutation(len(joined))[:episodes]))
