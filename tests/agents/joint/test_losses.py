"""Divergences against their definitions, and the closed forms of path consistency with tokens as actions."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from agents.joint.losses import (
    coarsened,
    cross_entropy,
    every_action_loss,
    expected_path_loss,
    forward_kl,
    generalised_jsd,
    group_loss,
    logarithmic_mean,
    path_loss,
    path_residuals,
    reach,
    reverse_kl,
    token_gains,
    written,
)

VOCAB, DEPTH = 3, 2  # texts of two tokens out of three: a tree with 1 + 3 states
TEXTS = list(itertools.product(range(VOCAB), repeat=DEPTH))
WHOLE = (None,)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(seed: int, requires_grad: bool = False) -> Tensor:
    """(states, vocab) logits: state 0 is the empty text, state 1 + a that after token a."""
    return drawn(1 + VOCAB, VOCAB, seed=seed).requires_grad_(requires_grad)


def visited(texts: list[tuple[int, ...]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States and tokens (steps,), starts and of_step, of texts laid end to end."""
    states = torch.tensor([state for first, _ in texts for state in (0, 1 + first)])
    tokens = torch.tensor([token for text in texts for token in text])
    starts = torch.arange(len(texts) + 1) * DEPTH
    return states, tokens, starts, torch.arange(len(texts)).repeat_interleave(DEPTH)


def probabilities(logprobs: Tensor) -> Tensor:
    """(texts,) of every text of the tree."""
    states, tokens, _, _ = visited(TEXTS)
    return written(logprobs[states], tokens).view(-1, DEPTH).sum(1).exp()


