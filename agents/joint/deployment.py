"""From a trained student to a policy: cuts found on held-back prompts, and rows of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.asking import asking_auc
from agents.evaluation import Ends, Row, make_row, play
from agents.rollout import play_prompts
from tw_env.policies import AskToken, CutTable, ScoreThreshold
from tw_env.rules import Constraint, Quantity, paraphrases

TRAINED = "trained"  # how rules are filed that are told as in training
MODEL = "model"  # folder of student, tokenizer and policy in that of a run
ROUNDS = 10  # halvings of the interval around the cut
TOLD = 4  # rules that each prompt is told for it
SPAN = 12.0  # nats; the cut lies between -SPAN and SPAN


@dataclass(frozen=True)
class Told:
    """A rule and the sentences in which it is told, drawn anew for each prompt.

    Attributes:
        name: how it is filed: "trained", "held-out phrasing", "held-out limit", "ambiguous".
        sentences: what the student reads, one of them for each prompt.
        constraint: what the game's account keeps to.
    """

    name: str
    sentences: tuple[str, ...]
    constraint: Constraint

    def words(self, count: int, seed: int) -> list[str]:
        """(count,) sentences."""
        chosen = np.random.default_rng(seed).integers(len(self.sentences), size=count)
        return [self.sentences[i] for i in chosen]


def told(limit: float, name: str = TRAINED, held_out: bool | None = False) -> Told:
    """A limit on calls per token in its phrasings."""
    constraint = Constraint(Quantity.CALLS_PER_TOKEN, limit)
    return Told(name, tuple(paraphrases(constraint, held_out)), constraint)


def fit_cut(policy: AskToken, env: Any, prompts: Sequence[int], limits: Sequence[float], seed: int = 0) -> CutTable:
    """Set the lowest cuts at which the policy spends no more than its rules allow: one for all rules, or one a limit.

    With the one number, `default`, what tells rules apart is what the student read alone. The table beside it corrects
    for what it misjudges under a limit in the words of that limit, and interpolates; without a limit the one number
    holds, as for every rule in `AskToken.by_words`.

    Args:
        env: an `AssistedDecodingVectorEnv` with the trained student. prompts: that nothing was trained on; each is told
            `TOLD` of the rules, all of them equally often, and one of them where there is one cut for all.
    """
    known = sorted(limits)
    rules = [told(limit) for limit in known]
    times = min(TOLD, len(rules))
    every = np.tile(np.asarray(prompts, np.int64), times)
    another = len(rules) // times
    which = np.concatenate([(np.arange(len(prompts)) + time * another) % len(rules) for time in range(times)])
    constraints = np.array([rules[rule].constraint for rule in which], object)
    choice = np.random.default_rng(seed)
    words = [rules[rule].sentences[int(choice.integers(len(rules[rule].sentences)))] for rule in which]

    def excess(cuts: CutTable, first: int) -> NDArray[np.float64]:
        policy.cut = cuts
        outcomes = play_prompts(env, policy, every[:first], constraints[:first], seed, True, words=words[:first])
        return outcomes.spent - outcomes.allowed

    one = bisected(lambda cut: [excess(CutTable(default=float(cut[0])), len(prompts)).mean() <= 0], 1)
    name = Quantity.CALLS_PER_TOKEN.value
    counts = np.bincount(which, minlength=len(rules))

    def keep(cuts: NDArray[np.float64]) -> NDArray[np.bool_]:
        over = excess(CutTable({name: known}, {name: cuts.tolist()}), len(every))
        return np.bincount(which, over, minlength=len(rules)) / counts <= 0

    each = bisected(keep, len(rules))
    policy.cut = CutTable({name: known}, {name: each.tolist()}, default=float(one[0]), elsewhere=float(one[0]))
    return policy.cut


def bisected(keep: Callable[[NDArray[np.float64]], Any], count: int) -> NDArray[np.float64]:
    """(count,) lowest cuts of which `keep` says, for each, that its rule is kept; all are searched at once."""
    low, high = np.full(count, -SPAN), np.full(count, SPAN)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        kept = np.asarray(keep(middle))
        low, high = np.where(kept, low, middle), np.where(kept, middle, high)
    return high


def rows_of(
    policy: AskToken, env: Any, ends: Ends, rules: Sequence[Told], agent: str, seed: int, **training: Any
) -> list[Row]:
    """A row of the benchmark for each rule, with how it was told, against the ends of the *original* pair.

    Args:
        ends: of the original student and the teacher, on all prompts of the environment's task.
        training: what training took, see `agents.evaluation.make_row`.
    """
    prompts = np.arange(len(env.task.prompts))
    rows: list[Row] = []
    for rule in rules:
        words = rule.words(len(prompts), seed)
        played = play(env, policy, prompts, rule.constraint, seed, True, words=words)
        row = make_row(env, played, ends, rule.constraint, agent=agent, kind="learned", seed=seed, **training)
        rows.append({**row, "told": rule.name, "words": rule.sentences[0], "sentences": len(rule.sentences)})
    return rows


def ranking(env: Any, prompts: NDArray[np.int64], limit: float, seed: int = 0) -> dict[str, float | None]:
    """AUC with which P(ask) and p_max of the same student rank where the two models' greedy choices differ."""
    constraint = Constraint(Quantity.CALLS_PER_TOKEN, limit)
    actions = env.game.spec.actions
    ask = AskToken(env.layout, actions)
    p_max = ScoreThreshold(env.layout, actions, "p_max", 0.0, actions[-1])
    return {
        name: asking_auc(env, policy, prompts, constraint, seed) for name, policy in (("ask", ask), ("p_max", p_max))
    }
