"""Remembered prefixes: a frozen greedy pair decodes each prefix once, then a step is a look-up.

From any prefix a greedy game goes on in at most two ways: with the student's choice or with the teacher's. So the
prefixes of a prompt form a binary tree, and a node holds all that both models say about its prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tw_env.decoding import distributions
from tw_env.decoding.loading import Pair
from tw_env.decoding.texts import BoolArray, FloatArray, IntArray, LiveTexts

NODES = 1_000_000  # default bound on remembered prefixes: about 75 MB, and 4 bytes per node and hidden unit more
_ARRAYS = {"view": 0, "extras": 0, "teacher": 0, "child": -1, "known": 0}  # and what new entries hold
STUDENT, TEACHER = 0, 1  # the two ways on from a node, and whose findings are there


class Memory:
    """The tree over all prompts, as arrays that grow up to `nodes` entries; when full, everything is forgotten.

    Attributes:
        view: (nodes, 1 + features) see `LiveTexts.view`. hidden: (nodes, size) the student's hidden state.
        teacher: (nodes, 3) the teacher's choice, its log p_T, and log p_T of the student's choice.
        child: (nodes, 2) the prefix that follows the student's choice, and the teacher's where it differs; -1 unknown.
        known: (nodes, 2) whether the student, and the teacher, have been here.
        generation: how often everything was forgotten; node numbers of an older generation mean nothing.
    """

    def __init__(self, features: int, extras: int, nodes: int = NODES) -> None:
        if nodes < 1:
            raise ValueError(f"Expected a memory of at least one prefix, got nodes={nodes}.")
        self.nodes, self.generation, self.size = nodes, 0, 0
        self._widths = (1 + features, extras)
        self._allocate(min(nodes, 4096))
        self.roots: dict[tuple[int, ...], int] = {}

    def _allocate(self, room: int) -> None:
        features, extras = self._widths
        self.view = np.zeros((room, features), np.float32)
        self.extras = np.zeros((room, extras), np.float32)
        self.teacher = np.zeros((room, 3), np.float32)
        self.child = np.full((room, 2), -1, np.int32)
        self.known = np.zeros((room, 2), bool)

    @property
    def bytes(self) -> int:
        """Bytes held by the arrays now (prompts not counted)."""
        return sum(getattr(self, name).nbytes for name in _ARRAYS)

    def clear(self) -> None:
        self.generation += 1
        self.size = 0
        self.roots.clear()
        self._allocate(min(self.nodes, 4096))

    def state(self) -> dict[str, NDArray[Any]]:
        """All that is remembered, as arrays, for a checkpoint."""
        arrays = {name: getattr(self, name)[: self.size].copy() for name in _ARRAYS}
        prompts = list(self.roots)
        arrays["root_tokens"] = np.array([token for prompt in prompts for token in prompt], np.int64)
        arrays["root_lengths"] = np.array([len(prompt) for prompt in prompts], np.int64)
        arrays["root_nodes"] = np.array(list(self.roots.values()), np.int64)
        return arrays

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Remember what `state` gave, and nothing else."""
        self.generation += 1
        self.size = len(state["known"])
        for name in _ARRAYS:
            setattr(self, name, np.array(state[name]))
        ends = np.cumsum(state["root_lengths"])
        prompts = np.split(state["root_tokens"], ends[:-1]) if len(ends) else []
        nodes = state["root_nodes"].tolist()
        self.roots = {tuple(prompt.tolist()): node for prompt, node in zip(prompts, nodes, strict=True)}

    def add(self, count: int) -> IntArray:
        """Numbers of `count` new nodes. Forgets everything first if they would not fit."""
        if self.size + count > self.nodes:
            self.clear()
        need = self.size + count
        if need > len(self.known):
            more = min(self.nodes, max(need, 2 * len(self.known))) - len(self.known)
            for name, fill in _ARRAYS.items():
                array = getattr(self, name)
                tail = np.full((more, *array.shape[1:]), fill, array.dtype)
                setattr(self, name, np.concatenate([array, tail]))
        self.size = need
        return np.arange(need - count, need)

    def root(self, prompt: tuple[int, ...]) -> int:
        if prompt not in self.roots:
            node = int(self.add(1)[0])  # may forget all roots
            self.roots[prompt] = node
        return self.roots[prompt]


_memories: WeakKeyDictionary[Pair, dict[tuple[int, int, int, int], Memory]] = WeakKeyDictionary()


def shared_memory(pair: Pair, top_k: int, extras: int, nodes: int, cap: int) -> Memory:
    """The process's one memory for this pair and this width of view: training and evaluation fill the same tree.

    Where a convention sets the last token before the cap on new tokens, each cap has its own.
    """
    of_pair = _memories.setdefault(pair, {})
    key = (top_k, extras, nodes, 0 if pair.conventions.last is None else cap)
    if key not in of_pair:
        of_pair[key] = Memory(distributions.width(top_k), extras, nodes)
    return of_pair[key]


