"""The residual, against a slow reference and against the closed forms of one-state games."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.pcl.losses import remaining, residuals, weighted_loss

STUDENT = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
TEACHER = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return float((p * (p / q).log()).sum())


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    d=st.one_of(st.none(), st.integers(1, 6)),
    seed=st.integers(0, 1000),
)
def test_residuals_agree_with_the_sum_written_out(lengths: list[int], d: int | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    steps = int(starts[-1])
    gains, values, last = rng.normal(size=steps), rng.normal(size=steps), rng.normal(size=len(lengths))
    of_step = np.repeat(np.arange(len(lengths)), lengths)
    got = residuals(*map(torch.from_numpy, (gains, values, last, starts, of_step)), d)
    for t in range(steps):
        end = starts[of_step[t] + 1]
        stop = end if d is None else min(t + d, end)
        far = values[stop] if stop < end else last[of_step[t]]
        assert got[t] == pytest.approx(-values[t] + far + gains[t:stop].sum())


def test_remaining_sums_to_the_end_of_each_episode() -> None:
    got = remaining(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 3]), torch.tensor([0, 0, 1]))
    assert got.tolist() == [3.0, 2.0, 4.0]


def minimise(
    own_tokens: torch.Tensor, multiplier: float, states: int = 1, student: torch.Tensor = STUDENT
) -> tuple[torch.Tensor, torch.Tensor]:
    """P(ask) and V, both (states,), that minimise the expected squared residual of d = 1 segments, alpha = 1.

    `states` follow each other; own steps pay log p_T(y) - log p_S(y) for tokens y drawn from `own_tokens`, asking
    costs 1. Every outcome is enumerated and weighted by its probability, both actions alike.
    """
    logit = torch.zeros(states, dtype=torch.float64, requires_grad=True)
    value = torch.zeros(states, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logit, value], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)
    pay = (TEACHER / student).log()

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        ask = torch.nn.functional.logsigmoid(logit)
        own = torch.nn.functional.logsigmoid(-logit)
        outcomes = [(0.5, -multiplier - ask)]
        outcomes += [(0.5 * float(w), r - own) for w, r in zip(own_tokens, pay, strict=True)]
        starts, of_step = torch.tensor([0, states]), torch.zeros(states, dtype=torch.int64)
        last, ones = torch.zeros(1, dtype=torch.float64), torch.zeros(states, dtype=torch.float64)
        loss = torch.zeros((), dtype=torch.float64)
        for weight, gain in outcomes:
            # The far value is held fixed (a lagged copy), as for random transitions.
            residual = residuals(gain, value, last, starts, of_step, 1, behind=value.detach())
            loss = loss + weight * weighted_loss(residual, ones)
        loss.backward()
        return loss

    for _ in range(10 * states):  # the lagged value travels one state back a time
        optimiser.step(closure)
    return logit.detach().sigmoid(), value.detach()


@pytest.mark.parametrize("multiplier", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("states", [1, 3])
def test_a_student_stuck_at_a_gap_asks_with_sigmoid_of_gap_minus_price(multiplier: float, states: int) -> None:
    ask, _ = minimise(STUDENT, multiplier, states)
    expected = torch.tensor(kl(STUDENT, TEACHER) - multiplier, dtype=torch.float64).sigmoid()
    assert torch.allclose(ask, expected.expand(states), atol=1e-5)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_teacher_written_paths_teach_the_gate_to_ask_less(share: float) -> None:
    ask, _ = minimise(share * STUDENT + (1 - share) * TEACHER, multiplier=0.3)
    expected = share * kl(STUDENT, TEACHER) - (1 - share) * kl(TEACHER, STUDENT) - 0.3
    assert torch.allclose(ask.logit(), torch.tensor([expected], dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("multiplier", [0.0, 1.0, 3.0])
def test_a_student_that_copied_its_teacher_asks_with_sigmoid_of_minus_the_price(multiplier: float) -> None:
    ask, value = minimise(TEACHER, multiplier, states=2, student=TEACHER)
    assert torch.allclose(ask, torch.tensor(-multiplier, dtype=torch.float64).sigmoid().expand(2), atol=1e-5)
    # V is then the log-partition over both actions, summed over the states to come.
    per_state = float(np.log1p(np.exp(-multiplier)))
    assert value.tolist() == pytest.approx([2 * per_state, per_state], abs=1e-4)


def test_the_weight_stands_outside_the_residual() -> None:
    loss = weighted_loss(torch.tensor([2.0, 2.0]), torch.tensor([0.0, 3.0]))
    assert loss.item() == pytest.approx((4 / 2 + 4 / 8) / 2)
