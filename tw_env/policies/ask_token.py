"""A student's own ask token as the policy: it read the rule, and its log-odds decide."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tw_env.actions import Action
from tw_env.observations import Layout
from tw_env.policies.cuts import ALWAYS, CutTable
from tw_env.policies.policy import FloatArray, IntArray, Observations, Policy, frame
from tw_env.rules import Constraint, Quantity

TAUGHT = (Quantity.CALLS_PER_TOKEN,)  # what the rules of joint training limit


class AskToken(Policy):
    """Calls with the probability that the student gives to its ask token, or where its log-odds exceed a cut.

    Args:
        layout: of a game whose student has an ask token.
        call: `ASK` or `VERIFY`; None takes the last of the action set.
        cut: deterministic play calls where the log-odds lie above it. One number for all rules leaves it to the
            student to read the rule; 0 calls where P(ask) > 1/2.
        at_end: call only where the text would end, so that one `VERIFY` settles all that was written: with the
            probability that the student asked at any of the pending tokens or there.
        quantities: what the rules that the student was trained to read limit; see `check_told`.

    Raises:
        ValueError: observations without an ask token, or a call that the game doesn't have.
    """

    kind = "ask_token"

    def __init__(
        self,
        layout: Layout,
        actions: tuple[Action, ...],
        call: Action | None = None,
        cut: float | CutTable = 0.0,
        at_end: bool = False,
        quantities: Sequence[Quantity] = TAUGHT,
    ) -> None:
        super().__init__(layout, actions)
        call = actions[-1] if call is None else call
        if "ask" not in layout:
            raise ValueError(
                "Expected a game whose student has an ask token of its own, got one without. Train such a student, or "
                "give another policy."
            )
        if call not in actions or call == Action.SELF:
            names = ", ".join(action.name for action in actions[1:])
            raise ValueError(f"Expected a call out of this game's {names}, got {Action(call).name}.")
        self.call, self.at_end, self.quantities = call, at_end, tuple(map(Quantity, quantities))
        self.cut = cut if isinstance(cut, CutTable) else CutTable(default=float(cut))

    def check_told(self, rule: Constraint) -> None:
        """Refuse a rule whose words this student never learnt to read: it would take them for some other rule.

        Nothing is refused that no student can break: a limit of 0, which masks all calls, and no limit. The game itself
        asks nothing of the words that it puts before a prompt; `tw_env.generate` and `scripts.evaluate` do.

        Raises:
            ValueError: a limit on a quantity that isn't among `quantities`.
        """
        if rule.quantity not in self.quantities and 0 < rule.limit < math.inf:
            raise ValueError(
                f"Expected a rule on {', '.join(self.quantities)}, which this student was trained to read; got one on "
                f"{rule.quantity}: {str(rule)!r}. Word the rule by what it was trained on, or give the sentence as "
                "words= (--words of scripts.generate): it is then read as it is, and the rule only keeps the account."
            )

    def by_words(self) -> AskToken:
        """The same with one cut for all rules, whatever their limits: what is said decides, and nothing beside it."""
        one = copy.copy(self)
        elsewhere = self.cut.elsewhere if self.cut.limits else None
        one.cut = CutTable(default=self.cut.default if elsewhere is None else elsewhere)
        return one

    def scores(self, observations: Observations) -> FloatArray:
        """(rows,) log-odds of calling; far below every cut where no call is allowed."""
        log_odds = observations[:, self.layout["ask"].start].astype(np.float64)
        if not self.at_end:
            return log_odds
        nats = observations[:, self.layout["pending_ask"].start] + np.logaddexp(0.0, log_odds)
        nats = np.maximum(nats, 1e-30)
        any_ask = nats + np.log(-np.expm1(-nats))
        return np.where(observations[:, self.layout["would_end"].start] > 0, any_ask, ALWAYS)

    def choose(self, observations: Observations, deterministic: bool, masks: NDArray[np.bool_] | None) -> IntArray:
        scores = self.scores(observations)
        if deterministic:
            asks = scores > self.cut.of(observations, self.layout)
        else:
            uniforms = self.generator.random(len(observations))
            asks = np.log(uniforms) - np.log1p(-uniforms) < scores
        return np.where(asks, self.actions.index(self.call), 0)

    def config(self) -> dict[str, Any]:
        quantities = list(self.quantities)
        return {"call": self.call.name, "cut": self.cut.record(), "at_end": self.at_end, "quantities": quantities}

    @classmethod
    def restore(cls, record: dict[str, Any], folder: Path) -> AskToken:
        quantities = record.get("quantities", TAUGHT)
        return cls(*frame(record), Action[record["call"]], CutTable(**record["cut"]), record["at_end"], quantities)