class RememberedTexts(LiveTexts):
    """`LiveTexts` of a greedy game that asks the models only about prefixes never seen before."""

    def __init__(
        self,
        pair: Pair,
        rows: int,
        longest_prompt: int,
        max_new_tokens: int,
        *,
        memory: Memory | None = None,
        nodes: int = NODES,
        rule_tokens: int = 0,
        top_k: int = 5,
        hidden: bool = False,
    ) -> None:
        super().__init__(
            pair, rows, longest_prompt, max_new_tokens, rule_tokens=rule_tokens, top_k=top_k, hidden=hidden
        )
        need = 2 * rows * self.places
        if (nodes if memory is None else memory.nodes) < need:
            raise ValueError(
                f"Expected room for at least {need} prefixes with {rows} rows of {max_new_tokens} new tokens, "
                f"got nodes={nodes}: give more, or remember nothing (remember=0)."
            )
        self.memory = memory or shared_memory(pair, top_k, self.extras.shape[1], nodes, max_new_tokens)
        self._path = np.zeros((rows, self.places), np.int64)  # the node at each place of each row
        self._judged = np.zeros(rows, np.int64)  # places whose judgement already stands in this row's arrays
        self._generation = self.memory.generation

    def reset(
        self, rows: IntArray, prompts: Sequence[Sequence[int]], student_prompts: Sequence[Sequence[int]] | None = None
    ) -> None:
        super().reset(rows, prompts, student_prompts)
        self._judged[rows] = 0
        self._path[rows, 0] = [self.memory.root(tuple(prompt)) for prompt in student_prompts or prompts]
        self._check_generation()

    def rewind(self, rows: IntArray, lengths: IntArray) -> None:
        super().rewind(rows, lengths)
        self._judged[rows] = np.minimum(self._judged[rows], lengths + 1)

    def write(self, tokens: IntArray, continues: BoolArray) -> None:
        self._check_generation()  # another game on the same memory may have made it forget
        super().write(tokens, continues)
        rows = self._all if continues.all() else np.flatnonzero(continues)
        self._step(rows, self.length[rows])
        self._check_generation()

    def _step(self, rows: IntArray, length: IntArray) -> None:
        """Find the nodes of these rows at place `length`, one token behind nodes that are known."""
        place = length - 1
        way = (self.tokens[rows, place] != self.proposal[rows, place]).astype(np.int64)  # STUDENT or TEACHER
        parent = self._path[rows, place]
        node = self.memory.child[parent, way].astype(np.int64)
        missing = np.flatnonzero(node < 0)
        if missing.size:
            edges, inverse = np.unique(2 * parent[missing] + way[missing], return_inverse=True)
            generation = self.memory.generation
            added = self.memory.add(len(edges))
            node[missing] = added[inverse]
            if generation == self.memory.generation:
                self.memory.child[edges // 2, edges % 2] = added
        self._path[rows, length] = node

    def _check_generation(self) -> None:
        """If everything was forgotten, put the rows' own texts back as new paths; the models read them again."""
        while self._generation != self.memory.generation:
            self._generation = self.memory.generation
            self._forget(self._all)
            self._judged[:] = 0
            prompts = [tuple(prompt) for prompt in self._student.prompts]
            self._path[:, 0] = [self.memory.root(prompt) for prompt in prompts]
            for place in range(1, int(self.length.max()) + 1):
                rows = np.flatnonzero(self.length >= place)
                self._step(rows, np.full(len(rows), place))

    def look(self, rows: IntArray | None = None, uniforms: FloatArray | None = None) -> None:
        self._check_generation()
        selected = self._all if rows is None else rows
        node = self._path[selected, self.length[selected]]
        if not self.memory.known[node, STUDENT].all():
            unknown = np.flatnonzero(~self.memory.known[node, STUDENT])
            _, first = np.unique(node[unknown], return_index=True)  # of rows with one text, one reads it
            reading = unknown[np.sort(first)]
            fresh, readers = node[reading], selected[reading]
            super().look(readers)
            self.memory.view[fresh] = self.view[readers]
            self.memory.extras[fresh] = self.extras[readers]
            self.memory.known[fresh, STUDENT] = True
        self._show(selected, self.memory.view[node])
        if self.extras.shape[1]:
            self.extras[selected] = self.memory.extras[node]

    def read(self, rows: IntArray | None = None) -> None:
        self._check_generation()
        selected = self._all if rows is None else rows
        length, judged = self.length[selected], self._judged[selected]
        places = np.arange(int(length.max(initial=0)) + 1)
        which, place = np.nonzero((places >= judged[:, None]) & (places <= length[:, None]))
        owner = selected[which]
        node = self._path[owner, place]
        new = ~self.memory.known[node, TEACHER]
        if new.any():
            asking = np.unique(owner[new])
            _, first = np.unique(self._path[asking, self.length[asking]], return_index=True)
            self._ask_teacher(asking[np.sort(first)])  # of rows with one text, one
        self._recall(owner, place, node)
        self._judged[selected] = length + 1

    def _ask_teacher(self, rows: IntArray) -> None:
        """Let the live teacher read these rows anew where it lags behind, and remember what is new.

        What is known stays: read in other pieces, a prefix differs in the last bits, and a run must repeat.
        """
        super().read(rows)
        counts = self.length[rows] + 1
        owner, place = np.repeat(rows, counts), np.concatenate([np.arange(count) for count in counts])
        node = self._path[owner, place]
        new = ~self.memory.known[node, TEACHER]
        at = (owner[new], place[new])
        findings = np.stack((self.best[at], self.best_logprob[at], self.score[at]), axis=1)
        self.memory.teacher[node[new]] = findings
        self.memory.known[node[new], TEACHER] = True
        self._recall(owner, place, node)

    def _recall(self, owner: IntArray, place: IntArray, node: IntArray) -> None:
        """Put what is remembered of these nodes into the rows' arrays."""
        findings = self.memory.teacher[node]
        self.best[owner, place] = findings[:, 0]
        self.best_logprob[owner, place] = findings[:, 1]
        self.score[owner, place] = findings[:, 2]
