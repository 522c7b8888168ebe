"""Every text that calls can lead to: per prompt, what each number of calls can buy at best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tw_env.actions import Action
from tw_env.decoding.tree import NODES, Memory, RememberedTexts
from tw_env.settings import encode_prompts

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Point:
    """One way to write a prompt's text.

    Attributes:
        calls: of the teacher. tokens: of the final text, end token included. quality: of the task, in [0, 1].
        places: how many tokens stand before each call, rising.
    """

    calls: int
    tokens: int
    quality: float
    places: tuple[int, ...]

    def beats(self, other: Point) -> bool:
        """Whether the other is no better in anything: calls and quality, and tokens, which earn allowance."""
        return self.calls <= other.calls and self.tokens >= other.tokens and self.quality >= other.quality


@dataclass
class Reach:
    """What is reachable from one prompt.

    Attributes:
        points: the Pareto set of (fewest calls, most tokens, highest quality), by rising calls.
        texts: how many different plans were tried.
        cut: whether plans with more calls than the search's bound were left out, so that there may be better points.
    """

    points: list[Point] = field(default_factory=list)
    texts: int = 0
    cut: bool = False

    def add(self, point: Point) -> None:
        """Take a point into the set unless one there beats it."""
        self.texts += 1
        if any(kept.beats(point) for kept in self.points):
            return
        self.points = sorted([kept for kept in self.points if not point.beats(kept)] + [point], key=lambda p: p.calls)


def search(
    env: Any,
    prompts: Sequence[int] | IntArray,
    most_calls: int = 5,
    rows: int = 256,
    progress: Callable[[int], object] | None = None,
) -> list[Reach]:
    """What plans with at most `most_calls` calls reach from each of these prompts; greedy decoding.

    After a call nothing is pending, so what is reachable depends only on the text, not on how it came about: from
    there the student writes on by itself, and the next call may fall at any place of that. `ASK` puts the teacher's
    token there. `VERIFY` puts it at the first place that it doesn't accept, which `ASK` could have done as well: who
    knows the teacher gains nothing by `VERIFY`, and the two games that have `ASK` have the same points. In the game
    with `VERIFY` alone a call can't lie behind a pending token that would be refused. A call that writes what the
    student would have written changes nothing and is left out. Every plan that is left is tried, depth first, so the
    sets are exact except where `Reach.cut` says that the bound on calls left something out.

    Args:
        env: an `AssistedDecodingVectorEnv` or a wrapper with its `game`, `task` and `pair`; it is not played, but its
            remembered prefixes are used and added to.
        rows: texts that are written at once. progress: called with the number of newly begun prompts.

    Raises:
        ValueError: the environment samples.
    """
    if env.game.spec.sampling:
        raise ValueError("Expected greedy decoding: in sampling no plan knows what comes of it. Got sampling.")
    return _Search(env, prompts, most_calls, min(rows, max(len(prompts), 1)), progress).run()


@dataclass
class _Branch:
    """A call that is still to be tried: the teacher's token at a place; `calls` holds the places up to this one."""

    place: int
    token: int
    calls: tuple[int, ...]


