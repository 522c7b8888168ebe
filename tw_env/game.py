"""The game's transitions, on arrays of rows: SELF, ASK, VERIFY, settling, ending."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tw_env.actions import Action, Writer
from tw_env.budget import Budget
from tw_env.costs import CostModel
from tw_env.decoding.accept import Accept
from tw_env.decoding.texts import LiveTexts
from tw_env.observations import OF_THE_GAME, GameLayout
from tw_env.rewards import Reward
from tw_env.rules import Constraint

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


# numpy compares and multiplies plain numbers much faster than members of an IntEnum.
_TEACHER = np.int8(Writer.TEACHER)
_SELF, _VERIFY = int(Action.SELF), int(Action.VERIFY)


@dataclass(frozen=True)
class GameSpec:
    """What is fixed about a game. `eager`: the teacher scores every row at every step, else only when it must."""

    actions: tuple[Action, ...]
    accept: Accept
    reward: Reward
    costs: CostModel
    max_new_tokens: int
    max_steps: int
    sampling: bool
    eager: bool
    hard: bool

    @property
    def pays_at_once(self) -> bool:
        """Whether SELF is paid in its own step; else when its token is settled, since it may still be dropped."""
        return self.eager and Action.VERIFY not in self.actions


@dataclass
class Step:
    """What a step brought, (rows,) each."""

    reward: FloatArray
    cost: FloatArray
    allowance: FloatArray
    terminated: BoolArray
    truncated: BoolArray


class Game:
    """Rows of episodes. The caller resets rows, lets the student look, and steps all rows at once.

    Args:
        quality: (prompt index, token ids without the end token) -> the task's metric in [0, 1].
        end_tokens: ids that end a text.
    """

    def __init__(
        self,
        texts: LiveTexts,
        spec: GameSpec,
        layout: GameLayout,
        quality: Callable[[int, Sequence[int]], float],
        end_tokens: Sequence[int],
    ) -> None:
        rows = texts.rows
        self.texts, self.spec, self.layout, self._score_text = texts, spec, layout, quality
        self.rows, self.cap = rows, spec.max_new_tokens
        self.budget = Budget(rows, self.cap, spec.costs, spec.hard)
        self.generators: list[np.random.Generator] = []
        self.prompt = np.zeros(rows, np.int64)
        self.settled = np.zeros(rows, np.int64)  # the teacher wrote or judged everything before this place
        self.teacher_read = np.zeros(rows, np.int64)  # tokens in the teacher's cache at batch 1, prompt included
        self.writer = np.zeros((rows, texts.places), np.int8)
        self._flat_writer, self._first_place = self.writer.reshape(-1), np.arange(rows) * texts.places
        self.steps = np.zeros(rows, np.int64)
        self.quality = np.zeros(rows)
        self.written = np.zeros(rows, np.int64)  # the token that the last step wrote
        self.final: list[list[int]] = [[] for _ in range(rows)]  # tokens of the last finished text without its end
        self.ended = np.ones(rows, bool)
        self.dropped = np.zeros(rows, np.int64)  # tokens that the last step took back
        self._shown = np.zeros((len(OF_THE_GAME), rows), np.float32)  # as the policy sees it, a row a feature
        (
            self._ends_here, self._pending, self._pending_surprise, self._least_sure, self._position, self._last_kept,
        ) = self._shown  # fmt: skip
        self._last_kept[:] = 1.0
        self._asks = bool(texts.pair.ask_tokens)
        self._pending_ask = np.zeros(rows)  # -log P(no ask at any pending token)
        self._all = np.arange(rows)
        self._codes = np.array(spec.actions, np.int64)
        self._ends = np.zeros(texts.pair.vocabulary, bool)
        self._ends[list(end_tokens)] = True
        self._would_end = np.zeros(rows, bool)
        self._qualities: dict[tuple[int, bytes], float] = {}

    # ---- a round: reset, look, step ----------------------------------------------------------------------------

    def reset(
        self,
        rows: IntArray,
        prompts: IntArray,
        prompt_ids: Sequence[Sequence[int]],
        rules: Sequence[Constraint],
        student_ids: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Start new episodes in these rows; see `tw_env.schedule.Starts` and `LiveTexts.reset`.

        Raises:
            ValueError: a rule on a quantity that can't be measured here.
        """
        self.budget.reset(rows, rules)
        self.texts.reset(rows, prompt_ids, student_ids)
        self.prompt[rows] = prompts
        for array in (self.settled, self.teacher_read, self.steps, self.quality, self.dropped):
            array[rows] = 0
        self._pending_surprise[rows] = self._least_sure[rows] = self._pending_ask[rows] = 0.0
        self._last_kept[rows] = 1.0
        self.ended[rows] = False

    def look(self, rows: IntArray | None = None) -> None:
        """Let the student propose, before the decision; eagerly, let the teacher judge it at once."""
        uniforms = None
        if self.spec.sampling:
            generators = self.generators if rows is None else [self.generators[row] for row in rows]
            uniforms = np.array([generator.random() for generator in generators])
        self.texts.look(rows, uniforms)
        at = slice(None) if rows is None else rows
        proposed = self.texts.view[at, 0].astype(np.int64)
        would_end = self._ends[proposed]
        would_end |= self.texts.length[at] == self.cap - 1
        self._would_end[at] = self._ends_here[at] = would_end
        if self.spec.eager:
            self.texts.read(rows)

    def step(self, actions: IntArray) -> Step:
        """Play one action (rows,) of indices into the action set, in every row."""
        texts = self.texts
        wanted = self._codes[actions]
        called = wanted != _SELF
        unread = texts.prompt_length + texts.length - self.teacher_read
        if self.budget.masked:
            called &= self.budget.affordable(unread)
        anyone = bool(called.any())
        before = texts.length.copy()
        token, surprise = texts.view[:, 0].astype(np.int64), texts.view[:, -1]
        reward = np.zeros(self.rows)
        self.dropped[:] = 0
        if self.spec.reward.scored or anyone:
            final = ~called & self._would_end
            self._hear(called, final)
            if self.spec.reward.scored:
                self._pay_own(reward, called, final, before)
        self._pending_surprise += surprise
        np.maximum(self._least_sure, surprise, out=self._least_sure)
        if self._asks:
            self._pending_ask += np.logaddexp(0.0, texts.extras[:, 0])
        if anyone:
            rows = np.flatnonzero(called)
            token[rows] = self._call(rows, wanted[rows] == _VERIFY, reward)
            self._pending_surprise[rows] = self._least_sure[rows] = self._pending_ask[rows] = 0.0
        place = texts.length.copy() if anyone else before
        self._flat_writer[self._first_place + place] = called * _TEACHER  # Writer.STUDENT is 0
        terminated = self._ends[token]
        terminated |= place == self.cap - 1
        texts.write(token, ~terminated)
        self.written = token
        cost, allowance = self.budget.charge(called, unread, texts.length - before)
        self.steps += 1
        truncated = self.steps >= self.spec.max_steps
        truncated &= ~terminated
        self.ended = terminated | truncated
        for row in np.flatnonzero(self.ended):
            written = self.texts.tokens[row, : self.texts.length[row]]
            self.final[row] = (written[:-1] if self._ends[written[-1]] else written).tolist()
        if terminated.any():
            self._finish(np.flatnonzero(terminated), reward)
        return Step(reward, cost, allowance, terminated, truncated)

    # ---- what the teacher does ---------------------------------------------------------------------------------

    def _hear(self, called: BoolArray, final: BoolArray) -> None:
        """Have the teacher read where it is called, or where a text ends that it must score."""
        if self.spec.eager:
            return
        need = called | final if self.spec.reward.scored else called
        if need.any():
            self.texts.read(None if need.all() else np.flatnonzero(need))

    def _call(self, rows: IntArray, verify: BoolArray, reward: FloatArray) -> IntArray:
        """Settle the pending tokens of these rows and return the teacher's next token (r,)."""
        texts = self.texts
        start, length = self.settled[rows], texts.length[rows]
        pending = length - start
        width = int(pending.max())
        uniforms = np.zeros((len(rows), width + 1))
        if self.spec.sampling:
            for uniform, row, count in zip(uniforms, rows, pending, strict=True):
                uniform[: count + 1] = self.generators[row].random(count + 1)
        kept = pending.copy()
        if width and verify.any():
            kept[verify] = self._accepted(rows[verify], start[verify], length[verify], uniforms[verify])
        place = start + kept
        token = self._teachers_token(rows, place, uniforms[np.arange(len(rows)), kept])
        if self.spec.reward.scored and width and not self.spec.pays_at_once:
            self._pay(reward, rows, start, place, verify)
        if width and verify.any():
            self._mark_accepted(rows[verify], start[verify], place[verify])
        back = place < length
        if back.any():
            texts.rewind(rows[back], place[back])
        self.dropped[rows] = length - place
        self._last_kept[rows] = np.where(pending > 0, kept / np.maximum(pending, 1), 1.0)
        self.teacher_read[rows] = texts.prompt_length[rows] + place
        self.settled[rows] = place + 1
        return token

    def _accepted(self, rows: IntArray, start: IntArray, length: IntArray, uniforms: FloatArray) -> IntArray:
        """(r,) how many pending tokens from `start` on the teacher keeps."""
        texts, places = self.texts, self._places(start, length)
        real = places < length[:, None]
        at = (rows[:, None], np.minimum(places, texts.places - 1))
        if self.spec.sampling:
            fine = self.spec.accept.sampled(
                texts.best_logprob[at], texts.score[at], texts.surprise[at], uniforms[:, : places.shape[1]]
            )
        else:
            fine = self.spec.accept.greedy(texts.best[at], texts.best_logprob[at], texts.proposal[at], texts.score[at])
        return np.cumprod(fine & real, axis=1).sum(axis=1)

    def _teachers_token(self, rows: IntArray, place: IntArray, uniforms: FloatArray) -> IntArray:
        """(r,) the teacher's token at a place of each row.

        In sampling under exact acceptance the student's proposal there is accepted or replaced by the rejection
        rule, the place of the look-ahead included. The policy has seen that proposal before it called: a fresh
        draw would leave the chosen texts biased, while this coupling gives the teacher's distribution whatever
        the policy looks at.
        """
        texts = self.texts
        if not self.spec.sampling:
            return texts.best[rows, place]
        if not self.spec.accept.exact:
            return texts.draw(rows, place, uniforms, np.zeros(len(rows), bool))
        ratio = np.exp(np.minimum(texts.score[rows, place] + texts.surprise[rows, place], 0.0))
        rest = np.clip((uniforms - ratio) / np.maximum(1.0 - ratio, 1e-12), 0.0, 1.0 - 1e-9)
        drawn = texts.draw(rows, place, rest, np.ones(len(rows), bool))
        return np.where(uniforms < ratio, texts.proposal[rows, place], drawn)

    def _mark_accepted(self, rows: IntArray, start: IntArray, stop: IntArray) -> None:
        places = self._places(start, stop)
        which, column = np.nonzero(places < stop[:, None])
        self.writer[rows[which], places[which, column]] = Writer.ACCEPTED

    # ---- what tokens are worth ---------------------------------------------------------------------------------

    def _pay_own(self, reward: FloatArray, called: BoolArray, final: BoolArray, length: IntArray) -> None:
        """Pay SELF tokens: in their own step, or, when the student ends a text, all that are pending with it."""
        payee = ~called if self.spec.pays_at_once else final
        if payee.any():
            rows = np.flatnonzero(payee)
            start = length[rows] if self.spec.pays_at_once else self.settled[rows]
            self._pay(reward, rows, start, length[rows] + 1, np.zeros(len(rows), bool))

    def _pay(self, reward: FloatArray, rows: IntArray, start: IntArray, stop: IntArray, accepted: BoolArray) -> None:
        """Add what the student's tokens at places start..stop-1 are worth."""
        texts, places = self.texts, self._places(start, stop)
        at = (rows[:, None], np.minimum(places, texts.places - 1))
        score, best = texts.score[at], texts.best_logprob[at]
        worth = self.spec.reward.of_tokens(score, best, texts.surprise[at], texts.kl[at])
        if accepted.any():
            worth = np.where(accepted[:, None], self.spec.reward.of_accepted(score, best), worth)
        reward[rows] += np.where(places < stop[:, None], worth, 0.0).sum(axis=1)

    def _finish(self, rows: IntArray, reward: FloatArray) -> None:
        """Score final texts by the task's metric."""
        for row in rows:
            written = self.texts.tokens[row, : self.texts.length[row]]
            key = (int(self.prompt[row]), written.tobytes())
            if key not in self._qualities:
                if len(self._qualities) >= 500_000:
                    self._qualities.clear()
                self._qualities[key] = self._score_text(key[0], self.final[row])
            self.quality[row] = self._qualities[key]
        reward[rows] += self.spec.reward.quality * self.quality[rows]

    @staticmethod
    def _places(start: IntArray, stop: IntArray) -> IntArray:
        """(r, w) places from `start` on, as many as the longest range has."""
        return start[:, None] + np.arange(int((stop - start).max(initial=0)))

    # ---- what is seen ------------------------------------------------------------------------------------------

    def observe(self) -> NDArray[np.float32]:
        """(rows, size) observations of all rows as they stand; see `observe_final` for final texts."""
        length = self.texts.length
        np.divide(length - self.settled, self.cap, out=self._pending)
        np.divide(length, self.cap, out=self._position)
        return self.layout.observe(self.texts.view, self.texts.extras, self._shown, self.budget, self._pending_ask)

    def observe_final(self, rows: IntArray) -> NDArray[np.float32]:
        """(r, size) observations of rows whose texts are final."""
        position = self.texts.length[rows] / self.cap
        return self.layout.observe_final(position, self._last_kept[rows], rows, self.budget)

    def action_mask(self) -> NDArray[np.int8]:
        """(rows, actions) 1 where an action can be afforded; a call that can't is played as SELF."""
        mask = np.ones((self.rows, len(self._codes)), np.int8)
        if self.budget.masked:
            unread = self.texts.prompt_length + self.texts.length - self.teacher_read
            mask[:, 1:] = self.budget.affordable(unread)[:, None]
        return mask