def text_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL between whole texts of two (states, vocab) log-probabilities."""
    p, q = probabilities(student), probabilities(teacher)
    return (p * (p / q).log()).sum()


def test_divergences_are_their_definitions_and_vanish_on_equals() -> None:
    p, q = (drawn(4, 5, seed=seed).log_softmax(-1) for seed in (0, 1))
    assert torch.allclose(forward_kl(p, q), torch.distributions.kl_divergence(*_categoricals(q, p)))
    assert torch.allclose(reverse_kl(p, q), torch.distributions.kl_divergence(*_categoricals(p, q)))
    mixture = 0.3 * q.exp() + 0.7 * p.exp()
    both = 0.3 * q.exp() * (q - mixture.log()) + 0.7 * p.exp() * (p - mixture.log())
    assert torch.allclose(generalised_jsd(p, q, 0.3), both.sum(1))
    for loss in (forward_kl(p, p), reverse_kl(p, p), generalised_jsd(p, p, 0.5)):
        assert torch.allclose(loss, torch.zeros(4, dtype=torch.float64), atol=1e-12)
    tokens = torch.tensor([0, 1, 2, 3])
    assert torch.allclose(cross_entropy(p, tokens), -p[torch.arange(4), tokens])


def _categoricals(first: Tensor, second: Tensor) -> tuple[torch.distributions.Categorical, ...]:
    return torch.distributions.Categorical(logits=first), torch.distributions.Categorical(logits=second)


def test_the_generalised_jsd_ends_in_forward_and_reverse_kl() -> None:
    p, q = (drawn(4, 5, seed=seed).log_softmax(-1) for seed in (2, 3))
    small = 1e-6
    assert torch.allclose(generalised_jsd(p, q, small) / small, forward_kl(p, q), rtol=1e-4)
    assert torch.allclose(generalised_jsd(p, q, 1 - small) / small, reverse_kl(p, q), rtol=1e-4)
    for beta in (0.0, 1.0):
        with pytest.raises(ValueError, match="Expected beta between 0 and 1"):
            generalised_jsd(p, q, beta)


def test_coarsened_distributions_sum_to_one_and_bound_the_divergence() -> None:
    p, q = (drawn(6, 8, seed=seed).log_softmax(-1) for seed in (4, 5))
    ids = q.topk(3).indices
    few_p, few_q = coarsened(p, ids), coarsened(q, ids)
    assert few_p.shape == (6, 4)
    assert torch.allclose(few_p.exp().sum(1), torch.ones(6, dtype=torch.float64))
    assert (reverse_kl(few_p, few_q) <= reverse_kl(p, q) + 1e-12).all()
    assert (forward_kl(few_p, few_q) > 0).all()
    assert coarsened(p, None) is p


@pytest.mark.parametrize("length", [1, 2, None])
def test_at_the_teacher_with_value_zero_the_residual_vanishes_on_any_path(length: int | None) -> None:
    logprobs = table(6).log_softmax(-1)
    states, tokens, starts, of_step = visited(TEXTS)
    same = written(logprobs[states], tokens)
    found = path_residuals(token_gains(same, same), torch.zeros(len(tokens)), starts, of_step, (length,))
    assert torch.equal(found[length], torch.zeros(len(tokens), dtype=torch.float64))


def test_the_residual_of_a_whole_text_is_that_of_trajectory_balance() -> None:
    student, teacher = (table(seed).log_softmax(-1) for seed in (7, 8))
    states, tokens, starts, of_step = visited(TEXTS)
    gains = token_gains(written(student[states], tokens), written(teacher[states], tokens))
    value = drawn(1, seed=9)  # V(s_0), the logarithm of the partition function
    values = torch.where(states == 0, value, 0.0)
    whole = path_residuals(gains, values, starts, of_step, WHOLE)[None][starts[:-1]]
    expected = probabilities(teacher).log() - probabilities(student).log() - value
    assert torch.allclose(whole, expected)
    assert reach(starts, of_step, None).tolist() == [2, 1] * len(TEXTS)


def test_one_step_on_policy_with_value_zero_has_the_gradient_of_the_reverse_kl() -> None:
    logits, teacher = drawn(1, 7, seed=10).requires_grad_(), drawn(1, 7, seed=11).log_softmax(-1)
    student = logits.log_softmax(-1)
    (wanted,) = torch.autograd.grad(reverse_kl(student, teacher).sum(), logits, retain_graph=True)
    loss = torch.zeros((), dtype=torch.float64)
    for token in range(7):  # every outcome, weighed by its probability
        at = torch.tensor([token])
        gains = token_gains(written(student, at), written(teacher, at))
        found = path_residuals(gains, torch.zeros(1), torch.tensor([0, 1]), torch.tensor([0]), (1,))
        loss = loss + student[0, token].exp().detach() * path_loss(found, torch.tensor([0, 1]), torch.tensor([0]))
    (got,) = torch.autograd.grad(loss, logits)
    assert torch.allclose(got, wanted)


def test_weighing_every_action_gives_the_gradient_of_either_divergence() -> None:
    logits, teacher = drawn(3, 7, seed=20).requires_grad_(), drawn(3, 7, seed=21).log_softmax(-1)
    student = logits.log_softmax(-1)
    own, between = student.exp().detach(), logarithmic_mean(student, teacher)
    for weights, divergence in ((own, reverse_kl), (between, forward_kl)):
        loss = every_action_loss(student, teacher, weights)
        (got,) = torch.autograd.grad(loss, logits, retain_graph=True)
        (wanted,) = torch.autograd.grad(divergence(student, teacher).mean(), logits, retain_graph=True)
        assert torch.allclose(got, wanted)
    assert torch.allclose(logarithmic_mean(teacher, teacher), teacher.exp())
    assert ((between > torch.minimum(own, teacher.exp())) & (between < torch.maximum(own, teacher.exp()))).all()


def on_policy_gradient(length: int | None, values: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (states, vocab) of the expected-divergence loss over all texts, and of the texts' divergence."""
    logits, teacher = table(12, requires_grad=True), table(13).log_softmax(-1)
    student = logits.log_softmax(-1)
    (wanted,) = torch.autograd.grad(text_kl(student, teacher), logits, retain_graph=True)
    total = torch.zeros((), dtype=torch.float64)
    for text, weight in zip(TEXTS, probabilities(student).detach(), strict=True):
        states, tokens, starts, of_step = visited([text])
        divergence = reverse_kl(student[states], teacher[states])
        total = total + weight * DEPTH * expected_path_loss(
            divergence, written(student[states], tokens), values[states], starts, of_step, (length,)
        )
    return torch.autograd.grad(total, logits)[0], wanted


@pytest.mark.parametrize("baseline", [0.0, 1.0])
def test_expected_gains_to_the_end_have_the_gradient_of_the_texts_divergence(baseline: float) -> None:
    got, wanted = on_policy_gradient(None, baseline * drawn(1 + VOCAB, seed=14))
    assert torch.allclose(got, wanted)


