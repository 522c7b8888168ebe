"""Joint training: a student learns to write and, by constrained PCL, when to ask, under rules that it reads in words.

Every update takes texts (gold, and stored ones of the teacher) for the token probabilities and, from the second stage
on, something for the ask token: marked places of the teacher's texts (`Stage.CLONE`), then the student's own drafts
(`Stage.PCL`, see `agents.joint.gate`). Text alone would teach the gate to ask less exactly where the student is worse,
so it learns from own drafts in the end. The teacher need not be there.

Under `accelerate launch` several processes share an update, each also in parts (`accumulate`), in the given precision:
see `agents.joint.parallel`. The result is that of one process and one part, up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agents.averaging import WeightAverage
from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.joint import diagnostics
from agents.joint.config import JointConfig, JointData, Stage
from agents.joint.drafts import Drafts, write_drafts
from agents.joint.drift import Places, drift_numbers, gradients, own_places
from agents.joint.frozen import Held, rule_tokens
from agents.joint.gate import Choices, Played, choices_of
from agents.joint.parallel import Passes, Processes
from agents.joint.reading import Ids, Texts
from agents.joint.sampling import Writer
from agents.joint.student import start_asking
from agents.joint.teacher import Teacher
from agents.joint.told import ToldStudent
from agents.joint.training_cost import PLAY, TrainingCost
from agents.joint.whole import WholePlay
from agents.joint.wording import FREE, NEVER
from agents.joint.writing import Numbers, PartLoss, Writing
from agents.pcl.multiplier import Multiplier
from agents.supervised import make_optimizers, rate_factor
from tw_env.actions import Action
from tw_env.decoding.reading import RULE_TOKENS, RuleReader
from tw_env.vector_env import AssistedDecodingVectorEnv

Log = Callable[[int, Numbers], object]
FloatArray = NDArray[np.float64]
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
        multiplier: lambda for every limit.
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
        self.student, self.data, self.config, self.folder, self.teacher = student, data, config, folder, teacher
        self._processes = Processes(cpu=student.device.type == "cpu")
        self.told = ToldStudent(student.eval().requires_grad_(True), tokenizer, data, config)
        self._held = None
        if config.frozen:
            read = rule_tokens(RuleReader(tokenizer), config.limits, (*data.prompts, *data.stored))
            self._held = Held(student, student.config.ask_token_ids, read)
        self._writing = Writing(self.told, data, config, self._processes)
        self._whole = None
        if config.objective == "whole":
            if game is None or self._processes.count > 1:
                raise ValueError("Expected a game and one process for the whole residual; its walks are not shared.")
            self._whole = WholePlay(self.told, data, config, game)
        self._own_tokens = 0  # of the current update
        self._slices(config.texts)  # refuses too few
        rows = max(part.stop - part.start for part in self._slices(config.episodes))
        longest = max(map(len, data.prompts)) + RULE_TOKENS + data.max_new_tokens
        kept = rows if student.config.is_encoder_decoder else 0  # sources, from one draft to the next
        self._writer = Writer(student, longest, data.max_new_tokens, data.end_tokens, self.told.ask, rows, kept)
        self._recipe = config.optimizer()
        self._pool = ThreadPoolExecutor(1)
        self._optimizers = self._make_optimizers(student)
        limits = np.array(sorted(config.limits))
        self.multiplier = Multiplier(
            limits, step=config.price_step, least=config.price_least, largest=config.price_largest
        )
        first = np.clip(config.price * np.sqrt(0.1 / limits), config.price_least, config.price_largest)
        self.multiplier.integral, self.multiplier.value = first, first.copy()
        self._processes.agree(student.parameters())
        self._average = WeightAverage(student)
        self.cost = TrainingCost(teacher_tokens=data.teacher_tokens)
        self.update = 0 if folder is None else load_checkpoint(folder, self._state, self._restore, student.device)

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
        read = {} if self._whole is None else {PLAY: self._whole.read_tokens}
        self.cost += TrainingCost(self._processes.total([seconds]), 1, self._own_tokens, read)

    def averaged(self) -> PreTrainedModel:
        """A copy of the student with the averaged weights."""
        return self._average.applied(self.student).requires_grad_(False)

    # ---- one update ------------------------------------------------------------------------------------------------

    def _step(self) -> Numbers:
        generator = np.random.default_rng([self.config.seed, self.update])
        stage = self.config.stage(self.update)
        self._own_tokens = 0
        if stage is not Stage.START and not self.student.get_output_embeddings().weight[self.told.ask :].any():
            self._begin()
        write, numbers = self._writing.loss(generator, stage)
        gate, told, decided = None, Numbers(), None
        if stage is Stage.PCL:
            gate, told, decided = self._play(generator) if self._whole is None else self._walk(self._whole, generator)
        parts = range(self.config.accumulate)
        losses = [self._learn(write(part)) for part in parts]
        looks = decided is not None and diagnostics.due(self.update) and not self.config.frozen
        of_texts = gradients(self.student, self._processes) if looks else []
        if gate is not None:
            losses += [self._learn(self.config.gate_weight * gate(part)) for part in parts]
        self._processes.add_gradients(self.student.parameters())
        rate = self._set_rate()
        if looks and self._processes.main:
            assert decided is not None
            told |= drift_numbers(
                self.told, of_texts, self._optimizers, self._make_optimizers, decided, self.config.clip
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
        return {"loss": self._processes.total(losses), "rate": rate, **numbers, **told, **shares}

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

    def _slices(self, items: int) -> list[slice]:
        return self._processes.slices(items, self.config.accumulate)

    def _play(self, generator: np.random.Generator) -> tuple[PartLoss, Numbers, Places]:
        """The gate's loss along the student's drafts, and where it decides in the first part; moves the prices."""
        config, data, processes = self.config, self.data, self._processes
        chosen = generator.choice(data.asking, size=config.episodes)
        limits, prompts = self.told.prompts(generator, chosen.tolist())
        stored = [data.stored[i] for i in chosen]
        self._writer.forget()  # sources that an earlier student read
        slices = self._slices(len(chosen))
        parts = [
            write_drafts(self._writer, prompts[s], stored[s], chosen[s], data.worth, data.end_tokens) for s in slices
        ]
        self._own_tokens = int(processes.total([int((part.lengths - part.first).sum()) for part in parts]))
        prices = self.prices(limits)
        alpha = config.alpha_at(self.update)
        spendable = spendable_of(limits)

        def choose(part: int) -> tuple[Choices, Played]:
            log_odds = self.told.log_odds(parts[part].texts)
            one = slices[part]
            told = parts[part], log_odds, prices[one], spendable[one], config.action, alpha
            choices, _ = choices_of(*told)
            _, played = choices_of(*told, hard=True)  # prices answer to the play that is deployed
            return choices, played

        def mean(choices: Choices) -> Tensor:
            if config.objective == "path_consistency":
                return choices.loss(alpha, config.least_reach)
            return -choices.expected_return(alpha)

        passes = Passes(choose, len(parts))
        least = config.least_reach if config.objective == "path_consistency" else 0.0
        shares = processes.shares([float(choices.weights(least).sum()) for choices, _ in passes.seen])
        counts = processes.shares([len(choices.gain) for choices, _ in passes.seen])
        residuals = [float(choices.residual(alpha).detach().square().mean()) for choices, _ in passes.seen]
        rows = [
            np.stack([played.quality, played.calls, played.tokens, drafts.quality[drafts.number == 0]], axis=1)
            for drafts, (_, played) in zip(parts, passes.seen, strict=True)
        ]
        quality, calls, tokens, own_quality = processes.joined(np.concatenate(rows)).T  # (episodes,) of all processes
        numbers = {
            "gate": processes.mean(shares, [float(mean(choices).detach()) for choices, _ in passes.seen]),
            "residual": processes.mean(counts, residuals) ** 0.5,
            "quality/alone": float(own_quality.mean()) / data.scale,
            "alpha": alpha,
        } | self._charge(limits, Played(quality, calls, tokens))
        one = slices[0]
        read = [data.prompts[i] for i in chosen[one]]
        numbers |= self._look(parts[0], passes.seen[0][0], read, prices[one], spendable[one], alpha)
        return lambda part: shares[part] * mean(passes(part)[0]), numbers, own_places(parts[0])

    def _walk(self, whole: WholePlay, generator: np.random.Generator) -> tuple[PartLoss, Numbers, Places]:
        """The whole residual's loss along sampled texts, and where it decided in fresh ones; moves the prices."""
        alpha = self.config.alpha_at(self.update)
        fresh, limits, played = whole.play(generator)
        self._own_tokens = whole.own_tokens
        walks = whole.with_recent(fresh, generator)
        loss, numbers = whole.loss(walks, len(fresh), self.prices(walks.limits.double().numpy()), alpha)
        numbers |= {"gate": float(loss.detach()), "alpha": alpha} | self._charge(limits, played)
        return lambda part: loss, numbers, (fresh.texts, torch.ones(len(fresh.texts.tokens), dtype=torch.bool))

    def _charge(self, limits: FloatArray, played: Played) -> Numbers:
        """Move the prices by what play under these limits (episodes,) spent, and say what it came to."""
        bound = (limits > NEVER) & (limits < FREE)
        violation = played.calls - spendable_of(limits) * played.tokens
        self.multiplier.update(limits[bound], violation[bound])
        numbers = {"quality": float(played.quality.mean()) / self.data.scale}
        if bound.any():
            numbers["calls_per_token"] = float(played.calls[bound].sum() / played.tokens[bound].sum())
        return numbers | diagnostics.ask_rates(limits, played) | self.multiplier.numbers()

    def _look(
        self,
        drafts: Drafts,
        choices: Choices,
        read: Sequence[Ids],
        prices: FloatArray,
        spendable: FloatArray,
        alpha: float,
    ) -> Numbers:
        """What the log is told now and then of this process's first part; `read` are the prompts without rules."""
        numbers: Numbers = {}
        along = diagnostics.due(self.update)
        beside = self.teacher is not None and (self.update + 1) % diagnostics.TEACHER_EVERY == 0
        if not (self._processes.main and (along or beside)):
            return numbers
        with torch.no_grad():
            logprobs, log_odds = self.told.thoughts(drafts.texts)
        if along:
            seed, call = [self.config.seed, self.update, diagnostics.EVERY], self.config.action
            numbers |= diagnostics.play_numbers(drafts, choices.logit, prices, spendable, call, alpha, seed)
            numbers |= diagnostics.asking_numbers(drafts, log_odds, logprobs)
        if beside:
            assert self.teacher is not None
            numbers |= diagnostics.teacher_numbers(drafts, read, log_odds, logprobs, self.teacher)
        return numbers

    def prices(self, limits: FloatArray) -> FloatArray:
        """(n,) lambda: the largest for "never", none without a limit."""
        inside = self.multiplier.of(np.clip(limits, 1e-6, 1.0))
        return np.where(limits == NEVER, self.config.price_largest, inside)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {
            # Into how many parts an update is split may change when a run is resumed.
            "config": asdict(self.config) | {"accumulate": 1, "precision": self.told.precision.kind},
            "student": self.student.state_dict(),
            "average": self._average.weights,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "multiplier": self.multiplier.state(),
            "scaler": self.told.precision.state(),
            "whole": {} if self._whole is None else self._whole.state(),
            "cost": asdict(self.cost),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self._average.weights = state["average"]
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.multiplier.restore(state["multiplier"])
        self.told.precision.restore(state["scaler"])
        self.cost = TrainingCost(**state["cost"])
        if self._whole is not None:
            self._whole.restore(state["whole"])


def spendable_of(limits: FloatArray) -> FloatArray:
    """(n,) calls that a written token allows: none is counted where there is no limit, and none costs anything."""
    return np.where(limits == FREE, 0.0, limits)
