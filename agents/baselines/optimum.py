"""The best that any plan could do: who knows both models and the references decides where each call goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.baselines.allotment import Allotment, allot
from agents.baselines.reach import Point, Reach, search
from tw_env.actions import Action
from tw_env.budget import Budget
from tw_env.policies.policy import Policy
from tw_env.rules import Constraint

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Optimum(Policy):
    """Plays, for each row's rule, the plan with the highest quality over all prompts; greedy decoding only.

    The plan is made from everything that the game pays by: both models' choices in every text that calls can lead to,
    and the references. So it may pass the teacher, where the teacher's own text is worse than a mixture.

    For the set as a whole the rule is kept; a single output may spend more, another less. Playing only some of the
    prompts, the rule is kept on average.

    Args:
        env: the environment that it plays; `predict` is for that environment's current rows only.
        prompts: indices of the prompts that are planned together, each once; None takes all. On others it never calls.
        most_calls: bound on the calls of one output; see `exact`.
        progress: told the finished share of the search, from 0 to 1.

    Raises:
        ValueError: the environment samples.
    """

    kind = "oracle"

    def __init__(
        self,
        env: Any,
        prompts: Sequence[int] | IntArray | None = None,
        most_calls: int = 5,
        progress: Callable[[float], object] | None = None,
    ) -> None:
        game = env.game
        super().__init__(game.layout, game.spec.actions)
        self.game, self.most_calls = game, most_calls
        self.call = Action.ASK if Action.ASK in self.actions else Action.VERIFY
        self.prompts = np.arange(len(env.task.prompts)) if prompts is None else np.asarray(prompts, np.int64)
        self._all = len(env.task.prompts)
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            if progress is not None:
                progress(done / len(self.prompts))

        self.found: list[Reach] = search(env, self.prompts, most_calls, progress=advance)
        self._plans: dict[Constraint, BoolArray] = {}

    @property
    def exact(self) -> float:
        """Share of prompts for which every plan was tried; for the others those with up to `most_calls` calls."""
        return 1.0 - sum(reach.cut for reach in self.found) / max(len(self.found), 1)

    def allotment(self, constraint: Constraint) -> Allotment:
        """What is planned under a rule.

        Raises:
            ValueError: a rule on time or money.
        """
        return allot(self.found, constraint, self._affordable(constraint))

    def bound(self, constraint: Constraint) -> float:
        """Mean quality that no policy of this game can exceed under the rule, on these prompts.

        As `Allotment.bound`, and every plan that was not tried is taken to be perfect.
        """
        perfect = Point(self.most_calls + 1, self.game.cap, 1.0, ())
        hopeful = [replace(reach, points=[*reach.points, perfect]) if reach.cut else reach for reach in self.found]
        return allot(hopeful, constraint, self._affordable(constraint)).bound

    def choose(self, observations: NDArray[np.float32], deterministic: bool, masks: Any) -> IntArray:
        game = self.game
        rules, prompt, place = game.budget.constraints, game.prompt, game.texts.length
        calls = np.zeros(len(observations), bool)
        for rule in set(rules):
            rows = np.array([row for row, other in enumerate(rules) if other == rule])
            calls[rows] = self._plan(rule)[prompt[rows], place[rows]]
        return np.where(calls, self.actions.index(self.call), 0)

    def _plan(self, rule: Constraint) -> BoolArray:
        """(all prompts, places) where the teacher is called."""
        if rule not in self._plans:
            plan = np.zeros((self._all, self.game.texts.places), bool)
            for prompt, point in zip(self.prompts, self.allotment(rule).chosen, strict=True):
                plan[prompt, list(point.places)] = True
            self._plans[rule] = plan
        return self._plans[rule]

    def _affordable(self, rule: Constraint) -> float:
        """Calls that one output can make before the game masks them."""
        spec, one = self.game.spec, np.ones(1, np.int64)
        budget = Budget(1, spec.max_new_tokens, spec.costs, spec.hard)
        budget.check(rule)
        budget.reset(np.zeros(1, np.int64), [rule])
        if not budget.masked:
            return math.inf
        for calls in range(self.most_calls + 1):
            budget.calls[:] = calls
            if not budget.affordable(one)[0]:
                return calls
        return math.inf
