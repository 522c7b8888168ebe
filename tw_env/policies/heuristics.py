"""Policies that nobody trains: call the teacher where a score of the observation lies above a cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tw_env.actions import Action
from tw_env.observations import Layout
from tw_env.policies.cuts import ALWAYS, NEVER, CutTable
from tw_env.policies.policy import FloatArray, IntArray, Observations, Policy, frame


def _column(name: str) -> Callable[[Observations, Layout], FloatArray]:
    return lambda obs, layout: obs[:, layout[name].start].astype(np.float64)


def _p_max(obs: Observations, layout: Layout) -> FloatArray:
    return 1.0 - np.exp(_column("top_logprobs")(obs, layout))


def _chain(obs: Observations, layout: Layout) -> FloatArray:
    return _column("pending_surprise")(obs, layout) + _column("surprise")(obs, layout)


def _at_end(obs: Observations, layout: Layout) -> FloatArray:
    """Only where the student would end the text: the surprise of all that nobody has read."""
    return np.where(obs[:, layout["would_end"].start] > 0, _chain(obs, layout), ALWAYS)


def _unsure_draft(obs: Observations, layout: Layout) -> FloatArray:
    """How unsure the student is of the next token; where the text would end, of all that nobody has read."""
    return np.where(obs[:, layout["would_end"].start] > 0, 1.0 - np.exp(-_chain(obs, layout)), _p_max(obs, layout))


def _draft(obs: Observations, layout: Layout) -> FloatArray:
    """Pending tokens, the one that SELF would write included; more than any draft where the text would end."""
    pending = np.rint(_column("pending")(obs, layout) * layout.cap) + 1
    return np.where(obs[:, layout["would_end"].start] > 0, layout.cap + 1.0, pending)


RANDOM = ("random", "random_at_end")  # drawn by the policy; it asks at a rate of -cut

#: Scores by name. All rise with the need for help.
SCORES: dict[str, Callable[[Observations, Layout], FloatArray]] = {
    "p_max": _p_max,
    "entropy": _column("entropy"),
    "margin": lambda obs, layout: -_column("margin")(obs, layout),
    "surprise": _column("surprise"),
    "chain_surprise": _chain,
    "surprise_at_end": _at_end,
    "unsure_draft": _unsure_draft,
    "draft": _draft,
    **dict.fromkeys(RANDOM, _column("ended")),
}


class ScoreThreshold(Policy):
    """Calls the teacher where `score > cut`: thresholds, random asking, speculative and Big-Little decoding.

    Args:
        score: a name in `SCORES`.
        cut: one number, or a table with a cut for every rule (see `agents.baselines.calibration`).
        call: `ASK` or `VERIFY`.
        draft: with a number, it calls as well where so many tokens are pending or the text would end, whatever the
            score; None does not.
    """

    kind = "score_threshold"

    def __init__(
        self,
        layout: Layout,
        actions: tuple[Action, ...],
        score: str,
        cut: float | CutTable,
        call: Action,
        draft: int | None = None,
    ) -> None:
        super().__init__(layout, actions)
        if score not in SCORES:
            raise ValueError(f"Expected a score out of {', '.join(SCORES)}, got {score!r}.")
        if call not in actions or call == Action.SELF:
            names = ", ".join(action.name for action in actions[1:])
            raise ValueError(f"Expected a call out of this game's {names}, got {Action(call).name}.")
        self.score, self.call, self.draft = score, call, draft
        self.cut = cut if isinstance(cut, CutTable) else CutTable(default=float(cut))

    def scores(self, observations: Observations) -> FloatArray:
        """(rows,) what is compared with the cut."""
        if self.score == "random":
            return -self.generator.random(len(observations))
        if self.score == "random_at_end":
            ends = observations[:, self.layout["would_end"].start] > 0
            return np.where(ends, -self.generator.random(len(observations)), ALWAYS)
        return SCORES[self.score](observations, self.layout)

    def choose(self, observations: Observations, deterministic: bool, masks: Any) -> IntArray:
        asks = self.scores(observations) > self.cut.of(observations, self.layout)
        if self.draft is not None:
            asks |= _draft(observations, self.layout) > self.draft
        return np.where(asks, self.actions.index(self.call), 0)

    def config(self) -> dict[str, Any]:
        drafts = {} if self.draft is None else {"draft": self.draft}
        return {"score": self.score, "call": self.call.name, "cut": self.cut.record(), **drafts}

    @classmethod
    def restore(cls, record: dict[str, Any], folder: Path) -> ScoreThreshold:
        cut, call = CutTable(**record["cut"]), Action[record["call"]]
        return cls(*frame(record), record["score"], cut, call, record.get("draft"))


def student_alone(layout: Layout, actions: tuple[Action, ...]) -> ScoreThreshold:
    """Never calls."""
    return ScoreThreshold(layout, actions, "random", NEVER, actions[-1])


def teacher_alone(layout: Layout, actions: tuple[Action, ...]) -> ScoreThreshold:
    """Calls at every token."""
    return ScoreThreshold(layout, actions, "random", ALWAYS, actions[-1])


def random_calls(layout: Layout, actions: tuple[Action, ...], rate: float) -> ScoreThreshold:
    """Calls with probability `rate` at every token."""
    return ScoreThreshold(layout, actions, "random", -rate, actions[-1])


def speculative(
    layout: Layout, actions: tuple[Action, ...], draft: int | None = None, confidence: float | None = None
) -> ScoreThreshold:
    """Speculative decoding (Leviathan et al. 2023, arXiv 2211.17192): `draft` tokens, or the whole rest, then VERIFY.

    With a `confidence`, a draft also stops before the first token of which the student is less sure, p_max <
    `confidence` (as in Draft & Verify, Zhang et al. 2023, arXiv 2309.08168). Nothing is left unverified, so the text is
    the teacher's.
    """
    most = layout.cap if draft is None else draft
    if confidence is None:
        return ScoreThreshold(layout, actions, "draft", most, Action.VERIFY)
    return ScoreThreshold(layout, actions, "p_max", 1.0 - confidence, Action.VERIFY, most)


def big_little(layout: Layout, actions: tuple[Action, ...], fallback: float) -> ScoreThreshold:
    """Big-Little decoding (Kim et al. 2023, arXiv 2302.07863): write until p_max < `fallback`, then VERIFY.

    Its rollback threshold t on -log p_T(y) is the environment's `accept="probability:P"` with P = exp(-t).
    """
    return ScoreThreshold(layout, actions, "p_max", 1.0 - fallback, Action.VERIFY)
