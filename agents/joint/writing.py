"""What joint training learns from gold and stored texts: how to write, and in behaviour cloning where to ask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as binary_nats

from agents.joint.config import JointConfig, JointData, Stage
from agents.joint.marking import alone, marked
from agents.joint.parallel import Passes, Processes
from agents.joint.reading import Texts
from agents.joint.told import ToldStudent

Numbers = dict[str, float]
Marks = tuple[Tensor, Tensor]
"""Steps of a part that the teacher wrote, and 1 for those where it shall be asked, 0 for the others."""
PartLoss = Callable[[int], Tensor]
"""The loss of one part of this process's share of an update, with gradients."""


def clone_nats(log_odds: Tensor, marks: Marks) -> Tensor:
    """Mean cross-entropy of asking (steps,) against marks; 0 where there are none."""
    at, asked = marks
    return binary_nats(log_odds[at], asked, reduction="sum") / max(len(at), 1)


class Writing:
    """The loss of an update's texts.

    Args:
        told: the student. processes: that share the update.

    Attributes:
        tokens: of the last update's gold texts and of the teacher's, those of all processes.
    """

    def __init__(self, told: ToldStudent, data: JointData, config: JointConfig, processes: Processes) -> None:
        self._told, self._data, self._config, self._processes = told, data, config, processes
        self.tokens = {"gold": 0, "teacher": 0}

    def loss(self, generator: np.random.Generator, stage: Stage) -> tuple[PartLoss, Numbers]:
        """The loss of each part, and numbers for the log: of token probabilities, and of asking where it is cloned."""
        config, processes = self._config, self._processes
        limits, gold, texts = self._texts(generator, stage)
        slices = processes.slices(len(texts), config.accumulate)
        parts = [texts.take(range(*part.indices(len(texts)))) for part in slices]
        passes = Passes(lambda part: self._told.nats(parts[part]), len(parts))
        seen = [(nats.detach(), log_odds.detach()) for nats, log_odds in passes.seen]
        weights = [torch.ones_like(nats) for nats, _ in seen]
        if config.write_alone and stage is Stage.PCL:
            weights = [alone(log_odds, part) for (_, log_odds), part in zip(seen, parts, strict=True)]
        shares = processes.shares([float(weight.sum()) for weight in weights])
        every = torch.from_numpy(processes.joined(torch.cat([nats for nats, _ in seen]).cpu().numpy()))  # (steps,)
        numbers = {"nats": float(every.mean())} | self._count(every, gold[texts.of_step.numpy()])
        marks, places = None, [0.0] * len(parts)
        clone_weight = config.cloning(stage)
        if clone_weight > 0:
            marks = self._marks(texts, ~gold, limits, slices, every)
            places = processes.shares([len(at) for at, _ in marks])
            clones = [float(clone_nats(log_odds, m)) for (_, log_odds), m in zip(seen, marks, strict=True)]
            numbers["clone"] = processes.mean(places, clones)
        write_weight = 0.0 if config.holds(stage) else config.write_weight

        def loss(part: int) -> Tensor:
            nats, log_odds = passes(part)
            weight = weights[part]
            writing = shares[part] * (write_weight * (weight * nats).sum() / weight.sum())
            if marks is None:
                return writing
            return writing + clone_weight * places[part] * clone_nats(log_odds, marks[part])

        return loss, numbers

    def _texts(
        self, generator: np.random.Generator, stage: Stage
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], Texts]:
        """(texts,) limits, (texts,) which are gold, and the gold and stored texts of an update, of all processes."""
        config, data = self._config, self._data
        chosen = generator.choice(data.writing, size=config.texts)
        limits, prompts = self._told.prompts(generator, chosen.tolist())
        gold = generator.random(len(chosen)) < config.gold_share
        if config.cloning(stage) > 0:
            gold[0] = False  # what asking is cloned from
        outputs = [
            data.gold[i][int(generator.integers(len(data.gold[i])))] if right else data.stored[i]
            for i, right in zip(chosen.tolist(), gold.tolist(), strict=True)
        ]
        return limits, gold, Texts(prompts, outputs)

    def _marks(
        self,
        texts: Texts,
        theirs: NDArray[np.bool_],
        limits: NDArray[np.float64],
        slices: list[slice],
        nats: Tensor,
    ) -> list[Marks]:
        """Of each part, see `marked`: the most surprising places among the teacher's texts of all processes."""
        of_step, device = texts.of_step, self._told.model.device
        at = torch.from_numpy(theirs)[of_step].nonzero()[:, 0]
        marks = marked(nats[at], of_step[at], torch.from_numpy(limits).to(nats), self._config.action)
        found = []
        for part in slices:
            first, last = int(texts.starts[part.start]), int(texts.starts[part.stop])
            mine = (at >= first) & (at < last)
            found.append(((at[mine] - first).to(device), marks[mine].to(device)))
        return found

    def _count(self, nats: Tensor, gold: NDArray[np.bool_]) -> Numbers:
        """Mean nats of the gold and of the teacher's tokens, from (steps,) nats and whose each is."""
        numbers = {}
        for name, theirs in (("gold", gold), ("teacher", ~gold)):
            self.tokens[name] = int(theirs.sum())
            if theirs.any():
                numbers[f"nats/{name}"] = float(nats[torch.from_numpy(theirs)].mean())
        return numbers
