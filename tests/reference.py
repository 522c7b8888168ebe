"""A slow and plain reference of the game for one row: full forward passes, lists and dicts.

It is written from the description of the game and shares no code with it but enums and `Constraint`. Tests
play the batched game beside it and compare everything that can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tw_env.actions import Action, Writer
from tw_env.rules import Constraint, Quantity

Context = tuple[int, ...]
LOWEST = -20.0  # nats, where observed log-probabilities are cut off


@dataclass(frozen=True)
class Spec:
    """What is fixed about the game; `latency` and `prices` hold the numbers by name."""

    actions: tuple[Action, ...]
    end_tokens: frozenset[int]
    cap: int
    max_steps: int
    sampling: bool = False
    accept: tuple[str, float] = ("exact", 0.0)
    weights: Mapping[str, float] = field(default_factory=lambda: {"quality": 1.0})
    paid_at_once: bool = False  # own tokens in their own step, instead of when they are settled
    hard: bool = False
    latency: Mapping[str, float] | None = None
    prices: Mapping[str, float] | None = None
    top_k: int = 5
    hidden: bool = False


class Models:
    """Next-token log-probabilities of both models, from whole texts."""

    def __init__(self, student: Any, teacher: Any, vocabulary: int) -> None:
        self._models, self.vocabulary = {"student": student, "teacher": teacher}, vocabulary
        self._known: dict[tuple[str, Context], tuple[list[float], list[float]]] = {}

    def student(self, context: Context) -> list[float]:
        return self._ask("student", context)[0]

    def teacher(self, context: Context) -> list[float]:
        return self._ask("teacher", context)[0]

    def hidden(self, context: Context) -> list[float]:
        """The student's last hidden state."""
        return self._ask("student", context)[1]

    def _ask(self, name: str, context: Context) -> tuple[list[float], list[float]]:
        if (name, context) not in self._known:
            with torch.no_grad():
                out = self._models[name](input_ids=torch.tensor([context]), output_hidden_states=True)
            logprobs = out.logits[0, -1, : self.vocabulary].double().log_softmax(-1).tolist()
            self._known[name, context] = logprobs, out.hidden_states[-1][0, -1].tolist()
        return self._known[name, context]


@dataclass
class Token:
    """A written token; `place` is what the models say before it."""

    token: int
    writer: Writer
    place: Context
    settled: bool


@dataclass
class Outcome:
    """What a step brought."""

    reward: float
    cost: float
    allowance: float
    terminated: bool
    truncated: bool


