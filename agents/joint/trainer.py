"""Joint training: a student learns to write and, by constrained PCL, when to ask, under rules that it reads in words.

Every update takes texts (gold, and stored ones of the teacher) for the token probabilities and, from the second stage
on, something for the ask token: marked places of the teacher's texts (`Stage.CLONE`), then the student's own drafts
(`Stage.PCL`, see `agents.joint.gate`). Text alone would teach the gate to ask less exactly where the student is worse,
so it learns from own drafts in the end. The teacher need not be there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agents.averaging import WeightAverage
from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.joint import diagnostics
from agents.joint.config import JointConfig, JointData, Stage
from agents.joint.drafts import write_drafts
from agents.joint.frozen import Held, rule_tokens
from agents.joint.gate import any_ask, choices_of
from agents.joint.reading import Texts, anatomy_of, states
from agents.joint.sampling import Writer
from agents.joint.student import ask_log_odds, start_asking
from agents.joint.teacher import Teacher
from agents.joint.wording import FREE, NEVER, Wording
from agents.pcl.multiplier import Multiplier
from agents.supervised import make_optimizers, rate_factor
from tw_env.actions import Action
from tw_env.decoding.reading import RULE_TOKENS, RuleReader

Numbers = dict[str, float]
Log = Callable[[int, Numbers], object]
FITTED = 256  # texts on which the ask tokens' first rows are fitted
LEAST_ALONE = 0.1  # least weight of a text that is verified anyway, if `write_alone` holds


class Joint:
    """Training of one student.

    Args:
        student: with ask tokens, see `agents.joint.student`; trained in place, `averaged` returns its average.
        tokenizer: the student's.
        folder: where the checkpoint lives; a run that finds one there goes on from it. None keeps none.
        teacher: scores a few own drafts now and then, for the log alone (`agents.joint.diagnostics`).

    Attributes:
        update: how many updates are done.
        multiplier: lambda for every limit.

    Raises:
        ValueError: a student without ask tokens, or a checkpoint of other settings in `folder`.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        data: JointData,
        config: JointConfig,
        folder: Path | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        asks = getattr(student.config, "ask_token_ids", None)
        if not asks:
            raise ValueError("Expected a student with ask tokens, got one without: see agents.joint.student.")
        self.student, self.data, self.config, self.folder, self.ask = student, data, config, folder, int(asks[0])
        self.teacher, self._tokens = teacher, dict.fromkeys(("own", "gold", "teacher"), 0)  # of the current update
        student.eval().requires_grad_(True)
        self.wording = Wording(RuleReader(tokenizer), config.limits, config.extremes)
        longest = max(map(len, data.prompts)) + RULE_TOKENS + data.max_new_tokens
        self._writer = Writer(student, longest, data.max_new_tokens, data.end_tokens, self.ask, config.episodes)
        self._recipe = config.optimizer()
        self._pool = ThreadPoolExecutor(1)
        self._optimizers = make_optimizers(student, self._recipe, self._pool)
        limits = np.array(sorted(config.limits))
        self.multiplier = Multiplier(
            limits, step=config.price_step, least=config.price_least, largest=config.price_largest
        )
        first = np.clip(config.price * np.sqrt(0.1 / limits), config.price_least, config.price_largest)
        self.multiplier.integral, self.multiplier.value = first, first.copy()
        if not student.get_output_embeddings().weight[self.ask :].any():
            self._begin()
        read = rule_tokens(RuleReader(tokenizer), config.limits, (*data.prompts, *data.stored)) if config.frozen else []
        self._held = Held(student, [*range(self.ask, self.ask + len(asks)), *read])
        self._average = WeightAverage(student)
        self.update = 0 if folder is None else load_checkpoint(folder, self._state, self._restore)

    def _begin(self) -> None:
        """Let ask tokens that nothing was learnt for start near the rate that the rules allow."""
        generator = np.random.default_rng([self.config.seed, 2**31])
        chosen = generator.choice(self.data.writing, size=min(FITTED, len(self.data.writing)), replace=False)
        limits, words = self.wording.draw(generator, len(chosen))
        prompts = self.wording.before(words, [self.data.prompts[i] for i in chosen])
        texts = [[*prompt, *self.data.stored[i]] for prompt, i in zip(prompts, chosen, strict=True)]
        rate = float(np.mean(np.clip(limits, 0.01, 0.3)))
        if self.config.action == Action.VERIFY:  # asked at any place of a text
            rate /= 2
        start_asking(self.student, texts, [len(prompt) for prompt in prompts], rate)

    def run(self, log: Log | None = None, until: int | None = None) -> PreTrainedModel:
        """Train to the last update (or only to `until`) and return the student with its averaged weights."""
        last = min(self.config.updates, self.config.updates if until is None else until)
        while self.update < last:
            numbers = self._step()
            self.update += 1
            if self.folder is not None and (self.update % self.config.checkpoint_every == 0 or self.update == last):
                save_checkpoint(self.folder, self.update, self._state())
            if log is not None:
                log(self.update, numbers)
        return self.averaged()

    def averaged(self) -> PreTrainedModel:
        """A copy of the student with the averaged weights."""
        return self._average.applied(self.student).requires_grad_(False)

    # ---- one update ------------------------------------------------------------------------------------------------

    def _step(self) -> Numbers:
        generator = np.random.default_rng([self.config.seed, self.update])
        stage = self.config.stage(self.update)
        loss, numbers = self._write(generator, stage)
        if stage is Stage.PCL:
            gate, told = self._play(generator)
            loss = loss + self.config.gate_weight * gate
            numbers |= told
        loss.backward()
        if self.config.holds(stage):
            self._held.mask()
        nn.utils.clip_grad_norm_(self.student.parameters(), self.config.clip)
        rate = self.config.learning_rate * rate_factor(self.update, self._recipe)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        if self.config.holds(stage):
            self._held.put_back()
        self._average.follow(self.student, self.update + 1, self.config.ema_decay)
        return {"loss": loss.item(), "rate": rate, **numbers, **diagnostics.data_shares(self._tokens)}

    def _told(self, generator: np.random.Generator, prompts: Sequence[int]) -> tuple[Any, list[tuple[int, ...]]]:
        limits, words = self.wording.draw(generator, len(prompts))
        return limits, self.wording.before(words, [self.data.prompts[i] for i in prompts])

    def _logits(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """(steps, vocabulary) log-probabilities and (steps,) log-odds of asking where each token was written."""
        scores = anatomy_of(self.student).logits(states(self.student, texts)).float()
        shared = scores[:, : self.ask]
        return shared.log_softmax(-1), ask_log_odds(scores, self.ask)

    def _write(self, generator: np.random.Generator, stage: Stage) -> tuple[Tensor, Numbers]:
        """The loss of token probabilities, and in behaviour cloning of the ask token, on gold and stored texts."""
        config, data = self.config, self.data
        chosen = generator.choice(data.writing, size=config.texts)
        limits, prompts = self._told(generator, chosen.tolist())
        gold = generator.random(len(chosen)) < config.gold_share
        if stage is Stage.CLONE:
            gold[:] = False  # the marks are the teacher's
        outputs = [
            data.gold[i][int(generator.integers(len(data.gold[i])))] if right else data.stored[i]
            for i, right in zip(chosen.tolist(), gold.tolist(), strict=True)
        ]
        texts = Texts(prompts, outputs)
        logprobs, log_odds = self._logits(texts)
        of_step = texts.of_step.to(logprobs.device)
        nats = -logprobs.gather(1, texts.tokens.to(logprobs.device)[:, None])[:, 0]
        weights = torch.ones_like(nats)
        if config.write_alone and stage is Stage.PCL:
            alone = torch.sigmoid(-any_ask(log_odds.detach(), of_step, len(texts))).clamp(min=LEAST_ALONE)
            weights = alone[of_step]
        loss = (0.0 if config.holds(stage) else config.write_weight) * (weights * nats).sum() / weights.sum()
        numbers = {"nats": float(nats.detach().mean())}
        self._tokens["own"] = 0
        for name, theirs in (("gold", gold), ("teacher", ~gold)):
            at = torch.from_numpy(theirs)[texts.of_step].to(nats.device)
            self._tokens[name] = int(at.sum())
            if self._tokens[name]:
                numbers[f"nats/{name}"] = float(nats.detach()[at].mean())
        if stage is Stage.CLONE:
            marks = marked(nats.detach(), of_step, torch.from_numpy(limits).to(nats), config.action)
            clone = functional.binary_cross_entropy_with_logits(log_odds, marks)
            loss, numbers["clone"] = loss + clone, float(clone.detach())
        return loss, numbers

    def _play(self, generator: np.random.Generator) -> tuple[Tensor, Numbers]:
        """The gate's loss along the student's drafts; moves the prices."""
        config, data = self.config, self.data
        chosen = generator.choice(data.asking, size=config.episodes)
        limits, prompts = self._told(generator, chosen.tolist())
        stored = [data.stored[i] for i in chosen]
        drafts = write_drafts(self._writer, prompts, stored, chosen, data.quality, data.end_tokens)
        logprobs, log_odds = self._logits(drafts.texts)
        self._tokens["own"] = len(log_odds)
        prices = self.prices(limits)
        alpha = config.alpha_at(self.update)
        spendable = np.where(limits == FREE, 0.0, limits)
        choices, played = choices_of(drafts, log_odds, prices, spendable, config.action, alpha)
        if config.objective == "path_consistency":
            loss = choices.loss(alpha, config.least_reach)
        else:
            loss = -choices.expected_return(alpha)
        bound = (limits > NEVER) & (limits < FREE)
        violation = played.calls - spendable * played.tokens
        self.multiplier.update(limits[bound], violation[bound])
        numbers = {
            "gate": float(loss.detach()),
            "residual": float(choices.residual(alpha).detach().square().mean().sqrt()),
            "quality": float(played.quality.mean()),
            "quality/alone": float(drafts.quality[drafts.number == 0].mean()),
            "alpha": alpha,
        }
        if bound.any():
            numbers["calls_per_token"] = float(played.calls[bound].sum() / played.tokens[bound].sum())
        if (self.update + 1) % diagnostics.EVERY == 0:
            seed = [config.seed, self.update, diagnostics.EVERY]
            numbers |= diagnostics.play_numbers(drafts, choices.logit, prices, spendable, config.action, alpha, seed)
            numbers |= diagnostics.asking_numbers(drafts, log_odds, logprobs)
        if self.teacher is not None and (self.update + 1) % diagnostics.TEACHER_EVERY == 0:
            read = [data.prompts[i] for i in chosen]
            numbers |= diagnostics.teacher_numbers(drafts, read, log_odds, logprobs, self.teacher)
        return loss, numbers | diagnostics.ask_rates(limits, played) | self.multiplier.numbers()

    def prices(self, limits: np.ndarray) -> np.ndarray:
        """(n,) lambda: the largest for "never", none without a limit."""
        inside = self.multiplier.of(np.clip(limits, 1e-6, 1.0))
        return np.where(limits == NEVER, self.config.price_largest, inside)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {
            "config": asdict(self.config),
            "student": self.student.state_dict(),
            "average": self._average.weights,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "multiplier": self.multiplier.state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self._average.weights = state["average"]
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.multiplier.restore(state["multiplier"])


def marked(nats: Tensor, of_step: Tensor, limits: Tensor, action: Action) -> Tensor:
    """(steps,) 1 where behaviour cloning asks: where the student finds the teacher's token most surprising.

    So many places as each text's rule allows, of all places that share its limit; for `VERIFY` a text counts as marked
    at its most surprising place.
    """
    marks = torch.zeros_like(nats)
    for limit in limits.unique():
        at = (limits[of_step] == limit).nonzero()[:, 0]
        if limit <= NEVER:
            continue
        if action == Action.VERIFY and limit < FREE:
            texts = len(of_step[at].unique())
            wanted = min(round(float(limit) * len(at)), texts)
        else:
            wanted = round(min(float(limit), 1.0) * len(at))
        marks[at[nats[at].topk(min(wanted, len(at))).indices]] = 1.0
    return marks
