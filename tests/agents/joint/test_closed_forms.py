"""What the ask token's logit z_ask - logsumexp(z) must be, in one state, against the minimum of the residuals."""

from __future__ import annotations

import pytest
import torch

from agents.joint.losses import path_loss, path_residuals, token_gains
from agents.joint.student import ask_log_odds

STUDENT = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
TEACHER = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return float((p * (p / q).log()).sum())


def fitted_logit(student: torch.Tensor, teacher: torch.Tensor, price: float, own_share: float) -> float:
    """The gate's logit that minimises E[C^2] over V and z_ask, paths of one step: every own token, and one call.

    Own tokens come from the student with `own_share` and from the teacher otherwise; alpha = 1.
    """
    scores = torch.cat([student.log() + 3.0, torch.zeros(1, dtype=torch.float64)]).requires_grad_(True)
    value = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    tokens = len(student)
    starts, of_step = torch.arange(tokens + 2), torch.arange(tokens + 1)
    likely = own_share * student + (1 - own_share) * teacher
    weights = torch.cat([likely, torch.ones(1, dtype=torch.float64)]) / 2
    optimizer = torch.optim.LBFGS(
        [scores, value], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=0.0
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logit = ask_log_odds(scores, tokens)
        own = token_gains(student.log(), teacher.log()) - torch.nn.functional.logsigmoid(-logit)
        call = -price - torch.nn.functional.logsigmoid(logit)
        gains = torch.cat([own, call[None]])
        found = path_residuals(gains, value.expand(tokens + 1), starts, of_step, [1])
        total = path_loss(found, starts, of_step, weights)
        total.backward()
        scores.grad[:tokens] = 0.0  # a student that can't be moved
        return total

    optimizer.step(loss)
    return float(ask_log_odds(scores.detach(), tokens))


@pytest.mark.parametrize("price", [0.0, 0.5, 2.0])
def test_a_student_that_is_its_teacher_asks_by_the_price_alone(price: float) -> None:
    assert fitted_logit(TEACHER, TEACHER, price, 1.0) == pytest.approx(-price, abs=1e-5)


@pytest.mark.parametrize("price", [0.0, 0.5, 2.0])
def test_on_own_tokens_the_logit_is_the_gap_less_the_price(price: float) -> None:
    assert fitted_logit(STUDENT, TEACHER, price, 1.0) == pytest.approx(kl(STUDENT, TEACHER) - price, abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75])
def test_the_teachers_tokens_turn_the_sign(share: float) -> None:
    """Text that the teacher wrote teaches the gate to ask less exactly where the student is worse."""
    expected = share * kl(STUDENT, TEACHER) - (1 - share) * kl(TEACHER, STUDENT) - 0.3
    assert fitted_logit(STUDENT, TEACHER, 0.3, share) == pytest.approx(expected, abs=1e-5)
    if share == 0.0:
        assert expected < -0.3