class Episode:
    """One output for one prompt.

    Args:
        generator: the row's own; one number a look, pending + 1 numbers a call (sampling only).
        quality: the metric of token ids without the end token.
    """

    def __init__(
        self,
        models: Models,
        spec: Spec,
        prompt: Sequence[int],
        rule: Constraint,
        generator: np.random.Generator,
        quality: Callable[[list[int]], float],
    ) -> None:
        self.models, self.spec, self.rule = models, spec, rule
        self.generator, self._metric = generator, quality
        self.prompt = tuple(prompt)
        self.text: list[Token] = []
        self.heard = 0  # tokens of prompt and text that the teacher has read in calls
        self.steps = self.calls = 0
        self.spent = self.milliseconds = self.money = 0.0
        limited_sum = rule.quantity != Quantity.CALLS_PER_TOKEN and not math.isinf(rule.limit)
        self.allowed = rule.limit if limited_sum else 0.0
        self.last_kept = 1.0
        self.quality = 0.0
        self.ended = False
        self.proposal = -1
        self._look()

    # ---- what the models say -------------------------------------------------------------------------

    @property
    def context(self) -> Context:
        return self.prompt + tuple(token.token for token in self.text)

    @property
    def pending(self) -> list[Token]:
        return [token for token in self.text if not token.settled]

    @property
    def would_end(self) -> bool:
        return self.proposal in self.spec.end_tokens or len(self.text) == self.spec.cap - 1

    def _look(self) -> None:
        logprobs = self.models.student(self.context)
        if self.spec.sampling:
            self.proposal = inverse_cdf([math.exp(x) for x in logprobs], self.generator.random())
        else:
            self.proposal = likeliest(logprobs)

    def _accepts(self, token: int, place: Context, uniform: float) -> bool:
        student, teacher = self.models.student(place), self.models.teacher(place)
        form, value = self.spec.accept
        if form == "probability":
            return math.exp(teacher[token]) >= value
        if form == "distance":
            return max(teacher) - teacher[token] <= value
        if self.spec.sampling:
            return uniform < math.exp(teacher[token] - student[token])
        return token == likeliest(teacher)

    def _teacher_writes(self, proposal: int, uniform: float) -> int:
        """The teacher's token behind the text as it stands, where the student had proposed `proposal`."""
        teacher = self.models.teacher(self.context)
        if not self.spec.sampling:
            return likeliest(teacher)
        probabilities = [math.exp(x) for x in teacher]
        if self.spec.accept[0] != "exact":
            return inverse_cdf(probabilities, uniform)
        student = [math.exp(x) for x in self.models.student(self.context)]
        ratio = probabilities[proposal] / student[proposal]
        if uniform < ratio:
            return proposal
        rest = [max(t - s, 0.0) for t, s in zip(probabilities, student, strict=True)]
        return inverse_cdf(rest, (uniform - ratio) / (1 - ratio))

    # ---- what it costs -------------------------------------------------------------------------------

    def _unread(self) -> int:
        return len(self.context) - self.heard

    def _call_price(self, quantity: Quantity, unread: int) -> float:
        """What a call adds to the cost of a decision."""
        if quantity == Quantity.LATENCY_MS:
            assert self.spec.latency is not None
            return self.spec.latency["teacher_ms"] + self.spec.latency["teacher_ms_per_token"] * (unread - 1)
        if quantity == Quantity.PRICE:
            assert self.spec.prices is not None
            return self.spec.prices["call"] + self.spec.prices["read"] * unread + self.spec.prices["written"]
        return 1.0

    def _cost(self, quantity: Quantity, called: bool) -> float:
        cost = self._call_price(quantity, self._unread()) if called else 0.0
        if quantity == Quantity.LATENCY_MS and self.spec.latency is not None:
            cost += self.spec.latency["student_ms"]
            cost += self.spec.latency["student_prompt_ms"] if self.steps == 0 else 0.0
            cost += self.spec.latency["teacher_prompt_ms"] if called and self.calls == 0 else 0.0
        return cost

    def can_call(self) -> bool:
        rule = self.rule
        if math.isinf(rule.limit) or not (self.spec.hard or rule.hard):
            return True
        if rule.limit == 0:
            return False
        if rule.quantity == Quantity.CALLS:
            return self.calls + 1 <= rule.limit
        if rule.quantity == Quantity.CALLS_PER_TOKEN:
            return self.calls + 1 <= max(1, math.floor(round(rule.limit * self.spec.cap, 9)))
        return self.spent + self._cost(rule.quantity, True) <= rule.limit + 1e-9

    def mask(self) -> list[int]:
        return [1 if action == Action.SELF else int(self.can_call()) for action in self.spec.actions]

    # ---- what a token is worth -----------------------------------------------------------------------

    def _worth(self, token: Token, accepted: bool) -> float:
        """What a token of the student's earns by staying."""
        student, teacher = self.models.student(token.place), self.models.teacher(token.place)
        weights, y = self.spec.weights, token.token
        worth = weights.get("regret", 0.0) * (teacher[y] - max(teacher))
        if not accepted:
            worth += weights.get("kl", 0.0) * (teacher[y] - student[y])
            divergence = sum(math.exp(s) * (s - t) for s, t in zip(student, teacher, strict=True))
            worth -= weights.get("expected_kl", 0.0) * divergence
        return worth

    def _settle(self, tokens: list[Token], accepted: bool) -> float:
        """Mark tokens as settled; returns what that pays."""
        paid = 0.0
        for token in tokens:
            token.settled = True
            if accepted:
                token.writer = Writer.ACCEPTED
            if not self.spec.paid_at_once:
                paid += self._worth(token, accepted)
        return paid

    # ---- a step --------------------------------------------------------------------------------------

    def step(self, choice: int) -> Outcome:
        action = self.spec.actions[choice]
        if not self.can_call():
            action = Action.SELF
        called, before = action != Action.SELF, len(self.text)
        cost = self._cost(self.rule.quantity, called)
        self.milliseconds += self._cost(Quantity.LATENCY_MS, called) if self.spec.latency else 0.0
        self.money += self._cost(Quantity.PRICE, called) if self.spec.prices else 0.0
        if called:
            reward = self._call(action)
        else:
            token = Token(self.proposal, Writer.STUDENT, self.context, settled=False)
            self.text.append(token)
            reward = self._worth(token, accepted=False) if self.spec.paid_at_once else 0.0
        terminated = self.text[-1].token in self.spec.end_tokens or len(self.text) == self.spec.cap
        allowance = self._book(called, cost, len(self.text) - before)
        if terminated:
            self.ended = True
            reward += self._settle(self.pending, accepted=False)
            body = [token.token for token in self.text]
            self.quality = self._metric(body[:-1] if body[-1] in self.spec.end_tokens else body)
            reward += self.spec.weights.get("quality", 0.0) * self.quality
        else:
            self._look()
        truncated = not terminated and self.steps >= self.spec.max_steps
        return Outcome(reward, cost, allowance, terminated, truncated)

    def _call(self, action: Action) -> float:
        """The teacher reads, judges and writes; returns what is paid."""
        pending, proposal = self.pending, self.proposal
        kept = len(pending)
        uniforms = self.generator.random(kept + 1) if self.spec.sampling else np.zeros(kept + 1)
        if action == Action.VERIFY:
            for number, token in enumerate(pending):
                if not self._accepts(token.token, token.place, uniforms[number]):
                    kept, proposal = number, token.token
                    break
        reward = self._settle(pending[:kept], accepted=action == Action.VERIFY)
        del self.text[len(self.text) - len(pending) + kept :]
        self.heard = len(self.context)
        self.last_kept = kept / len(pending) if pending else 1.0
        written = self._teacher_writes(proposal, uniforms[kept])
        self.text.append(Token(written, Writer.TEACHER, self.context, settled=True))
        return reward

    def _book(self, called: bool, cost: float, grown: int) -> float:
        """Add a step to the accounts; returns its allowance."""
        self.steps += 1
        self.calls += called
        self.spent += cost
        if math.isinf(self.rule.limit):
            allowance = cost
        elif self.rule.quantity == Quantity.CALLS_PER_TOKEN:
            allowance = self.rule.limit * grown
        else:
            allowance = 0.0
        self.allowed += allowance
        return allowance

    # ---- what is seen --------------------------------------------------------------------------------

    def observe(self) -> dict[str, list[float]]:
        """Every feature by name; zeros for the next token once the text is final."""
        spec, cap = self.spec, self.spec.cap
        logprobs = self.models.student(self.context) if not self.ended else []
        top = sorted((max(x, LOWEST) for x in logprobs), reverse=True)[: spec.top_k]
        surprises = [-self.models.student(token.place)[token.token] for token in self.pending]
        shown: dict[str, list[float]] = {
            "top_logprobs": (top + [LOWEST] * spec.top_k)[: spec.top_k] if top else [0.0] * spec.top_k,
            "entropy": [-sum(math.exp(x) * x for x in logprobs)],
            "margin": [top[0] - top[1] if top else 0.0],
            "surprise": [min(-logprobs[self.proposal], -LOWEST) if top else 0.0],
            "would_end": [float(self.would_end and not self.ended)],
            "pending": [len(surprises) / cap],
            "pending_surprise": [sum(surprises)],
            "least_sure": [max(surprises, default=0.0)],
            "position": [len(self.text) / cap],
            "last_kept": [self.last_kept],
            "quantity": [float(self.rule.quantity == quantity) for quantity in Quantity],
            "ended": [float(self.ended)],
        }
        unit, limit = self._call_price(self.rule.quantity, 1), self.rule.limit
        most = 1.0 if self.rule.quantity == Quantity.CALLS_PER_TOKEN else cap * unit
        shown["limit"] = [min(limit / most, 1.0)]
        left = (self.allowed - self.spent) / unit
        shown["left"] = [cap if math.isinf(limit) else max(-cap, min(cap, left))]
        if spec.hidden:
            hidden = self.models.hidden(self.context)
            shown["hidden"] = [0.0] * len(hidden) if self.ended else hidden
        return shown

    def info(self) -> dict[str, float]:
        """The episode's sums so far."""
        info = {"spent": self.spent, "allowed": self.allowed, "calls": float(self.calls)}
        info |= {"tokens": float(len(self.text)), "quality": self.quality}
        if self.spec.latency is not None:
            info["latency_ms"] = self.milliseconds
        if self.spec.prices is not None:
            info["price"] = self.money
        return info


def likeliest(logprobs: list[float]) -> int:
    return max(range(len(logprobs)), key=lambda token: logprobs[token])


def inverse_cdf(weights: list[float], uniform: float) -> int:
    """The first token whose cumulated weight exceeds `uniform` of the total."""
    target, cumulated = uniform * sum(weights), 0.0
    for token, weight in enumerate(weights):
        cumulated += weight
        if cumulated > target:
            return token
    return max(token for token, weight in enumerate(weights) if weight > 0)
