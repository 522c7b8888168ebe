"""The moving average of a model's weights, which is what training returns."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel


class WeightAverage:
    """Follows the weights of one model.

    Attributes:
        weights: the average of each parameter by its name, for a checkpoint.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def follow(self, model: PreTrainedModel, updates: int, decay: float) -> None:
        """Move towards the model's weights, after so many updates in all; early ones forget the start quickly."""
        decay = min(decay, updates / (updates + 10))
        for name, parameter in model.named_parameters():
            self.weights[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def applied(self, model: PreTrainedModel) -> PreTrainedModel:
        """A copy of the model with the averaged weights, in evaluation mode."""
        averaged = copy.deepcopy(model)
        for name, parameter in averaged.named_parameters():
            parameter.copy_(self.weights[name])
        return averaged.eval()
