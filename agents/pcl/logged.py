"""Logged play in files: what offline learning needs, and no model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from agents.pcl.agent import describe
from agents.rollout import Collector, Episodes
from tw_env.actions import Action, parse_actions
from tw_env.observations import Layout
from tw_env.policies import ScoreThreshold, random_calls
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


def log_behaviour(env: AssistedDecodingVectorEnv, episodes: int, seed: int, each: int = 8) -> LoggedPlay:
    """Play and log what needs no learning: each prompt several times, every time by another policy.

    A quarter of the policies are heuristics with cuts drawn anew, the others call at random, at rates from low to high:
    they show every action in every state that the student reaches, without which nobody can tell offline what the other
    action would have done. In games with VERIFY all of them call only where the text would end, as the gate of
    constrained PCL does there under limits on calls.

    Args:
        episodes: how many, at least; of the first `episodes / each` prompts in a random order.
        each: episodes of a prompt.
    """
    generator = np.random.default_rng(seed)
    available = len(env.task.prompts)
    prompts = generator.permutation(available)[: max(min(-(-episodes // each), available), 1)]
    collector, parts = Collector(env, seed), []
    for turn in range(-(-episodes // len(prompts))):
        policy = _behaviour(env, generator, turn, each)
        policy.seed(seed + turn)
        collector.restart(seed + turn, options={"prompts": prompts})
        parts.append(collector.collect_first(policy, len(prompts)))
    joined = Episodes.join(parts)
    return logged(env, joined.take(np.arange(episodes)))


def _behaviour(env: AssistedDecodingVectorEnv, generator: np.random.Generator, turn: int, each: int) -> ScoreThreshold:
    """The policy of a turn; see `log_behaviour`."""
    actions, verifies = env.game.spec.actions, Action.VERIFY in env.game.spec.actions
    if turn % 4 == 0:
        score, cut = "surprise_at_end" if verifies else "chain_surprise", float(generator.uniform(0.0, 2.0))
        return ScoreThreshold(env.layout, actions, score, cut, actions[-1])
    place = (turn % each + generator.random()) / each  # from 0 to 1
    if not verifies:
        return random_calls(env.layout, actions, 0.02 * 30.0**place)
    call = Action.ASK if Action.ASK in actions and turn % 4 == 3 else Action.VERIFY
    return ScoreThreshold(env.layout, actions, "random_at_end", -0.1 - 0.9 * place, call)
