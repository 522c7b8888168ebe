"""Distillation of a student, one loop for every loss: the same data, updates and teacher tokens, another loss.

Texts are gold, written by the teacher beforehand (`ScoredTexts`), or the student's own, sampled at each update and
scored by the teacher. Losses on stored texts need no live teacher.

Under `accelerate launch` several processes share an update, each also in parts (`accumulate`), in the given precision:
see `agents.joint.parallel`. The result is that of one process and one part, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from agents.averaging import WeightAverage
from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.joint.distillation_config import DistillationConfig, DistillationData
from agents.joint.distillation_texts import UpdateTexts
from agents.joint.objective import (
    Numbers,
    Part,
    Seen,
    Settings,
    numbers_of,
    objective,
    value_gains,
    value_loss,
    weight,
)
from agents.joint.parallel import Precision, Processes
from agents.joint.reading import Texts, log_distributions, states
from agents.joint.teacher import Teacher
from agents.joint.values import ValueHead
from agents.supervised import make_optimizers, rate_factor

Log = Callable[[int, Numbers], object]


@dataclass(frozen=True)
class Learnt:
    """What is left of a part once it was learnt from.

    Attributes:
        loss: its share of the update's. seen: see `numbers_of`.
        hidden: (steps, width) states; None where V is no network. gains: (steps,) of `value_gains`, with them.
    """

    part: Part
    loss: float
    seen: Seen
    hidden: Tensor | None = None
    gains: Tensor | None = None


class Distillation:
    """Training of one student with one loss.

    Args:
        student: a causal model, trained in place; `averaged` returns its moving average.
        data: prompts and stored texts. config: the loss and the rest.
        teacher: scores the student's own texts; not needed where there are none.
        folder: where the checkpoint lives; a run that finds one there goes on from it. None keeps none. The main
            process writes it, all read it; `accumulate` and the number of processes may change in between.

    Attributes:
        update: how many updates are done.

    Raises:
        ValueError: settings and data that don't fit, a checkpoint of other settings in `folder`, or fewer prompts an
            update than parts of all processes.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        data: DistillationData,
        config: DistillationConfig,
        teacher: Teacher | None = None,
        folder: Path | None = None,
    ) -> None:
        config.check()
        data.check(config, teacher)
        self.student, self.config, self.folder = student, config, folder
        self._processes = Processes(cpu=student.device.type == "cpu")
        student.eval().requires_grad_(True)  # no dropout: log p_S is that of the model which samples
        self._texts = UpdateTexts(student, data, config, teacher, self._processes)
        self._vocabulary = data.vocabulary
        self._settings = Settings(config.loss, config.beta, config.path_lengths)
        self._precision = Precision(config.precision, student.device)
        self._recipe = config.recipe()
        self.value = ValueHead(student.get_input_embeddings().embedding_dim, seed=config.seed)
        self.value.to(student.device, student.dtype)
        self._pool = ThreadPoolExecutor(1)
        self._optimizers = make_optimizers(student, self._recipe, self._pool)
        self._value_optimizer = torch.optim.Adam(self.value.parameters(), config.value_lr)
        self._processes.agree(student.parameters())
        self._average = WeightAverage(student)
        self.update = 0 if folder is None else load_checkpoint(folder, self._state, self._restore, student.device)
        self._processes.wait()  # nobody drops the checkpoint that another still has to read

    @property
    def teacher_tokens(self) -> int:
        """What the teacher read for the texts that were learnt from, stored ones included, each stored text once."""
        return self._texts.teacher_tokens

    def run(self, log: Log | None = None, until: int | None = None) -> PreTrainedModel:
        """Train to the last update (or only to `until`) and return the student with its averaged weights."""
        last = min(self.config.updates, self.config.updates if until is None else until)
        for prompts in self._texts.batches(self.update):
            if self.update >= last:
                break
            numbers = self._step(prompts)
            self.update += 1
            if self.folder is not None and (self.update % self.config.checkpoint_every == 0 or self.update == last):
                if self._processes.main:
                    save_checkpoint(self.folder, self.update, self._state())
                self._processes.wait()
            if log is not None:
                log(self.update, numbers)
        return self.averaged()

    def averaged(self) -> PreTrainedModel:
        """A copy of the student with the averaged weights."""
        return self._average.applied(self.student).requires_grad_(False)

    # ---- one update ------------------------------------------------------------------------------------------------

    def _step(self, prompts: NDArray[np.int64]) -> Numbers:
        parts = self._texts.parts(prompts, self.update)
        shares = self._processes.shares([weight(self._settings, part) for _, part in parts])
        learnt = [self._learn(texts, part, share) for (texts, part), share in zip(parts, shares, strict=True)]
        if self._move() and self.config.learns_value:
            self._fit_value(learnt)
        self._average.follow(self.student, self.update + 1, self.config.ema_decay)
        loss = self._processes.total([one.loss for one in learnt])
        numbers = numbers_of(self._joined([one.seen for one in learnt]))
        return {"loss": loss, "teacher_tokens": float(self.teacher_tokens), **numbers}

    def _learn(self, texts: Texts, part: Part, share: float) -> Learnt:
        """Add the gradients of a part that has this share of the update."""
        with self._precision.autocast():
            hidden = states(self.student, texts)
            logprobs = log_distributions(self.student, hidden, self._vocabulary)
        hidden = hidden.detach().to(self.student.dtype)
        learns_value = self.config.learns_value
        values = self.value(hidden).float() if learns_value else hidden.new_zeros(len(hidden))
        loss, seen = objective(self._settings, logprobs, values, part)
        loss = share * loss
        self._precision.backward(loss)
        if not learns_value:
            return Learnt(part, loss.item(), seen)
        return Learnt(part, loss.item(), seen, hidden, value_gains(self._settings, logprobs, part))

    def _move(self) -> bool:
        """Take the update's step, all processes alike; False where gradients overflowed in fp16 and there was none."""
        factor = rate_factor(self.update, self._recipe)
        optimizers = [(optimizer, self.config.learning_rate) for optimizer in self._optimizers]
        networks = [self.student]
        if self.config.learns_value:
            optimizers.append((self._value_optimizer, self.config.value_lr))
            networks.append(self.value)
        for network in networks:
            self._processes.add_gradients(network.parameters())
        own, *apart = (network.parameters() for network in networks)
        sound = self._precision.clip(own, [optimizer for optimizer, _ in optimizers], self.config.clip, *apart)
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            if sound:
                optimizer.step()
            optimizer.zero_grad()
        return sound

    def _fit_value(self, learnt: Sequence[Learnt]) -> None:
        """After the student's step, so that the baseline of a text never knows how that text went on."""
        own = [one for one in learnt if one.part.own.any()]
        counts = [int(one.part.own[one.part.of_step].sum()) for one in own]
        if not self._processes.total(counts):
            return
        shares = self._processes.shares(counts)
        for _ in range(self.config.value_steps):
            for one, share in zip(own, shares, strict=True):
                assert one.hidden is not None
                assert one.gains is not None
                values = self.value(one.hidden).float()
                (share * value_loss(self._settings, one.gains, values, one.part)).backward()
            self._processes.add_gradients(self.value.parameters())
            self._value_optimizer.step()
            self._value_optimizer.zero_grad()

    def _joined(self, seen: list[Seen]) -> Seen:
        """What the parts of all processes have seen, laid end to end."""
        arrays = [{name: each.cpu().numpy() for name, each in one.items()} for one in seen]
        every = self._processes.gathered(arrays)
        return {name: torch.from_numpy(np.concatenate([one[name] for one in every])) for name in every[0]}

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {
            "config": self.config.deciding(self._precision.kind),
            "student": self.student.state_dict(),
            "average": self._average.weights,
            "value": self.value.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in (*self._optimizers, self._value_optimizer)],
            "scaler": self._precision.state(),
            **self._texts.state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self._average.weights = state["average"]
        self.value.load_state_dict(state["value"])
        for optimizer, saved in zip((*self._optimizers, self._value_optimizer), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._precision.restore(state["scaler"])
        self._texts.restore(state)