class _Search:
    """Rows that each walk through the tree of one prompt after the other."""

    def __init__(
        self, env: Any, prompts: Sequence[int] | IntArray, most_calls: int, rows: int,
        progress: Callable[[int], object] | None,
    ) -> None:  # fmt: skip
        game, pair = env.game, env.pair
        self.task, self.decode, self.accept = env.task, pair.tokenizer.decode, game.spec.accept
        self.cap, self.most_calls, self.progress = game.cap, most_calls, progress
        self.asks = Action.ASK in game.spec.actions
        self.prompts = [int(prompt) for prompt in prompts]
        encoded = encode_prompts(self.task, pair, game.cap, env.unwrapped.settings.chat)
        self.ids = [encoded[prompt] for prompt in self.prompts]
        self.texts = _texts(env, rows, max(map(len, self.ids), default=1))
        self.ends = np.zeros(pair.vocabulary, bool)
        self.ends[list(pair.end_tokens)] = True
        self.found = [Reach() for _ in self.prompts]
        self.number = np.full(rows, -1)  # which of the prompts each row is at; -1: none is left
        self.calls: list[tuple[int, ...]] = [()] * rows  # places of the calls in each row's text
        self.open: list[list[_Branch]] = [[] for _ in range(rows)]
        self.following = 0
        self.script = np.zeros((rows, self.cap), np.int64)  # tokens that a row writes before the student goes on,
        self.scripted = np.zeros(rows, np.int64)  # up to this length

    def run(self) -> list[Reach]:
        """Walk until every prompt is done."""
        texts, everyone = self.texts, np.arange(self.texts.rows)
        self._employ(everyone)
        while (self.number >= 0).any():
            waiting = np.flatnonzero(self.number >= 0)
            texts.look(waiting)
            while (over := waiting[self._would_end(waiting)]).size:
                self._close(over)
                waiting = self._employ(np.flatnonzero(self.number < 0))
                if waiting.size:
                    texts.look(waiting)
            active, length = self.number >= 0, texts.length
            own = texts.proposal[everyone, length]
            scripted = self.script[everyone, np.minimum(length, self.cap - 1)]
            token = np.where(length < self.scripted, scripted, own)
            idle = np.flatnonzero(~active)
            texts.rewind(idle, np.zeros(len(idle), np.int64))
            texts.write(token, active)
        return self.found

    def _would_end(self, rows: IntArray) -> BoolArray:
        """(r,) whether the student's next token, not a scripted one, closes the text."""
        length = self.texts.length[rows]
        closes = self.ends[self.texts.proposal[rows, length]] | (length == self.cap - 1)
        return closes & (length >= self.scripted[rows])

    def _close(self, rows: IntArray) -> None:
        """Note the texts that the student ends here and send the rows to their next branches, if there are any."""
        texts = self.texts
        texts.read(rows)
        for row in rows.tolist():
            self._note(row, texts.length[row], texts.proposal[row, texts.length[row]], self.calls[row])
            self._branch(row)
            if not self._follow(row):
                self.number[row] = -1

    def _employ(self, rows: IntArray) -> IntArray:
        """Give idle rows the next prompts or, when none is left, branches of other rows. Returns those employed."""
        fresh = rows[: len(self.prompts) - self.following]
        self.number[fresh] = np.arange(self.following, self.following + len(fresh))
        self.following += len(fresh)
        self.scripted[fresh] = 0
        for row in fresh.tolist():
            self.calls[row] = ()
        if fresh.size and self.progress is not None:
            self.progress(len(fresh))
        helpers, donors = rows[len(fresh) :].tolist(), [row for row, branches in enumerate(self.open) if branches]
        helpers = helpers[: sum(len(self.open[donor]) for donor in donors)]
        for turn, row in enumerate(helpers):
            donor = donors[turn % len(donors)]
            self._take(row, donor)
            if not self.open[donor]:
                donors.remove(donor)
        employed = np.concatenate([fresh, np.array(helpers, np.int64)])
        self.texts.reset(employed, [self.ids[number] for number in self.number[employed]])
        return employed

    def _note(self, row: int, length: int, last: int, calls: tuple[int, ...]) -> None:
        """Add the row's text up to `length`, closed by a last token, to what is reachable."""
        number = int(self.number[row])
        body = self.texts.tokens[row, :length].tolist()
        if not self.ends[last]:
            body.append(int(last))
        text = self.decode(body, skip_special_tokens=True)
        quality = float(self.task.quality(self.prompts[number], text))
        self.found[number].add(Point(len(calls), int(length) + 1, quality, calls))

    def _branch(self, row: int) -> None:
        """Open the calls that are possible in what the student wrote since the last one."""
        texts, calls = self.texts, self.calls[row]
        first = calls[-1] + 1 if calls else 0
        places = np.arange(first, int(texts.length[row]) + 1)
        best, own = texts.best[row, places], texts.proposal[row, places]
        useful = best != own
        if not self.asks:
            accepted = self.accept.greedy(best, texts.best_logprob[row, places], own, texts.score[row, places])
            refused = np.flatnonzero(~accepted)
            if refused.size:
                useful[refused[0]] = True  # even the same token, once settled, lets later calls reach further
                useful[refused[0] + 1 :] = False
        if len(calls) == self.most_calls:
            self.found[int(self.number[row])].cut |= bool(useful.any())
            return
        for place, token in zip(places[useful].tolist(), best[useful].tolist(), strict=True):
            if self.ends[token] or place == self.cap - 1:
                self._note(row, place, token, (*calls, place))
            else:
                self.open[row].append(_Branch(place, token, (*calls, place)))

    def _follow(self, row: int) -> bool:
        """Go back to this row's last open branch; False if there is none.

        The last one, since what stands before the places of the others then remains in the row.
        """
        if not self.open[row]:
            return False
        branch = self.open[row].pop()
        self.texts.rewind(np.array([row]), np.array([branch.place]))
        self._write_down(row, branch)
        return True

    def _take(self, row: int, donor: int) -> None:
        """Let an idle row follow the first open branch of another: long texts of few prompts are shared by all rows."""
        branch = self.open[donor].pop(0)
        self.number[row] = self.number[donor]
        self.script[row, : branch.place] = self.texts.tokens[donor, : branch.place]
        self._write_down(row, branch)

    def _write_down(self, row: int, branch: _Branch) -> None:
        self.calls[row] = branch.calls
        self.script[row, branch.place] = branch.token
        self.scripted[row] = branch.place + 1


def _texts(env: Any, rows: int, longest: int) -> RememberedTexts:
    """Rows of text over the environment's remembered prefixes, or over others if it remembers none or too few."""
    texts, cap = env.game.texts, env.game.cap
    need = 2 * rows * (cap + 1)
    memory: Memory | None = getattr(texts, "memory", None)
    if memory is not None and memory.nodes < need:
        memory = None
    nodes = max(NODES, need)
    return RememberedTexts(
        env.pair, rows, longest, cap, memory=memory, nodes=nodes, top_k=texts.top_k, hidden=bool(texts.hidden.shape[1])
    )
