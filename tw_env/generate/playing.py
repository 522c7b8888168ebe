"""The game over given prompts: set up for a policy, played until every text is written, told as it settles."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from tw_env.actions import Action, Writer
from tw_env.costs import CostModel
from tw_env.decoding.accept import Accept
from tw_env.decoding.checks import check_room
from tw_env.decoding.loading import Pair
from tw_env.decoding.texts import LiveTexts
from tw_env.game import Game, GameSpec
from tw_env.generate.single import SingleText
from tw_env.observations import GameLayout, Layout
from tw_env.policies import AskToken, Policy, load, shipped, speculative, student_alone, teacher_alone
from tw_env.policies.policy import CONFIG
from tw_env.rewards import Reward
from tw_env.rules import Constraint, Quantity
from tw_env.schedule import Starts

FloatArray = NDArray[np.float64]
Make = Callable[[Layout, tuple[Action, ...]], Policy]
Tell = Callable[[int, Writer], object]

NEVER = Constraint(Quantity.CALLS_PER_TOKEN, 0.0)
ALL = tuple(Action)
NAMED: dict[str, Make] = {
    "student": student_alone, "teacher": teacher_alone, "speculative": speculative, "ask-token": AskToken,
}  # fmt: skip
_DRAFT = re.compile(r"speculative-([1-9]\d*)")


# ---- what plays ------------------------------------------------------------------------------------------------


def find_policy(policy: Any, pair: Pair) -> Any:
    """A policy, or what makes one for any layout.

    Args:
        policy: an object with `predict`, `layout` and `actions`; a saved policy's folder or a shipped one's name; one
            of `NAMED`, or "speculative-K" for drafts of K tokens; None for the policy that was saved beside the
            student's weights, or else its own ask token.

    Raises:
        FileNotFoundError: a name of none of these.
        TypeError: an object that isn't a policy.
        ValueError: None for a student without either.
    """
    if policy is None:
        beside = Path(pair.student.name_or_path or ".") / CONFIG
        if pair.student.name_or_path and beside.is_file():
            return load(beside.parent)
        if pair.ask_tokens:
            return AskToken
        raise ValueError(
            "Expected a policy for a student without an ask token of its own, got none. Give policy=, the folder of a "
            f"saved one, {', '.join(map(repr, (*shipped(), *NAMED)))} or 'speculative-4'."
        )
    if isinstance(policy, str | Path):
        return _named(policy)
    missing = [name for name in ("predict", "layout", "actions") if not hasattr(policy, name)]
    if missing:
        raise TypeError(
            f"Expected a policy with predict, layout and actions, such as tw_env.policies.load returns; "
            f"{type(policy).__name__} lacks {', '.join(missing)}."
        )
    return policy


def _named(name: str | Path) -> Any:
    if str(name) in NAMED:
        return NAMED[str(name)]
    if draft := _DRAFT.fullmatch(str(name)):
        length = int(draft[1])
        return lambda layout, actions: speculative(layout, actions, length)
    return load(name)


def made_for(policy: Any) -> int | None:
    """The cap on new tokens that a policy was made for; None for what plays any."""
    return policy.layout.cap if hasattr(policy, "layout") else None


# ---- the game --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terms:
    """What the game is played for: cap on new tokens, how tokens are chosen and accepted, what calls cost."""

    max_new_tokens: int
    sampling: bool
    accept: Accept
    hard: bool
    costs: CostModel
    end_tokens: tuple[int, ...]


def set_up(pair: Pair, policy: Any, starts: Starts, terms: Terms) -> tuple[Game, Any]:
    """A game with a row for each start, scored by nobody and lazily read, and the policy that plays it.

    Raises:
        ValueError: prompts that leave a model no room, or a policy that was made for other observations.
    """
    layout, cap = getattr(policy, "layout", None), terms.max_new_tokens
    top_k = 5 if layout is None else layout["top_logprobs"].stop - layout["top_logprobs"].start
    actions = ALL if layout is None else policy.actions
    longest = max(len(ids) for ids in starts.prompt_ids)
    told = max(len(ids) for ids in starts.student_ids or starts.prompt_ids)
    check_room(pair.teacher, longest, cap)
    check_room(pair.student, told, cap, "the longest prompt, with its rule" if told > longest else "the longest prompt")
    rows = len(starts.prompt_ids)
    made = SingleText if rows == 1 and not pair.encoder_decoder else LiveTexts
    texts = made(
        pair, rows, longest, cap, rule_tokens=told - longest, sampling=terms.sampling, top_k=top_k,
        hidden=layout is not None and "hidden" in layout,
    )  # fmt: skip
    spec = GameSpec(
        actions=actions,
        accept=terms.accept,
        reward=Reward(),
        costs=terms.costs,
        max_new_tokens=cap,
        max_steps=cap * (cap + 3) // 2,  # as many as take-backs that make progress can need
        sampling=terms.sampling,
        eager=False,
        hard=terms.hard,
    )
    own = GameLayout(top_k, pair.vocabulary, cap, texts.hidden.shape[1], bool(pair.ask_tokens))
    game = Game(texts, spec, own, lambda prompt, tokens: 0.0, terms.end_tokens)
    for rule in set(starts.rules):
        game.budget.check(rule)
    if layout is None:
        return game, policy(own, actions)
    shapes = [[(feature.name, feature.size) for feature in one.features] for one in (layout, own)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Expected a policy for what this student shows ({_differing(shapes[1], shapes[0])}), got one made for "
            f"another ({_differing(*shapes)}). Give the policy that was learnt with this student."
        )
    return game, policy


def _differing(these: list[tuple[str, int]], those: list[tuple[str, int]]) -> str:
    return ", ".join(f"{size} numbers of {name}" for name, size in these if (name, size) not in those) or "nothing more"


# ---- play ------------------------------------------------------------------------------------------------------


@dataclass
class Written:
    """What came of the rows: tokens and `Writer` codes of each text, and its account, (rows,) each."""

    tokens: list[list[int]]
    writers: list[list[int]]
    calls: FloatArray
    spent: FloatArray
    allowed: FloatArray
    milliseconds: FloatArray
    money: FloatArray

    @staticmethod
    def empty(rows: int) -> Written:
        """Before anything is finished."""
        return Written([[] for _ in range(rows)], [[] for _ in range(rows)], *np.zeros((5, rows)))

    def keep(self, game: Game, rows: Sequence[int]) -> None:
        """Note down rows whose texts are final."""
        budget = game.budget
        for row in rows:
            length = game.texts.length[row]
            self.tokens[row] = game.texts.tokens[row, :length].tolist()
            self.writers[row] = game.writer[row, :length].tolist()
        for mine, account in (
            (self.calls, budget.calls), (self.spent, budget.spent), (self.allowed, budget.allowed),
            (self.milliseconds, budget.milliseconds), (self.money, budget.money),
        ):  # fmt: skip
            mine[rows] = account[rows]


def play(game: Game, policy: Any, starts: Starts, seed: int, deterministic: bool, tell: Tell | None) -> Written:
    """Write every row's text once.

    Rows that finish early go on with a text that nobody asked for, from a prompt of one token and under the rule
    "never", so that they neither wait for the teacher nor spend anything; `generate` feeds pads to such rows.

    Args:
        seed: row i draws from a generator seeded with seed + i, as in the environment; so does the policy, by seed.
        tell: called with the tokens of row 0 and their writers, one by one, as soon as none of them can be taken back.
    """
    rows, count = np.arange(game.rows), game.rows
    game.generators = [seeding.np_random(seed + row)[0] for row in range(count)]
    if hasattr(policy, "seed"):
        policy.seed(seed)
    written, under_way, told, state = Written.empty(count), np.ones(count, bool), 0, None
    game.reset(rows, *starts)
    while True:
        game.look()
        masks = game.action_mask().astype(bool)
        actions, state = policy.predict(game.observe(), state, deterministic=deterministic, action_masks=masks)
        step = game.step(np.asarray(actions, np.int64))
        over = step.terminated | step.truncated
        if tell is not None:
            told = _tell(game, tell, told, bool(over[0]))
        written.keep(game, np.flatnonzero(over & under_way).tolist())
        under_way &= ~over
        if not under_way.any():
            return written
        idle = np.flatnonzero(over)
        if idle.size:
            game.reset(idle, idle, [starts.prompt_ids[row][-1:] for row in idle], [NEVER] * len(idle))


def _tell(game: Game, tell: Tell, told: int, over: bool) -> int:
    """Tell what is certain of row 0; returns how many tokens were told so far."""
    everything = over or Action.VERIFY not in game.spec.actions
    certain = int(game.texts.length[0] if everything else game.settled[0])
    for token, writer in zip(
        game.texts.tokens[0, told:certain].tolist(), game.writer[0, told:certain].tolist(), strict=True
    ):
        tell(token, Writer(writer))
    return certain
