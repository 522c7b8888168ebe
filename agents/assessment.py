"""Would it pay? What a pair of models could gain from asking, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.baselines.oracles import Oracle
from agents.evaluation import FREE, Ends, Played, play, play_ends
from agents.recording import Recorded
from tw_env.actions import Action
from tw_env.policies import ScoreThreshold, speculative, teacher_alone
from tw_env.policies.cuts import CutTable

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Point:
    """What one policy reaches: teacher calls per written token, mean quality, modelled milliseconds per output."""

    name: str
    calls_per_token: float
    quality: float
    milliseconds: float | None


@dataclass(frozen=True)
class Assessment:
    """Everything that can be known without training; qualities are means over the prompts.

    Attributes:
        tokens_differ: share of tokens, along the student's own texts, where the two greedy choices differ.
        outputs_differ: share of prompts whose two greedy texts differ.
        student, teacher, drafted: each model alone, the teacher without the student's steps that the game shows, and
            speculative decoding of whole drafts.
        asking, verifying: thresholds on p_max that ASK, and thresholds on the summed surprise that VERIFY at the end;
            from few calls to many.
        oracle: who knows beforehand which texts ASK improves, and by how much for each call; few calls to many.
    """

    prompts: int
    student: Point
    teacher: Point
    drafted: Point
    tokens_differ: float
    outputs_differ: float
    asking: list[Point]
    verifying: list[Point]
    oracle: list[Point]


def assess(env: Recorded, prompts: IntArray, points: int = 8) -> Assessment:
    """Play heuristics and oracles on these prompts; greedy, in a game with SELF, ASK and VERIFY.

    Cuts are spread over the scores that the student shows on the very prompts: good enough to see what there is to
    gain, not to promise that a rule is kept.
    """
    layout, actions = env.layout, env.game.spec.actions
    ends = play_ends(env.env, prompts)
    seen = Watch(env, len(prompts))
    alone = play(env, seen, prompts, FREE)
    taught = play(env, teacher_alone(layout, actions), prompts, FREE)
    drafted = play(env, speculative(layout, actions), prompts, FREE)
    asking = [
        _point(f"ASK if p_max < {1 - cut:.2f}", play(env, _threshold(env, "p_max", cut, Action.ASK), prompts, FREE))
        for cut in seen.cuts("p_max", points)
    ]
    verifying = [
        _point(
            f"VERIFY at the end if surprise > {cut:.2f}",
            play(env, _threshold(env, "surprise_at_end", cut, Action.VERIFY), prompts, FREE),
        )
        for cut in seen.cuts("surprise_at_end", points)
    ]
    return Assessment(
        prompts=len(prompts),
        student=_point("student alone", alone),
        teacher=_point("teacher alone", taught, _steps_beside(env, taught)),
        drafted=_point("speculative decoding", drafted),
        tokens_differ=seen.tokens_differ,
        outputs_differ=seen.outputs_differ,
        asking=asking,
        verifying=verifying,
        oracle=_oracle_frontier(play(env, Oracle(env, Action.ASK), prompts, FREE), alone, ends, points),
    )


class Watch:
    """Plays the student alone and writes down its scores and where the teacher would have written otherwise.

    Args:
        env: that it plays. episodes: how many count; those that follow only fill rows.
    """

    def __init__(self, env: Recorded, episodes: int) -> None:
        self._env, self._episodes = env, episodes
        self._oracle = Oracle(env, Action.ASK)
        self._scores = {
            name: ScoreThreshold(env.layout, env.game.spec.actions, name, 0.0, Action.ASK)
            for name in ("p_max", "surprise_at_end")
        }
        self._seen: dict[str, list[FloatArray]] = {name: [] for name in self._scores}
        self._tokens = self._differ = 0
        self._ended = self._ended_different = 0
        self._different = np.zeros(env.num_envs, bool)

    def predict(
        self, observation: NDArray[np.float32], state: object = None, episode_start: object = None,
        deterministic: bool = False, action_masks: object = None,
    ) -> tuple[IntArray, None]:  # fmt: skip
        """SELF everywhere."""
        calls, _ = self._oracle.predict(observation)
        counts = self._env.number < self._episodes
        differs = (np.asarray(calls) > 0) & counts
        self._tokens += int(counts.sum())
        self._differ += int(differs.sum())
        self._different |= differs
        over = counts & (observation[:, self._oracle.layout["would_end"].start] > 0)
        self._ended += int(over.sum())
        self._ended_different += int(self._different[over].sum())
        self._different[over] = False
        for name, policy in self._scores.items():
            self._seen[name].append(policy.scores(observation[counts]))
        return np.zeros(len(observation), np.int64), None

    @property
    def tokens_differ(self) -> float:
        """Share of the student's tokens that the teacher would have written otherwise."""
        return self._differ / max(self._tokens, 1)

    @property
    def outputs_differ(self) -> float:
        """Share of texts with such a token: those that the teacher alone would have written otherwise."""
        return self._ended_different / max(self._ended, 1)

    def cuts(self, name: str, points: int) -> list[float]:
        """Falling cuts of a score, exceeded by few of its values first and by most of those that matter at last."""
        scores = np.concatenate(self._seen[name])
        scores = scores[np.abs(scores) < 1e8]
        least, most = (0.02, 0.4) if name == "p_max" else (0.08, 0.9)  # of all tokens, of all ends
        return [float(np.quantile(scores, 1 - share)) for share in np.geomspace(least, most, points)]


def _threshold(env: Recorded, score: str, cut: float, call: Action) -> ScoreThreshold:
    return ScoreThreshold(env.layout, env.game.spec.actions, score, CutTable(default=cut), call)


def _steps_beside(env: Recorded, played: Played) -> FloatArray | float:
    """(prompts,) milliseconds of the student's steps in texts that take none of them back; 0 without a table."""
    table = env.game.spec.costs.latency
    return 0.0 if table is None else table.student_prompt_ms + table.student_ms * played.outcomes.tokens


def _point(name: str, played: Played, without: FloatArray | float = 0.0) -> Point:
    outcomes, times = played.outcomes, played.milliseconds
    if times is not None:
        times = times - without
    rate = float(outcomes.calls.sum() / outcomes.tokens.sum())
    return Point(name, rate, float(outcomes.quality.mean()), None if times is None else float(times.mean()))


def _oracle_frontier(repaired: Played, alone: Played, ends: Ends, points: int) -> list[Point]:
    """Repairs of whole texts, in the order of what each call gains, up to the last that gains anything."""
    gain, calls = repaired.outcomes.quality - ends.student, repaired.outcomes.calls
    worth = np.flatnonzero((gain > 0) & (calls > 0))
    order = worth[np.argsort(-gain[worth] / calls[worth], kind="stable")]
    if not len(order):
        return []
    found = []
    for share in np.linspace(1 / points, 1, points):
        chosen = order[: max(round(share * len(order)), 1)]
        tokens = alone.outcomes.tokens.copy()
        tokens[chosen] = repaired.outcomes.tokens[chosen]
        times = None
        if repaired.milliseconds is not None and alone.milliseconds is not None:
            each = alone.milliseconds.copy()
            each[chosen] = repaired.milliseconds[chosen]
            times = float(each.mean())
        quality = float(ends.student.mean() + gain[chosen].sum() / len(gain))
        found.append(Point("oracle ASK", float(calls[chosen].sum() / tokens.sum()), quality, times))
    return found
