"""Constrained Path Consistency Learning of a gate; read from top to bottom, then `agents.pcl.learner`.

One policy serves all rules: the gate sees the rule in the observation, and a multiplier per limit prices what it
spends. In a greedy game the value of a prompt is the mean of its paths (`agents.pcl.paths`); elsewhere V_R and V_C are
networks. See `agents.pcl.losses` for the residuals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv

from agents.base import Agent
from agents.checkpoint import drop_checkpoint, load_checkpoint, save_checkpoint
from agents.limits import soft_limits
from agents.pcl.config import PCLConfig
from agents.pcl.learner import ONLY_LIMIT, Learner, Part
from agents.pcl.paths import SiblingPlay
from agents.pcl.replay import Replay
from agents.rollout import Collector, Episodes, check_autoreset
from tw_env.actions import Action
from tw_env.decoding.texts import LiveTexts
from tw_env.decoding.tree import RememberedTexts
from tw_env.observations import Feature, Layout
from tw_env.policies import Gate

__all__ = ["ONLY_LIMIT", "PCL", "Log", "PCLConfig", "describe", "settled"]

OF_AN_OUTPUT = 0.1  # of the multiplier's step: what an output spends beyond an absolute limit goes with its length

Log = Callable[[int, dict[str, float]], object]


class PCL(Agent):
    """Learns a gate for a vector environment with Discrete actions and `info["cost"]`.

    Other environments than this project's game need flat Box observations, SAME_STEP autoreset, a float `info["cost"]`
    on every step, and a limit on what an episode may cost in expectation:

        >>> env = gymnasium.make_vec(
        ...     "CartPole-v1", 16, wrappers=[WithCost], vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
        ... )  # doctest: +SKIP
        >>> agent = PCL(PCLConfig.general(limit=20.0, actions=2)).learn(env)  # doctest: +SKIP
        >>> agent.predict(observations)  # doctest: +SKIP
    """

    name = "pcl"

    def __init__(self, config: PCLConfig | None = None) -> None:
        self.config = PCLConfig() if config is None else config
        self.policy: Gate | None = None

    def learn(
        self,
        env: VectorEnv,
        demonstrations: Episodes | None = None,
        folder: Path | None = None,
        resume: bool = False,
        log: Log | None = None,
    ) -> PCL:
        """Train on an environment with SAME_STEP autoreset.

        Args:
            demonstrations: episodes of other policies; they train as off-policy paths only.
            folder: where checkpoints go; None writes none.
            resume: go on from the folder's last checkpoint, if there is one; the result is that of one run.
            log: called with (round, numbers by name).

        Raises:
            ValueError: an environment with another autoreset mode, other spaces, or without any limit.
            KeyError, TypeError: steps without a cost, or costs that are no floats; see `agents.rollout.final`.
        """
        self._prepare(env, demonstrations)
        first = 0
        if folder is not None:
            first = load_checkpoint(folder, self._state, self._restore) if resume else drop_checkpoint(folder)
        for iteration in range(first, self.config.iterations):
            if iteration % self.config.checkpoint_every == 0:
                if folder is not None and iteration > first:
                    save_checkpoint(folder, iteration, self._state())
                if self._texts is not None:  # what is read from here on has the same last bits in a resumed run
                    self._texts.forget_prompts()
                if self._siblings is None:  # or the multiplier would see the short episodes first
                    self._collector.restart(self._seed(iteration), drop=2 * env.num_envs)
            numbers = self._round(iteration)
            if log is not None:
                log(iteration, numbers)
        if self._siblings is not None and self.config.iterations and not self._siblings.store.varied:
            raise ValueError(
                "Expected at least one prompt with two distinct paths, found none, so nothing was learned: raise "
                "initial_rate or alpha, give demonstrations, more rounds, or more prompts."
            )
        self.policy = self.learner.finish()
        return self

    def _prepare(self, env: VectorEnv, demonstrations: Episodes | None) -> None:
        check_autoreset(env)
        layout, actions, _ = describe(env)
        game = getattr(env, "game", None)
        self._texts: LiveTexts | None = None if game is None else game.texts
        config = settled(self.config, env)
        self.learner = Learner(config, layout, actions)
        self.policy = self.learner.policy
        self._generator = np.random.default_rng(config.seed)
        self._siblings = SiblingPlay(env, config, soft_limits(env)) if config.siblings else None
        self._replay, self._demonstrations = Replay(config.capacity), demonstrations
        if self._siblings is not None:
            self._siblings.demonstrate(demonstrations)
            self._siblings.play(self.policy, self._generator, config.seed)
            self.learner.standardise(self._siblings.examples(self._generator))
            return
        self._collector = Collector(env, config.seed)
        first = self._collector.collect(self.policy, config.episodes)
        if config.limit is None and "limit" not in layout and not (first.allowances.any() or first.before.any()):
            raise ValueError(
                "Expected a limit: neither observations nor info['allowance'] tell one. Give PCLConfig(limit=...), the "
                "most that an episode may cost in expectation; 0.0 for nothing at all."
            )
        shown = first if demonstrations is None else Episodes.join([first, demonstrations])
        self.learner.standardise(shown.observations)

    def _seed(self, iteration: int) -> int:
        return self.config.seed + 1_000_003 * (1 + iteration)

    def _round(self, iteration: int) -> dict[str, float]:
        """Play, move the multiplier, learn."""
        config, learner = self.config, self.learner
        alpha = learner.begin(iteration)
        if self._siblings is None:
            fresh = self._collector.collect(learner.policy, config.episodes)
        else:
            fresh = self._siblings.play(learner.policy, self._generator, self._seed(iteration))
        limits, violation = learner.limits(fresh.observations[fresh.starts[:-1]]), learner.violation(fresh)
        learner.multiplier.update(limits, violation)
        before = iteration * config.updates
        found = [self._update(fresh, alpha, before + more) for more in range(config.updates)]
        if self._siblings is None:
            self._replay.add(fresh)
        losses = {f"loss/{name}": float(np.mean([loss[name] for loss in found])) for name in found[0]}
        return learner.tell(fresh, alpha) | losses

    def _update(self, fresh: Episodes, alpha: float, before: int) -> dict[str, float]:
        if self._siblings is None:
            return self.learner.update(self._batch(fresh), alpha, before)
        siblings = self._siblings.batch(self._generator)
        if siblings is None:  # nothing to compare yet
            return {"siblings": 0.0, "abs_residual": 0.0}
        return self.learner.update_siblings(siblings, alpha, before)

    def _batch(self, fresh: Episodes) -> list[Part]:
        """Episodes of this round and, off-policy, of replay and demonstrations."""
        config, generator = self.config, self._generator
        old = round(config.batch * config.replayed) if len(self._replay) else 0
        shown = round(config.batch * config.demonstrated) if self._demonstrations is not None else 0
        drawn = generator.integers(len(fresh), size=max(config.batch - old - shown, 1))
        parts = [Part(fresh.take(drawn), current=True)]
        if old:
            parts.append(Part(self._replay.sample(generator, old), current=False))
        if shown and self._demonstrations is not None:
            drawn = generator.integers(len(self._demonstrations), size=shown)
            parts.append(Part(self._demonstrations.take(drawn), current=False))
        return parts

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {
            "config": asdict(self.config),
            "learner": self.learner.state(),
            "replay": [asdict(part) for part in self._replay.parts],
            "paths": {} if self._siblings is None else self._siblings.store.state(),
            "memory": self._texts.memory.state() if isinstance(self._texts, RememberedTexts) else None,
            "generator": self._generator.bit_generator.state,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.learner.restore(state["learner"])
        self._replay.parts = [Episodes(**part) for part in state["replay"]]
        if self._siblings is not None:
            self._siblings.store.restore(state["paths"])
        if isinstance(self._texts, RememberedTexts):
            self._texts.memory.restore(state["memory"])
        self._generator.bit_generator.state = state["generator"]


def settled(config: PCLConfig, env: VectorEnv) -> PCLConfig:
    """The configuration with a value for what this environment decides, see `PCLConfig.settled`."""
    _, actions, sampling = describe(env)
    limited = soft_limits(env)
    found = config.settled(hasattr(env, "game"), sampling, Action.VERIFY in actions, limited)
    if limited is None or limited.share or not found.siblings:
        return found
    seen = limited.seen(np.array(limited.limits))
    return replace(found, limits=tuple(seen.tolist()), multiplier_step=OF_AN_OUTPUT * found.multiplier_step)


def describe(env: VectorEnv) -> tuple[Layout, tuple[Any, ...], bool]:
    """Layout, actions, and whether actions lead to random states; foreign environments have one nameless feature.

    Raises:
        ValueError: spaces that a gate can't read or act in.
    """
    game = getattr(env, "game", None)
    if game is not None:
        return game.layout, game.spec.actions, game.spec.sampling
    space, actions = env.single_observation_space, env.single_action_space
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise ValueError(
            f"Expected flat Box observations, got {space}. Wrap each environment: make_vec(..., "
            "wrappers=[gymnasium.wrappers.FlattenObservation])."
        )
    if not isinstance(actions, Discrete) or actions.start != 0:
        raise ValueError(f"Expected Discrete actions that start at 0, got {actions}. Map them in an ActionWrapper.")
    whole = Feature("observation", space.shape[0], float(space.low.min()), float(space.high.max()), "as given")
    return Layout([whole], cap=1), tuple(range(int(actions.n))), True
