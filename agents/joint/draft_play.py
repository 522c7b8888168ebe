"""The gate's play along a student's own drafts: what it would do in the greedy game, and the loss of that.

The drafts are written, chained and priced here; how the gate's choices along them become a loss stands in
`agents.joint.gate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.joint import diagnostics
from agents.joint.config import JointConfig, JointData
from agents.joint.drafts import Drafts, write_drafts
from agents.joint.drift import own_places
from agents.joint.gate import Choices, Played, choices_of
from agents.joint.lesson import Lesson
from agents.joint.levels import Levels
from agents.joint.parallel import Passes, Processes
from agents.joint.prices import CallPrices, FloatArray, Numbers, spendable_of
from agents.joint.reading import Ids
from agents.joint.sampling import Writer
from agents.joint.teacher import Teacher
from agents.joint.told import ToldStudent
from tw_env.decoding.reading import RULE_TOKENS


@dataclass(frozen=True)
class Episodes:
    """Prompts of an update, each under a rule of its own.

    Attributes:
        chosen: (episodes,) which of `JointData.prompts`. told: token ids of each, behind its rule.
        limits: (episodes,) calls per token; infinite without a limit. prices: (episodes,) lambda.
        levels: (episodes,) nats beside the words, see `agents.joint.levels`.
    """

    chosen: NDArray[np.int64]
    told: Sequence[Ids]
    limits: FloatArray
    prices: FloatArray
    levels: FloatArray

    def take(self, part: slice) -> Episodes:
        """A stretch of them."""
        return Episodes(self.chosen[part], self.told[part], self.limits[part], self.prices[part], self.levels[part])


class DraftPlay:
    """Writes drafts with the current student and turns the gate's choices in them into a loss.

    Args:
        told: the student. processes: that share the update.
        teacher: scores a few drafts now and then, for the log alone.

    Raises:
        ValueError: fewer episodes than parts of all processes, or a student that a `Writer` refuses.
    """

    def __init__(
        self,
        told: ToldStudent,
        data: JointData,
        config: JointConfig,
        processes: Processes,
        teacher: Teacher | None = None,
    ) -> None:
        self._told, self._data, self._config, self._processes, self._teacher = told, data, config, processes, teacher
        self._slices = processes.slices(config.episodes, config.accumulate)
        self._levels = Levels(config.limits, config.level_rate)
        rows = max(part.stop - part.start for part in self._slices)
        longest = max(map(len, data.prompts)) + RULE_TOKENS + data.max_new_tokens
        kept = rows if told.model.config.is_encoder_decoder else 0  # sources, from one draft to the next
        self._writer = Writer(told.model, longest, data.max_new_tokens, data.end_tokens, told.ask, rows, kept)

    @property
    def read(self) -> dict[str, int]:
        """Nothing: calls are answered from the stored texts, and what the teacher reads for the log isn't counted."""
        return {}

    def lesson(self, generator: np.random.Generator, update: int, prices: CallPrices) -> Lesson:
        """The gate's loss along the student's drafts; moves the prices."""
        config, processes = self._config, self._processes
        alpha = config.alpha_at(update)
        chosen = generator.choice(self._data.asking, size=config.episodes)
        limits, told = self._told.prompts(generator, chosen.tolist())
        self._writer.forget()  # sources that an earlier student read
        episodes = Episodes(chosen, told, limits, prices.of(limits), self._levels.of(limits))
        parts = [episodes.take(part) for part in self._slices]
        drafts = [self.drafts(part.told, part.chosen) for part in parts]
        own_tokens = int(processes.total([int((one.lengths - one.first).sum()) for one in drafts]))
        passes = Passes(lambda part: self._choose(drafts[part], parts[part], alpha), len(parts))
        least = config.least_reach if config.objective == "path_consistency" else 0.0
        shares = processes.shares([float(choices.weights(least).sum()) for choices, _ in passes.seen])
        counts = processes.shares([len(choices.gain) for choices, _ in passes.seen])
        residuals = [float(choices.residual(alpha).detach().square().mean()) for choices, _ in passes.seen]
        rows = []
        for one, (seen, played) in zip(drafts, passes.seen, strict=True):
            alone = one.quality[one.number == 0]
            rows.append([played.quality, played.calls, played.tokens, alone, *self._missing(seen, alpha)])
        everywhere = processes.joined(np.concatenate(rows, axis=1).T).T  # (numbers, episodes) of all processes
        quality, calls, tokens, own_quality, missing, weights = everywhere
        means = [float(self._mean(choices, alpha).detach()) for choices, _ in passes.seen]
        numbers = {
            "gate": processes.mean(shares, means),
            "residual": processes.mean(counts, residuals) ** 0.5,
            "quality/alone": float(own_quality.mean()) / self._data.scale,
            "alpha": alpha,
        } | prices.charge(limits, Played(quality, calls, tokens))
        self._levels.update(limits, missing, weights)
        numbers |= self._levels.numbers()
        numbers |= self._look(update, drafts[0], parts[0], passes.seen[0][0], alpha)

        def loss(part: int) -> Tensor:
            return shares[part] * self._mean(passes(part)[0], alpha)

        return Lesson(loss, numbers, own_places(drafts[0]), own_tokens)

    def drafts(self, told: Sequence[Ids], chosen: NDArray[np.int64]) -> Drafts:
        """What the student writes behind rules in words, `chosen` (episodes,) being the prompts without them."""
        stored, worth = [self._data.stored[i] for i in chosen], self._data.worth
        return write_drafts(self._writer, told, stored, chosen, worth, self._data.end_tokens)

    def _choose(self, drafts: Drafts, episodes: Episodes, alpha: float) -> tuple[Choices, Played]:
        """The gate's choices in the drafts, with gradients, and the play that is deployed: prices answer to it."""
        log_odds = self._told.log_odds(drafts.texts)
        spendable = spendable_of(episodes.limits)
        given = drafts, log_odds, episodes.prices, spendable, self._config.action, alpha, episodes.levels
        choices, _ = choices_of(*given)
        _, played = choices_of(*given, hard=True)
        return choices, played

    def _missing(self, choices: Choices, alpha: float) -> tuple[FloatArray, FloatArray]:
        """(episodes,) weighted sums of the nats that its choices' log-odds miss, and of the weights."""
        weights = choices.weights(self._config.least_reach).detach().double().cpu().numpy()
        nats = choices.unlearnt(alpha, self._config.gate_span).detach().double().cpu().numpy() / alpha
        episodes = int(choices.episode.max()) + 1  # each has a choice
        sums = [np.bincount(choices.episode, one, minlength=episodes) for one in (weights * nats, weights)]
        return sums[0].astype(np.float64), sums[1].astype(np.float64)

    def _mean(self, choices: Choices, alpha: float) -> Tensor:
        """The loss of a part, a mean over its choices."""
        if self._config.objective == "path_consistency":
            return choices.loss(alpha, self._config.least_reach, self._config.gate_span)
        return -choices.expected_return(alpha)

    def _look(self, update: int, drafts: Drafts, episodes: Episodes, choices: Choices, alpha: float) -> Numbers:
        """What the log is told now and then of this process's first part."""
        numbers: Numbers = {}
        along = diagnostics.due(update)
        beside = self._teacher is not None and (update + 1) % diagnostics.TEACHER_EVERY == 0
        if not (self._processes.main and (along or beside)):
            return numbers
        with torch.no_grad():
            logprobs, log_odds = self._told.thoughts(drafts.texts)
        if along:
            seed, call = [self._config.seed, update, diagnostics.EVERY], self._config.action
            prices, spendable = episodes.prices, spendable_of(episodes.limits)
            numbers |= diagnostics.play_numbers(drafts, choices.logit, prices, spendable, call, alpha, seed)
            numbers |= diagnostics.asking_numbers(drafts, log_odds, logprobs)
        if beside:
            assert self._teacher is not None
            read = [self._data.prompts[i] for i in episodes.chosen]  # without rules
            numbers |= diagnostics.teacher_numbers(drafts, read, log_odds, logprobs, self._teacher)
        return numbers

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return self._levels.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` kept."""
        self._levels.restore(state)
