"""Muon: momentum whose update of each weight matrix is orthogonalised."""

import math
from concurrent.futures import Executor

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:  # (count, rows, columns)
    """Push the singular values of each matrix towards 1 by the quintic Newton-Schulz iteration of Muon.

    Source: K. Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks". In single
    precision: half precision is far slower on most CPUs.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Momentum SGD whose update of each matrix is orthogonalised and scaled to the size of an Adam update.

    The scale 0.2 sqrt(max(rows, columns)) (J. Liu et al. 2025, arXiv 2502.16982) lets it share AdamW's rate.
    """

    def __init__(
        self, parameters: list[nn.Parameter], lr: float, momentum: float, weight_decay: float, pool: Executor
    ) -> None:
        self.pool = pool
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter; up to four matrices of one shape are orthogonalised in one batch."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                updates = []
                for parameter in parameters:
                    assert parameter.grad is not None, "every hidden matrix takes part in every forward pass"
                    momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    momentum.lerp_(parameter.grad, 1 - group["momentum"])
                    updates.append(parameter.grad.lerp(momentum, group["momentum"]))  # Nesterov
                stacks = [torch.stack(updates[i : i + 4]) for i in range(0, len(updates), 4)]
                directions = torch.cat(list(self.pool.map(orthogonalise, stacks)))
                scale = group["lr"] * 0.2 * math.sqrt(max(shape))
                for parameter, update in zip(parameters, directions, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)