def test_expected_gains_of_one_step_follow_the_divergence_behind_it_through_the_value() -> None:
    student, teacher = (table(seed).log_softmax(-1) for seed in (12, 13))
    values = torch.cat([torch.zeros(1, dtype=torch.float64), -reverse_kl(student, teacher)[1:]])  # right behind s_0
    got, wanted = on_policy_gradient(1, values)
    assert torch.allclose(got, wanted)
    got, wanted = on_policy_gradient(1, torch.zeros_like(values))
    assert not torch.allclose(got[0], wanted[0])  # without V, the first token does not answer for the second


def test_extra_gains_are_learnt_as_in_the_residual() -> None:
    price = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    states, tokens, starts, of_step = visited(TEXTS)
    student, teacher = (table(seed).log_softmax(-1)[states] for seed in (15, 16))
    divergence, zeros = reverse_kl(student, teacher), torch.zeros(len(tokens), dtype=torch.float64)
    extra = -price * tokens
    loss = expected_path_loss(divergence, written(student, tokens), zeros, starts, of_step, (1, None), extra)
    found = path_residuals(extra - divergence, zeros, starts, of_step, (1, None))
    (got,) = torch.autograd.grad(loss, price, retain_graph=True)
    (wanted,) = torch.autograd.grad(path_loss(found, starts, of_step), price)
    assert torch.allclose(got, wanted)


def fitted(lengths: tuple[int | None, ...], counted: float = 1.0, grouped: bool = False) -> tuple[Tensor, Tensor]:
    """Log-probabilities (states, vocab) and V (states,) that minimise the loss over all texts, log p_S `counted` times.

    V stands before the first token, too, so it must learn the log-partition where the optimum is not the teacher.
    """
    logits, values = table(17, requires_grad=True), torch.zeros(1 + VOCAB, dtype=torch.float64, requires_grad=True)
    teacher = table(18).log_softmax(-1)
    states, tokens, starts, of_step = visited(TEXTS)
    optimiser = torch.optim.LBFGS([logits, values], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-13)

    def closure() -> Tensor:
        optimiser.zero_grad()
        student = written(logits.log_softmax(-1)[states], tokens)
        gains = token_gains(counted * student, written(teacher[states], tokens))
        if grouped:
            loss = group_loss(gains, starts, of_step, torch.zeros(len(TEXTS), dtype=torch.long), 1)
        else:
            loss = path_loss(path_residuals(gains, values[states], starts, of_step, lengths), starts, of_step)
        loss.backward()
        return loss

    for _ in range(5):
        optimiser.step(closure)
    return logits.detach().log_softmax(-1), values.detach()


@pytest.mark.parametrize("lengths", [(1,), (2,), WHOLE, (1, None)])
def test_minimising_makes_the_student_the_teacher_and_the_value_zero(lengths: tuple[int | None, ...]) -> None:
    student, values = fitted(lengths)
    assert torch.allclose(student, table(18).log_softmax(-1), atol=1e-4)
    assert torch.allclose(values, torch.zeros_like(values), atol=1e-4)


def test_paths_of_one_prompt_teach_the_same_without_a_value() -> None:
    student, _ = fitted(WHOLE, grouped=True)
    assert torch.allclose(probabilities(student), probabilities(table(18).log_softmax(-1)), atol=1e-5)


def test_counting_the_student_twice_would_give_the_root_of_the_teacher() -> None:
    student, _ = fitted(WHOLE, counted=2.0)
    root = probabilities(table(18).log_softmax(-1)).sqrt()
    assert torch.allclose(probabilities(student), root / root.sum(), atol=1e-4)


def test_weights_scale_each_segment() -> None:
    starts, of_step = torch.tensor([0, 2]), torch.tensor([0, 0])
    found = {1: torch.tensor([2.0, 4.0]), None: torch.tensor([2.0, 4.0])}
    weights = torch.tensor([1.0, 0.5])
    # d = 1: (4 + 8) / 2 / 2; to the end, the first has two steps: (4 / 2 + 8) / 2 / 2
    assert path_loss(found, starts, of_step, weights).item() == pytest.approx((3.0 + 2.5) / 2)
