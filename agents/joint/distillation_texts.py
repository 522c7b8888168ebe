"""The texts of an update of distillation: drawn by every process alike, written and scored by whose share they are.

An update is split by prompts, so that the texts of one stay together. Numbers are drawn for all texts, so that a text
is the same whoever writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from agents.joint.distillation_config import DistillationConfig, DistillationData
from agents.joint.objective import Loss, Part
from agents.joint.parallel import Processes
from agents.joint.reading import Texts
from agents.joint.sampling import Writer
from agents.joint.teacher import ScoredTexts, Scores, Teacher, joined
from agents.supervised import Targets, epoch_batches

Places = NDArray[np.int64]
Found = tuple[Texts, Scores | None]
"""Texts of one part, and what the teacher says of them; gold ones are not scored."""


class UpdateTexts:
    """Draws the texts of each update.

    Args:
        student: writes its own ones; its weights may change between two updates, but not before this is made.
        teacher: scores them; not needed where there are none. processes: that share an update.

    Attributes:
        teacher_tokens: see `agents.joint.distillation.Distillation`; the same in all processes.

    Raises:
        ValueError: fewer prompts an update than parts of all processes, or a student that a `Writer` refuses.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        data: DistillationData,
        config: DistillationConfig,
        teacher: Teacher | None,
        processes: Processes,
    ) -> None:
        self._data, self._config, self._teacher, self._processes = data, config, teacher, processes
        self._device = student.device
        self._size = config.batch // config.texts_per_prompt
        processes.slices(self._size, config.accumulate)  # refuses too few
        longest, rows = max(map(len, data.prompts)), -(-config.batch // processes.count)
        # Before the first update: a session proves itself on the weights that it first sees.
        self._writer = Writer(student, longest, data.max_new_tokens, data.end_tokens, data.vocabulary, rows)
        self._seen: set[int] = set()  # stored texts that were counted
        self.teacher_tokens = 0

    def batches(self, update: int) -> Iterator[Places]:
        """Prompts of each update from this one on; prompts of a batch have similar lengths."""
        places: list[Targets] = [[[i]] for i in range(len(self._data.prompts))]  # a prompt's only "answer": its place
        per_epoch = -(-len(places) // self._size)
        epoch, skip = divmod(update, per_epoch)
        while True:
            batches = epoch_batches(self._data.prompts, places, self._size, self._config.seed, epoch)
            for batch in batches[skip:]:
                yield np.array([place for _, (place,) in batch])
            epoch, skip = epoch + 1, 0

    def parts(self, prompts: Places, update: int) -> list[tuple[Texts, Part]]:
        """The texts of each part of this process, the student's own ones first, and the same for the loss.

        A small batch may leave nothing for some parts; these are left out.
        """
        config = self._config
        generator = np.random.default_rng([config.seed, update])
        rows = np.repeat(np.arange(len(prompts)), config.texts_per_prompt)  # prompt of each text
        others = round((1.0 - config.own_share) * len(rows))
        stored = generator.permutation(len(prompts))[:others]  # at most one for each prompt
        mine = np.delete(rows, config.texts_per_prompt * stored)
        stretches = self._processes.stretches(len(prompts), config.accumulate)
        if config.loss is Loss.SUPERVISED:
            mine, found = mine[:0], self._gold(prompts, stored, stretches, generator)
        else:
            found = self._scored(prompts, mine, stored, stretches, generator)
        return [
            (texts, self._laid(texts, scores, within(mine, stretch), within(stored, stretch), stretch))
            for stretch, (texts, scores) in zip(stretches, found, strict=True)
            if len(texts)
        ]

    def _laid(self, texts: Texts, scores: Scores | None, mine: Places, stored: Places, stretch: slice) -> Part:
        """`mine` and `stored`: whose texts these are, among the prompts of the update."""
        group = torch.from_numpy(np.concatenate([mine, stored]) - stretch.start).to(self._device)
        own = torch.arange(len(texts), device=self._device) < len(mine)
        laid = texts.tokens.to(self._device), texts.starts.to(self._device), texts.of_step.to(self._device)
        on_device = None if scores is None else scores.to(self._device)
        return Part(*laid, own, group, stretch.stop - stretch.start, on_device)

    def _gold(
        self, prompts: Places, stored: Places, stretches: Sequence[slice], generator: np.random.Generator
    ) -> list[Found]:
        assert self._data.gold is not None
        answers = [self._data.gold[i] for i in prompts[stored]]
        drawn = {
            int(i): answer[int(generator.integers(len(answer)))] for i, answer in zip(stored, answers, strict=True)
        }
        chosen = [within(stored, stretch).tolist() for stretch in stretches]
        return [
            (Texts([self._data.prompts[prompts[i]] for i in here], [drawn[i] for i in here]), None) for here in chosen
        ]

    def _scored(
        self,
        prompts: Places,
        mine: Places,
        stored: Places,
        stretches: Sequence[slice],
        generator: np.random.Generator,
    ) -> list[Found]:
        edges = np.searchsorted(mine, [stretches[0].start, *(stretch.stop for stretch in stretches)])
        own = self._own(prompts[mine], generator, slice(edges[0], edges[-1]))
        self._count(prompts[stored])
        found: list[Found] = []
        for stretch, first, last in zip(stretches, edges - edges[0], edges[1:] - edges[0], strict=False):
            parts = [] if own is None or first == last else [own.take(range(first, last))]
            if (chosen := within(stored, stretch)).size:
                assert self._data.stored is not None
                parts.append(self._data.stored.take(prompts[chosen]))
            whole = joined(parts) if parts else None
            found.append((Texts([], []), None) if whole is None else (whole.texts, whole.scores))
        return found

    def _own(self, prompts: Places, generator: np.random.Generator, share: slice) -> ScoredTexts | None:
        """Those of this process's share; `prompts` are those of all own texts."""
        if not prompts.size:
            return None
        assert self._teacher is not None
        read = [self._data.prompts[i] for i in prompts]
        drawn = self._writer.sample(read, generator, self._config.temperature, part=share)
        self.teacher_tokens += int(self._processes.total([drawn.read_tokens]))
        return self._teacher.score(drawn) if len(drawn) else None

    def _count(self, prompts: Places) -> None:
        """Put the teacher's stored texts on the bill, each once."""
        fresh = [i for i in prompts.tolist() if i not in self._seen]
        if fresh:
            assert self._data.stored is not None
            self._seen.update(fresh)
            self.teacher_tokens += self._data.stored.texts.take(fresh).read_tokens

    def state(self) -> dict[str, Any]:
        """What was counted, for a checkpoint."""
        return {"seen": np.array(sorted(self._seen), np.int64), "teacher_tokens": self.teacher_tokens}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the count."""
        self._seen, self.teacher_tokens = set(state["seen"].tolist()), int(state["teacher_tokens"])


def within(places: Places, stretch: slice) -> Places:
    """Those that lie in a stretch, in their order."""
    return places[(places >= stretch.start) & (places < stretch.stop)]
