"""What a gate would have spent on logged prompts, read off their logged paths: no model, no critic, no ratios.

Decoding greedily, a prompt and the gate's choices fix the path. So the gate takes a logged path with the product of its
choices' probabilities, whoever played it, and a deterministic gate takes it for an interval of cuts.

For gates that call only where a text would end, every choice is told: to leave a text as it is spends nothing more,
whether or not it was logged, and a call that was not logged is taken to be the last one. For others, what is read off
is that of a gate which keeps to logged paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agents.pcl.logged import LoggedPlay
from agents.pcl.paths import PathStore, relabel
from agents.rollout import Episodes, FloatArray, IntArray
from tw_env.policies import Gate
from tw_env.policies.cuts import CutTable
from tw_env.rules import Quantity


class LoggedPaths:
    """The distinct paths of every logged prompt.

    Args:
        play: of a greedy game, with the sums `prompt`, `calls` and `tokens`.
        at_end: keep only paths that call where the text would end, and nowhere else, and tell choices beside them.

    Attributes:
        store: the logged paths, to learn from. prompts: (prompts,) that were logged.
        paths: the logged ones and, after them, those told beside them, whose rewards are not known.

    Raises:
        ValueError: play that can't be told anew under other limits, or none that such a gate could have played.
    """

    def __init__(self, play: LoggedPlay, at_end: bool) -> None:
        needed = {"prompt", "calls", "tokens"}
        if play.sampling or not needed <= set(play.episodes.sums):
            raise ValueError(
                "Expected play of a greedy game of this project, whose paths can be told anew under any limit; got "
                f"{'sampling' if play.sampling else 'episodes without the sums ' + ', '.join(sorted(needed))}."
            )
        self.layout = play.layout
        episodes, self._ends = play.episodes, play.layout["would_end"].start
        if at_end:
            early = (episodes.actions > 0) & (episodes.observations[:, self._ends] == 0)
            episodes = episodes.take(np.flatnonzero(episodes.total(early.astype(np.float64)) == 0))
        if not len(episodes):
            raise ValueError("Expected logged paths without calls before the end of a text, got none: log such play.")
        self.store = PathStore(play.layout, most=len(episodes))
        self.store.add(episodes)
        logged, prompts = self.store.everything()
        told, beside = self._beside(logged, prompts) if at_end else (logged.take(np.zeros(0, int)), prompts[:0])
        self.paths = Episodes.join([logged, told])
        self._known = np.arange(len(self.paths)) < len(logged)
        everyone = np.concatenate([prompts, beside])
        self._order = np.argsort(everyone, kind="stable")  # prompt by prompt
        self.prompts, self._first, self._count = np.unique(everyone[self._order], return_index=True, return_counts=True)

    def _beside(self, paths: Episodes, prompts: IntArray) -> tuple[Episodes, IntArray]:
        """Paths that leave a logged one at the end of a text by a choice that was not logged there, and their prompts.

        A call is taken to accept what it reads and to end the text.
        """
        begins, actions = paths.starts[:-1], paths.actions.astype(np.int8)
        ends = np.flatnonzero(paths.observations[:, self._ends] > 0)
        of, choices = paths.of_step[ends], range(paths.masks.shape[1])
        places: dict[tuple[int, bytes], int] = {}  # before each choice: its step
        made: set[tuple[int, bytes]] = set()
        for step, path in zip(ends.tolist(), of.tolist(), strict=True):
            before = actions[begins[path] : step].tobytes()
            places.setdefault((int(prompts[path]), before), step)
            made.add((int(prompts[path]), before + actions[step].tobytes()))
        left = [
            (step, choice, prompt)
            for (prompt, before), step in places.items()
            for choice in choices
            if (prompt, before + np.int8(choice).tobytes()) not in made
        ]
        steps, chosen, beside = np.array(left, np.int64).reshape(-1, 3).T
        lengths = steps - begins[paths.of_step[steps]] + 1
        told = cut_short(paths, paths.of_step[steps], lengths)
        told.actions[told.starts[1:] - 1] = chosen
        place = told.observations[told.starts[1:] - 1, self.layout["position"].start] * self.layout.cap
        calls = told.total((told.actions > 0).astype(np.float64))
        told.sums = {"tokens": np.rint(place).astype(np.float64) + 1, "calls": calls}
        return told, beside

    def expected(self, gate: Gate, places: IntArray, limits: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Expected spent - allowed of a gate that draws its actions, and the probability of its logged paths, (n,).

        Args:
            places: (n,) in `prompts`. limits: (n,) on calls per token.
        """
        counts = self._count[places]
        group = np.repeat(np.arange(len(places)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen_paths = self._order[self._first[places][group] + within]
        paths = relabel(self.paths.take(chosen_paths), self.layout, limits[group])
        logprobs = np.zeros(paths.steps)
        steps = self._decisions(gate, paths)
        chosen = gate.log_probabilities(paths.observations[steps])
        logprobs[steps] = chosen[np.arange(len(steps)), paths.actions[steps]]
        chance = np.exp(paths.total(logprobs))
        spent, told = (np.bincount(group, chance * value, len(places)) for value in (paths.violation, 1.0))
        known = np.bincount(group, chance * self._known[chosen_paths], len(places)).astype(np.float64)
        return spent / np.maximum(told, 1e-12), known

    def cuts(self, gate: Gate, limits: Sequence[float]) -> CutTable:
        """The lowest cut for each limit from which on a deterministic gate keeps it."""
        found = [float(self._cut(gate, limit)) for limit in limits]
        name = Quantity.CALLS_PER_TOKEN.value
        return CutTable(limits={name: list(limits)}, cuts={name: found})

    def _cut(self, gate: Gate, limit: float) -> float:
        paths = relabel(self.paths, self.layout, np.full(len(self.paths), limit))
        low, high = self._taken(gate, paths)
        some = low < high
        if not np.isfinite(high[some]).any():
            return float(low.max())
        low, high, excess = low[some], high[some], paths.violation[some]
        cuts = np.unique(np.concatenate([low, high]))
        cuts = cuts[np.isfinite(cuts)]
        # Prompts whose path at a cut isn't told don't count there.
        taken, sums = np.zeros(len(cuts) + 1), np.zeros(len(cuts) + 1)
        for places, sign in ((np.searchsorted(cuts, low), 1.0), (np.searchsorted(cuts, high), -1.0)):
            np.add.at(taken, places, sign)
            np.add.at(sums, places, sign * excess)
        mean = sums.cumsum()[:-1] / np.maximum(taken.cumsum()[:-1], 1.0)
        broken = np.flatnonzero(mean > 0)
        return float(cuts[min(broken[-1] + 1, len(cuts) - 1) if broken.size else 0])

    def _taken(self, gate: Gate, paths: Episodes) -> tuple[FloatArray, FloatArray]:
        """For each path the cuts, low <= cut < high, at which a deterministic gate takes it; none if low >= high."""
        steps = self._decisions(gate, paths)
        logprobs = gate.log_probabilities(paths.observations[steps])
        with np.errstate(divide="ignore"):
            scores = np.log(np.exp(logprobs[:, 1:]).sum(axis=1)) - logprobs[:, 0]
        calls, likeliest = paths.actions[steps] > 0, 1 + logprobs[:, 1:].argmax(axis=1)
        at_most = np.where(paths.actions[steps] == likeliest, scores, -np.inf)
        low, high = np.full(len(paths), -np.inf), np.full(len(paths), np.inf)
        of_step = paths.of_step[steps]
        np.maximum.at(low, of_step[~calls], scores[~calls])
        np.minimum.at(high, of_step[calls], at_most[calls])
        return low, high

    def _decisions(self, gate: Gate, paths: Episodes) -> NDArray[np.int64]:
        """The steps at which the gate has a choice."""
        if not gate.at_end:
            return np.arange(paths.steps)
        return np.flatnonzero(paths.observations[:, self._ends] > 0)


def cut_short(episodes: Episodes, chosen: IntArray, lengths: IntArray) -> Episodes:
    """The first so many steps (n,) of these episodes."""
    taken = episodes.take(chosen)
    keep = np.arange(taken.steps) - taken.starts[taken.of_step] < lengths[taken.of_step]
    per_step = ("observations", "actions", "rewards", "costs", "allowances", "masks")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return replace(taken, **{name: getattr(taken, name)[keep] for name in per_step}, starts=starts)
