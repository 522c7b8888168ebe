"""Distinct paths of each prompt of a deterministic game, told anew under any limit.

What a path earns and spends does not depend on the rule, only what is allowed and what the policy sees of it. So a path
that was played once is an example for every limit, and several paths of one prompt show what a call changes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.limits import SHARES, Limited
from agents.pcl.config import PCLConfig
from agents.rollout import Collector, Episodes, FloatArray, IntArray, Predicts
from tw_env.budget import QUANTITIES
from tw_env.observations import Layout

PATIENCE = 4  # steps of a round, in caps on new tokens: a text that repeats itself takes hundreds of calls to mend


def relabel(episodes: Episodes, layout: Layout, limits: FloatArray, limited: Limited = SHARES) -> Episodes:
    """The same play under soft limits, what it spends and is allowed told in calls.

    Args:
        episodes: of the game, with the sum `tokens`, under limits on shares of the tokens with `calls`, too, else with
            costs in the quantity's unit.
        layout: of the observations.
        limits: (episodes,) finite limits, one for each, in the quantity's unit.
        limited: what they limit.
    """
    of_step, starts = episodes.of_step, episodes.starts
    before = np.round(episodes.observations[:, layout["position"].start] * layout.cap).astype(np.float64)  # (steps,)
    after = np.append(before[1:], 0.0)
    after[starts[1:] - 1] = episodes.sums["tokens"]
    costs = (episodes.actions > 0).astype(np.float64) if limited.share else episodes.costs / limited.unit
    running = np.cumsum(costs) - costs
    spent = running - running[starts[:-1]][of_step]  # (steps,) before each step
    limit = limits[of_step]
    allowed = limit * before if limited.share else limit / limited.unit  # (steps,) before each step
    observations = episodes.observations.copy()
    observations[:, layout["quantity"]] = np.arange(len(QUANTITIES)) == QUANTITIES.index(limited.quantity)
    observations[:, layout["limit"].start] = limited.seen(limit)
    observations[:, layout["left"].start] = np.clip(allowed - spent, -layout.cap, layout.cap)
    sums = (
        {"spent": episodes.sums["calls"], "allowed": limits * episodes.sums["tokens"]}
        if limited.share
        else {"spent": episodes.total(episodes.costs), "allowed": limits}
    )
    return replace(
        episodes,
        observations=observations,
        costs=costs,
        allowances=limit * (after - before) if limited.share else np.zeros(len(costs)),
        masks=np.ones_like(episodes.masks),
        before=np.zeros(len(episodes)) if limited.share else limits / limited.unit,
        sums=episodes.sums | sums,
    )


@dataclass
class Siblings:
    """Paths of a few prompts, each prompt under one limit.

    Attributes:
        episodes: all paths. group: (episodes,) which of the `groups` prompts each belongs to.
    """

    episodes: Episodes
    group: IntArray
    groups: int


class PathStore:
    """Up to `most` distinct paths of every prompt; the one that was not played for longest goes out first.

    Args:
        layout: of the observations.
        most: paths kept of a prompt.
        limited: by what rules the paths are told.
    """

    def __init__(self, layout: Layout, most: int, limited: Limited = SHARES) -> None:
        self.layout, self.most, self.limited = layout, most, limited
        self.clear()

    def clear(self) -> None:
        """Forget all paths."""
        self._paths: dict[int, OrderedDict[bytes, int]] = {}  # prompt -> its actions -> number of the path
        self._steps: dict[str, NDArray[Any]] = {
            "observations": np.zeros((0, self.layout.size), np.float32),
            "actions": np.zeros(0, np.int64),
            "rewards": np.zeros(0),
            "costs": np.zeros(0),
        }  # of all paths, one after the other, with room to grow
        self._used = 0
        self._start: list[int] = []
        self._length: list[int] = []
        self._tokens: list[float] = []
        self._actions = 0

    def __len__(self) -> int:
        return sum(map(len, self._paths.values()))

    @property
    def varied(self) -> bool:
        """Whether any prompt has two paths to compare."""
        return any(len(paths) > 1 for paths in self._paths.values())

    def add(self, episodes: Episodes) -> None:
        """Keep what is new among finished episodes with the sums `prompt` and `tokens`."""
        self._actions = episodes.masks.shape[1]
        new: list[int] = []
        keys = episodes.actions.astype(np.int8)
        prompts, starts = episodes.sums["prompt"].astype(int).tolist(), episodes.starts.tolist()
        for place, prompt in enumerate(prompts):
            paths = self._paths.setdefault(prompt, OrderedDict())
            key = keys[starts[place] : starts[place + 1]].tobytes()
            if key in paths:
                paths.move_to_end(key)
                continue
            paths[key] = len(self._start)
            self._start.append(self._used + sum(self._length[len(self._length) - len(new) :]))
            self._length.append(starts[place + 1] - starts[place])
            self._tokens.append(float(episodes.sums["tokens"][place]))
            new.append(place)
            if len(paths) > self.most:
                paths.popitem(last=False)
        if new:
            self._append(episodes.take(np.array(new)))
            if self._used > 2 * sum(
                self._length[number] for paths in self._paths.values() for number in paths.values()
            ):
                self.restore(self.state())

    def _append(self, episodes: Episodes) -> None:
        need = self._used + episodes.steps
        for name, array in self._steps.items():
            if need > len(array):
                grown = np.zeros((max(need, 2 * len(array)), *array.shape[1:]), array.dtype)
                grown[: self._used] = array[: self._used]
                self._steps[name] = array = grown
            array[self._used : need] = getattr(episodes, name)
        self._used = need

    def draw(
        self, generator: np.random.Generator, prompts: IntArray, limits: FloatArray, siblings: int
    ) -> Siblings | None:
        """Up to `siblings` paths of each of these prompts under its limit; None if no prompt has two.

        Args:
            prompts, limits: (n,) prompts may repeat.
        """
        chosen: list[int] = []
        sizes: list[int] = []
        limit: list[float] = []
        for prompt, its_limit in zip(prompts.tolist(), limits.tolist(), strict=True):
            paths = list(self._paths.get(prompt, {}).values())
            if len(paths) < 2:
                continue
            if len(paths) > siblings:
                paths = [paths[place] for place in generator.choice(len(paths), siblings, replace=False).tolist()]
            chosen += paths
            sizes.append(len(paths))
            limit.append(its_limit)
        if not chosen:
            return None
        episodes = relabel(self._episodes(chosen), self.layout, np.repeat(limit, sizes), self.limited)
        return Siblings(episodes, np.repeat(np.arange(len(sizes)), sizes), len(sizes))

    def _episodes(self, numbers: list[int]) -> Episodes:
        """These paths, as they were played; allowances are those of `relabel`."""
        lengths = np.array(self._length)[numbers]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        steps = np.repeat(np.array(self._start)[numbers] - starts[:-1], lengths) + np.arange(starts[-1])
        actions, count = self._steps["actions"][steps], len(numbers)
        tokens, calls = np.array(self._tokens)[numbers], np.add.reduceat((actions > 0).astype(np.float64), starts[:-1])
        return Episodes(
            observations=self._steps["observations"][steps],
            actions=actions,
            rewards=self._steps["rewards"][steps],
            costs=self._steps["costs"][steps],
            allowances=np.zeros(len(steps)),
            masks=np.ones((len(steps), self._actions), bool),
            starts=starts,
            last=np.zeros((count, self.layout.size), np.float32),
            cut=np.zeros(count, bool),
            before=np.zeros(count),
            sums={"tokens": tokens, "calls": calls},
        )

    def everything(self) -> tuple[Episodes, IntArray]:
        """All paths, prompt by prompt, each prompt's oldest first; and the prompt of each."""
        numbers = [number for paths in self._paths.values() for number in paths.values()]
        prompts = np.array([prompt for prompt, paths in self._paths.items() for _ in paths])
        return self._episodes(numbers), prompts

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        if not self._paths:
            return {}
        episodes, prompts = self.everything()
        return {
            "observations": episodes.observations, "actions": episodes.actions, "rewards": episodes.rewards,
            "costs": episodes.costs, "starts": episodes.starts, "tokens": episodes.sums["tokens"], "prompts": prompts,
            "choices": self._actions,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Keep what `state` told, and nothing else."""
        self.clear()
        if not state:
            return
        steps, count = len(state["actions"]), len(state["prompts"])
        self.add(
            Episodes(
                **{name: state[name] for name in ("observations", "actions", "rewards", "starts")},
                costs=state.get("costs", np.zeros(steps)),  # older ones have none: under shares no one reads them
                allowances=np.zeros(steps),
                masks=np.ones((steps, int(state["choices"])), bool),
                last=np.zeros((count, self.layout.size), np.float32),
                cut=np.zeros(count, bool),
                before=np.zeros(count),
                sums={"tokens": state["tokens"], "prompt": state["prompts"].astype(np.float64)},
            )
        )


class SiblingPlay:
    """Plays several episodes of each prompt under one rule, and draws batches of siblings from all that was played.

    Args:
        env: the game, greedy.
        config: of the agent; `siblings` is at least 2.
        limited: the rules that are played and learned; without limits, as None, any within the multiplier's grid and a
            little below.
    """

    def __init__(self, env: Any, config: PCLConfig, limited: Limited | None = None) -> None:
        self.config, self.store = config, PathStore(env.layout, config.paths, limited or SHARES)
        self._limited = self.store.limited
        self._prompts, self._cap = len(env.task.prompts), int(env.game.cap)
        self._range = 0.5 * min(config.limits), max(config.limits)
        self._collector = Collector(env, config.seed)
        self._last = np.zeros(0, np.int64)  # prompts of the last round

    def demonstrate(self, episodes: Episodes | None) -> None:
        """Keep those paths of other policies that the gate could take."""
        if episodes is None:
            return
        if self.config.at_end:
            early = (episodes.actions > 0) & (episodes.observations[:, self.store.layout["would_end"].start] == 0)
            episodes = episodes.take(np.flatnonzero(episodes.total(early.astype(np.float64)) == 0))
        if len(episodes):
            self.store.add(episodes)

    def play(self, policy: Predicts, generator: np.random.Generator, seed: int) -> Episodes:
        """A round of episodes in order of prompt and rule, told in calls; those that take very long are left out."""
        siblings = self.config.siblings or 2
        count = max(self.config.episodes // siblings, 1)
        self._last = generator.integers(self._prompts, size=count)
        rules = [self._limited.constraint(limit) for limit in self._draw_limits(generator, count).tolist()]
        options = {
            "prompts": np.repeat(self._last, siblings), "rules": [rule for rule in rules for _ in range(siblings)],
            "afterwards": self._last[0],
        }  # fmt: skip
        self._collector.restart(seed, options=options)
        played = self._collector.collect_first(policy, count * siblings, PATIENCE * self._cap)
        self.store.add(played)
        return self._limited.in_calls(played)

    def batch(self, generator: np.random.Generator) -> Siblings | None:
        """Siblings of prompts of the last round and of any prompts, each prompt under a new limit.

        None while none of those has two paths.
        """
        count = self.config.prompts
        last = round(count * self.config.fresh)
        prompts = np.concatenate([
            generator.choice(self._last, size=last),
            generator.integers(self._prompts, size=count - last),
        ])  # fmt: skip
        return self.store.draw(generator, prompts, self._draw_limits(generator, count), self.config.siblings or 2)

    def examples(self, generator: np.random.Generator) -> NDArray[np.float32]:
        """(steps, size) observations of all paths under drawn limits.

        An input that dropout leaves out counts as its mean, which then is that of the states with a choice.
        """
        episodes, _ = self.store.everything()
        limits = self._draw_limits(generator, len(episodes))
        told = relabel(episodes, self.store.layout, limits, self._limited).observations
        choosing = told[:, self.store.layout["would_end"].start] > 0
        return told[choosing] if self.config.at_end and self.config.dropout else told

    def _draw_limits(self, generator: np.random.Generator, count: int) -> FloatArray:
        """(count,) of the fixed ones, or log-uniform with two digits."""
        if self._limited.limits:
            return generator.choice(self._limited.limits, size=count)
        low, high = self._range
        drawn = np.exp(generator.uniform(np.log(low), np.log(high), count))
        return np.array([float(f"{limit:.2g}") for limit in drawn.tolist()])
