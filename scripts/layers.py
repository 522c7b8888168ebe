"""Students of another model's layers: of some of them, or of all of them twice."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel


def kept_layers(total: int, kept: int) -> list[int]:
    """Which of `total` layers a student keeps: the first, the last, and others evenly spaced between them.

    Raises:
        ValueError: fewer than 2, or not fewer than `total`.
    """
    if not 2 <= kept < total:
        raise ValueError(f"Expected a student of 2 to {total - 1} of the teacher's {total} layers, got {kept}.")
    return [round(place) for place in np.linspace(0, total - 1, kept)]


def reduced(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A copy of a decoder-only model that keeps only these of its layers, and everything else.

    Raises:
        ValueError: a model whose layers don't lie in `model.layers`, as those of Llama, Qwen or Mistral do.
    """
    if not hasattr(model.base_model, "layers"):
        raise ValueError(
            f"Expected a model with its layers in `model.layers`, got {type(model).__name__}; take one of the Llama, "
            "Qwen or Mistral type."
        )
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):  # of each layer: full or sliding attention
        config.layer_types = [model.config.layer_types[i] for i in layers]
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights
        student: PreTrainedModel = type(model)(config)
    student.to(model.device, model.dtype)
    old, new = model.base_model, student.base_model
    weights = {name: tensor for name, tensor in model.state_dict().items() if ".layers." not in name}
    student.load_state_dict(weights, strict=False)
    for mine, theirs in zip(new.layers, layers, strict=True):
        mine.load_state_dict(old.layers[theirs].state_dict())
    student.generation_config = copy.deepcopy(model.generation_config)
    return student.eval()


@torch.no_grad()
def deepened(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with twice the layers, each followed by a twin that adds nothing yet, so that it writes as before.

    Raises:
        ValueError: a model whose layers are not as those of the Llama, Qwen or Mistral type.
    """
    total = int(model.config.num_hidden_layers)
    deep = reduced(model, [layer for layer in range(total) for _ in range(2)])
    for twin in deep.base_model.layers[1::2]:
        for part in (twin.self_attn.o_proj, twin.mlp.down_proj):  # what a layer adds passes through one of them
            for weights in part.parameters():
                weights.zero_()
    return deep
