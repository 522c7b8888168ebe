"""Whose texts a gate learns from: one-step path consistency beside a frozen pair, on own and on the teacher's texts.

Each place of a sampled text is a game of one choice: write the text's token, which pays log p_T(y) - log p_S(y), or
call, which pays -lambda. With entropy weight 1 and nothing behind the choice, the squared residuals

    C(own) = -V + log p_T(y) - log p_S(y) - log(1 - P(ask))        C(call) = -V - lambda - log P(ask)

are least, if y is the student's with share rho and the teacher's otherwise, where

    logit P(ask) = rho KL(p_S || p_T) - (1 - rho) KL(p_T || p_S) - lambda

so that the teacher's texts teach a gate to ask less exactly where the student is worse. The formula is exact in one
state (tests/agents/joint/test_closed_forms.py); here a gate learns it over real states: a small network that sees the
student's state and is no part of it (`SmallGate`), or the student's own ask tokens (`AskGate`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from agents.asking import auc
from agents.joint.losses import forward_kl, path_loss, path_residuals, reverse_kl, token_gains, written
from agents.joint.reading import Texts, chunks, log_distributions, states
from agents.joint.student import ask_log_odds
from agents.joint.teacher import CHUNK_TOKENS

LIKELIEST = 5  # of the student's log-probabilities that the gate sees beside the hidden state
RATE, ASK_RATE = 3e-3, 3e-2  # of Adam at the start; rows of ask tokens are long, and begin as doubts
Row = dict[str, float | None]


@dataclass(frozen=True)
class Places:
    """Places of texts, and what both models think there; natural logarithms.

    Attributes:
        features: (places, width + LIKELIEST + 1) the student's hidden state, its largest log-probabilities and its
            entropy.
        gain: (places,) log p_T(y) - log p_S(y) of the token that was written.
        reverse, forward: (places,) KL(p_S || p_T) and KL(p_T || p_S).
        differs: (places,) whether the likeliest tokens differ.
    """

    features: Tensor
    gain: Tensor
    reverse: Tensor
    forward: Tensor
    differs: Tensor

    def __len__(self) -> int:
        return len(self.gain)

    def closed_form(self, share: float, price: float) -> Tensor:
        """(places,) the logit at which the residuals are least, the `share` of own tokens being the same anywhere."""
        return share * self.reverse - (1.0 - share) * self.forward - price


@torch.inference_mode()
def places_of(student: PreTrainedModel, teacher: PreTrainedModel, texts: Texts, vocabulary: int) -> Places:
    """All places of some texts, in an order of its own; tensors stand on the CPU.

    Args:
        vocabulary: how many tokens both models know.
    """
    found = []
    for rows in chunks(texts, CHUNK_TOKENS):
        part = texts.take(rows)
        hidden = states(student, part)
        mine = log_distributions(student, hidden, vocabulary)
        theirs = log_distributions(teacher, states(teacher, part), vocabulary)
        tokens = part.tokens.to(mine.device)
        entropy = -(mine.exp() * mine).sum(1, keepdim=True)
        features = torch.cat([hidden.float(), mine.topk(min(LIKELIEST, vocabulary)).values, entropy], dim=1)
        gain = token_gains(written(mine, tokens), written(theirs, tokens))
        differs = mine.argmax(1) != theirs.argmax(1)
        found.append((features, gain, reverse_kl(mine, theirs), forward_kl(mine, theirs), differs))
    return Places(*(torch.cat(column).cpu() for column in zip(*found, strict=True)))


class SmallGate(nn.Module):
    """Logit of asking and V of features (places, size) -> (places,) each: one hidden layer, both 0 at first.

    Args:
        seen: (places, size) features, whose mean and spread set the scale. width: of the layer between. seed: of the
            first weights.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, seen: Tensor, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", seen.mean(0))
        self.register_buffer("spread", seen.std(0) + 1e-6)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            last = nn.Linear(width, 2)
            self.layers = nn.Sequential(nn.Linear(seen.shape[1], width), nn.GELU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logit and V."""
        logit, value = self.layers((features - self.mean) / self.spread).unbind(1)
        return logit, value

    def groups(self) -> list[dict[str, Any]]:
        """What is learnt, and how fast."""
        return [{"params": list(self.parameters()), "lr": RATE}]


class AskGate(nn.Module):
    """Logit of a student's own ask tokens, whose rows of its head alone are learnt, and V by a small network.

    Args:
        student: with ask tokens, a head without bias and unscaled states. seen: features, whose first columns are the
            student's state. seed: of V's first weights.
    """

    known: Tensor

    def __init__(self, student: PreTrainedModel, seen: Tensor, seed: int = 0) -> None:
        super().__init__()
        table, first = student.get_output_embeddings().weight.detach().float().cpu(), student.config.ask_token_ids[0]
        self.register_buffer("known", table[:first].clone())
        self.asks = nn.Parameter(table[first:].clone())
        self.value = SmallGate(seen, seed=seed)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logit and V."""
        logits = features[:, : self.asks.shape[1]] @ torch.cat([self.known, self.asks]).T
        return ask_log_odds(logits, len(self.known)), self.value(features)[1]

    def groups(self) -> list[dict[str, Any]]:
        """What is learnt, and how fast."""
        return [{"params": [self.asks], "lr": ASK_RATE}, *self.value.groups()]


Gate = SmallGate | AskGate


def one_step_loss(logit: Tensor, value: Tensor, gain: Tensor, price: float) -> Tensor:
    """Mean of C^2 / 2 over both choices of each place, all (places,); see the head of this file."""
    own = gain - functional.logsigmoid(-logit)
    call = -price - functional.logsigmoid(logit)
    of_step = torch.arange(2 * len(gain), device=gain.device)  # every choice is a path of one step
    starts = torch.arange(2 * len(gain) + 1, device=gain.device)
    found = path_residuals(torch.cat([own, call]), torch.cat([value, value]), starts, of_step, [1])
    return path_loss(found, starts, of_step)


def fit_gate(
    gate: Gate, own: Places, theirs: Places, share: float, price: float, updates: int, batch: int = 2048, seed: int = 0
) -> None:
    """Let a gate learn from batches of which the `share` is own places, the rest of the teacher's texts.

    Args:
        price: lambda, in nats. updates: of Adam, whose rate falls to zero.
    """
    optimizer = torch.optim.Adam(gate.groups())
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, updates)
    generator = np.random.default_rng([seed, 1])
    count = round(share * batch)
    for _ in range(updates):
        mine = torch.from_numpy(generator.integers(len(own), size=count))
        other = torch.from_numpy(generator.integers(len(theirs), size=batch - count))
        features = torch.cat([own.features[mine], theirs.features[other]])
        logit, value = gate(features)
        loss = one_step_loss(logit, value, torch.cat([own.gain[mine], theirs.gain[other]]), price)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def judged(gate: Gate, places: Places, share: float, price: float) -> Row:
    """How a gate's logit goes with the gap KL(p_S || p_T), beside the closed form, which sees both models.

    `rank` is Spearman's correlation with the gap, `auc` the probability that a place where the likeliest tokens differ
    has the larger logit (Mann & Whitney 1947), `fit` Spearman's correlation with the closed form, `logit` the mean.
    """
    logit, expected = gate(places.features)[0], places.closed_form(share, price)
    found: Row = {"fit": _rank(logit, expected)}
    for name, score in (("", logit), ("expected_", expected)):
        found |= {
            f"{name}rank": _rank(score, places.reverse),
            f"{name}auc": auc(score.numpy(), places.differs.numpy()),
            f"{name}logit": float(score.mean()),
        }
    return found


def _rank(one: Tensor, other: Tensor) -> float:
    return float(spearmanr(one.numpy(), other.numpy()).statistic)
