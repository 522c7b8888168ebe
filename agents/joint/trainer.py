"""Joint training: a student learns to write and, by constrained PCL, when to ask, under rules that it reads in words.

Every update takes texts (gold, and stored ones of the teacher) for the token probabilities and, from the second stage
on, something for the ask tokens: marked places of the teacher's texts (`Stage.CLONE`), then the student's own drafts,
too (`Stage.PCL`, see `agents.joint.gate`). Text alone would teach the gate to ask less exactly where the student is
worse, so it learns from own drafts in the end. The teacher need not be there.

Under `accelerate launch` several processes share an update, each also in parts (`accumulate`), in the given precision:
see `agents.joint.parallel`. The result is that of one process and one part, up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agents.averaging import WeightAverage
from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.joint import diagnostics
from agents.joint.config import JointConfig, JointData, Stage
from agents.joint.draft_play import DraftPlay
from agents.joint.drift import drift_numbers, gradients
from agents.joint.frozen import Held, rule_tokens
from agents.joint.lesson import Play
from agents.joint.parallel import Processes
from agents.joint.prices import CallPrices
from agents.joint.reading import Texts
from agents.joint.student import start_asking
from agents.joint.teacher import Teacher
from agents.joint.told import ToldStudent
from agents.joint.training_cost import TrainingCost
from agents.joint.whole import WholePlay
from agents.joint.writing import Numbers, Writing
from agents.supervised import make_optimizers, rate_factor
from tw_env.actions import Action
from tw_env.decoding.reading import RuleReader
from tw_env.vector_env import AssistedDecodingVectorEnv

Log = Callable[[int, Numbers], object]
FITTED = 1024  # texts on which the ask tokens' first rows are fitted


class Joint:
    """Training of one student.

    Args:
        student: with ask tokens, see `agents.joint.student`; trained in place, `averaged` returns its average.
        tokenizer: the student's.
        folder: where the checkpoint lives; a run that finds one there goes on from it. None keeps none. The main
            process writes it, all read it; `accumulate` may change in between.
        teacher: scores a few own drafts now and then, for the log alone (`agents.joint.diagnostics`).
        game: of this very student and its teacher, for the whole residual alone, see `agents.joint.whole.WholePlay`.

    Attributes:
        update: how many updates are done.
        told: the student as it reads rules.
        prices: lambda for every limit.
        cost: what the updates took so far, before a break, too.

    Raises:
        ValueError: a student without ask tokens, a checkpoint of other settings in `folder`, fewer texts or episodes
            than parts of all processes, or the whole residual without a game or with several processes.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        data: JointData,
        config: JointConfig,
        folder: Path | None = None,
        teacher: Teacher | None = None,
        game: AssistedDecodingVectorEnv | None = None,
    ) -> None:
        self.student, self.data, self.config, self.folder = student, data, config, folder
        self._processes = Processes(cpu=student.device.type == "cpu")
        self.told = ToldStudent(student.eval().requires_grad_(True), tokenizer, data, config)
        self._held = None
        if config.frozen:
            read = rule_tokens(RuleReader(tokenizer), config.limits, (*data.prompts, *data.stored))
            self._held = Held(student, student.config.ask_token_ids, read)
        self._writing = Writing(self.told, data, config, self._processes)
        self._processes.slices(config.texts, config.accumulate)  # refuses too few
        self._play = self._make_play(teacher, game)
        self._own_tokens = 0  # of the current update
        self._recipe = config.optimizer()
        self._pool = ThreadPoolExecutor(1)
        self._optimizers = self._make_optimizers(student)
        self.prices = CallPrices(config, data.scale)
        self._processes.agree(student.parameters())
        self._average = WeightAverage(student)
        self.cost = TrainingCost(teacher_tokens=data.teacher_tokens)
        self.update = 0 if folder is None else load_checkpoint(folder, self._state, self._restore, student.device)

    def _make_play(self, teacher: Teacher | None, game: AssistedDecodingVectorEnv | None) -> Play:
        if self.config.objective != "whole":
            return DraftPlay(self.told, self.data, self.config, self._processes, teacher)
        if game is None or self._processes.count > 1:
            raise ValueError("Expected a game and one process for the whole residual; its walks are not shared.")
        return WholePlay(self.told, self.data, self.config, game)

    def _begin(self) -> None:
        """Let ask tokens that nothing was learnt for start near the rate that the rules allow.

        Not before the start is over: a student's doubts are worth knowing once it can write.
        """
        generator = np.random.default_rng([self.config.seed, 2**31])
        chosen = generator.choice(self.data.writing, size=min(FITTED, len(self.data.writing)), replace=False)
        limits, prompts = self.told.prompts(generator, chosen.tolist())
        texts = Texts(prompts, [self.data.stored[i] for i in chosen])
        rate = float(np.mean(np.clip(limits, 0.01, 0.3)))
        if self.config.action == Action.VERIFY:  # asked at any place of a text
            rate /= 2
        start_asking(self.student, texts, rate)
        self._processes.agree(self.student.parameters())
        head = self.student.get_output_embeddings().weight
        name = next(name for name, parameter in self.student.named_parameters() if parameter is head)
        self._average.weights[name][self.told.ask :] = head.detach()[self.told.ask :]

    def run(self, log: Log | None = None, until: int | None = None) -> PreTrainedModel:
        """Train to the last update (or only to `until`) and return the student with its averaged weights."""
        last = min(self.config.updates, self.config.updates if until is None else until)
        while self.update < last:
            began = time.process_time()
            numbers = self._step()
            self.update += 1
            self._count(time.process_time() - began)
            if self.folder is not None and (self.update % self.config.checkpoint_every == 0 or self.update == last):
                if self._processes.main:
                    save_checkpoint(self.folder, self.update, self._state())
                self._processes.wait()
            if log is not None:
                log(self.update, numbers)
        return self.averaged()

    def _count(self, seconds: float) -> None:
        """Put an update on the bill."""
        self.cost += TrainingCost(self._processes.total([seconds]), 1, self._own_tokens, self._play.read)

    def averaged(self) -> PreTrainedModel:
        """A copy of the student with the averaged weights."""
        return self._average.applied(self.student).requires_grad_(False)

    # ---- one update ------------------------------------------------------------------------------------------------

    def _step(self) -> Numbers:
        generator = np.random.default_rng([self.config.seed, self.update])
        stage = self.config.stage(self.update)
        if stage is not Stage.START and not self.student.get_output_embeddings().weight[self.told.ask :].any():
            self._begin()
        write, numbers = self._writing.loss(generator, stage)
        lesson = self._play.lesson(generator, self.update, self.prices) if stage is Stage.PCL else None
        self._own_tokens = 0 if lesson is None else lesson.own_tokens
        parts = range(self.config.accumulate)
        losses = [self._learn(write(part)) for part in parts]
        looks = lesson is not None and diagnostics.due(self.update) and not self.config.frozen
        of_texts = gradients(self.student, self._processes) if looks else []
        if lesson is not None:
            numbers |= lesson.numbers
            losses += [self._learn(self.config.gate_weight * lesson.loss(part)) for part in parts]
        self._processes.add_gradients(self.student.parameters())
        rate = self._set_rate()
        if lesson is not None and looks and self._processes.main:
            numbers |= drift_numbers(
                self.told, of_texts, self._optimizers, self._make_optimizers, lesson.places, self.config.clip
            )
        held = self._held if self.config.holds(stage) else None
        if held is not None:
            held.mask()
        sound = self.told.precision.clip(self.student.parameters(), self._optimizers, self.config.clip)
        for optimizer in self._optimizers:
            if sound:
                optimizer.step()
            optimizer.zero_grad()
        if held is not None:
            held.put_back()
        self._average.follow(self.student, self.update + 1, self.config.ema_decay)
        shares = diagnostics.data_shares({"own": self._own_tokens, **self._writing.tokens})
        return {"loss": self._processes.total(losses), "rate": rate, **numbers, **shares}

    def _learn(self, loss: Tensor) -> float:
        """Add a part's gradients, and say its loss."""
        self.told.precision.backward(loss)
        return loss.item()

    def _set_rate(self) -> float:
        """Give the optimisers the update's rate."""
        rate = self.config.learning_rate * rate_factor(self.update, self._recipe)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("rate", 1.0)
        return rate

    def _make_optimizers(self, student: PreTrainedModel) -> list[torch.optim.Optimizer]:
        return make_optimizers(student, self._recipe, self._pool)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {
            # Into how many parts an update is split may change when a run is resumed.
            "config": asdict(self.config)
            | {"accumulate": 1, "precision": self.told.precision.kind, "doubt": self.told.doubt},
            "student": self.student.state_dict(),
            "average": self._average.weights,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "multiplier": self.prices.multiplier.state(),
            "scaler": self.told.precision.state(),
            "whole": self._play.state(),
            "cost": asdict(self.cost),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self._average.weights = state["average"]
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.prices.multiplier.restore(state["multiplier"])
        self.told.precision.restore(state["scaler"])
        self.cost = TrainingCost(**state["cost"])
        self._play.restore(state["whole"])
