"""How an update moves the log-odds of asking, by what it learns from.

The gate's logit is z_ask - logsumexp(z_vocabulary). Texts name no ask token, but what they teach the vocabulary's
logits, and the states beneath, moves it all the same; where cloning goes on, their marks do, too. Told apart are a step
along the gradient of texts and marks alone, and one along the gate's alone: each is taken on a copy of the student,
clipped as an update is, at the rate and the second moments that training has come to, but without momentum, in which
the two are mixed. So AdamW's step is what this gradient comes to over all updates that it has momentum in, Muon's is as
large as any, and the two don't add up to what the update does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from agents.joint.drafts import Drafts
from agents.joint.parallel import Processes
from agents.joint.reading import Texts, anatomy_of
from agents.joint.told import ToldStudent

Gradients = Sequence[Tensor | None]
"""Of the student's parameters, in their order."""
Places = tuple[Texts, Tensor]
"""Texts, and (steps,) at which of their tokens the student decides."""
Optimizers = Sequence[Optimizer]
Make = Callable[[PreTrainedModel], Optimizers]


def own_places(drafts: Drafts) -> Places:
    """Those that each draft wrote itself."""
    draft = drafts.texts.of_step.numpy()
    place = np.arange(len(draft)) - drafts.texts.starts.numpy()[draft]
    return drafts.texts, torch.from_numpy(place >= drafts.first[draft])


def gradients(student: nn.Module, processes: Processes) -> list[Tensor | None]:
    """What has been learnt so far in this update by all processes together; each one's own stays as it is."""
    parameters = list(student.parameters())
    own = [None if p.grad is None else p.grad.clone() for p in parameters]
    processes.add_gradients(iter(parameters))
    total = [p.grad for p in parameters]
    for parameter, gradient in zip(parameters, own, strict=True):
        parameter.grad = gradient
    return total


def drift_numbers(
    told: ToldStudent, of_texts: Gradients, optimizers: Optimizers, make: Make, places: Places, clip: float
) -> dict[str, float]:
    """`drift` of the texts and of the gate, once the student holds the gradients of both.

    Args:
        of_texts: see `gradients`, from before the gate's were added.
    """
    scale = told.precision.scale
    whole = [p.grad for p in told.model.parameters()]
    pairs = list(zip(whole, of_texts, strict=True))
    parts = {
        "writing": [None if text is None else text / scale for _, text in pairs],
        "gate": [both if both is None or text is None else (both - text) / scale for both, text in pairs],
    }
    return {f"drift/{name}": drift(told, part, optimizers, make, places, clip) for name, part in parts.items()}


def drift(
    told: ToldStudent, along: Gradients, optimizers: Optimizers, make: Make, places: Places, clip: float
) -> float:
    """Nats by which a step along these gradients alone would move the mean log-odds of asking at these places.

    Args:
        optimizers: of the student, at their present rates; stay as they are. make: builds the like for a copy of it.
        clip: largest norm of the gradient.
    """
    twin = copy.copy(told)
    twin.model = copy.deepcopy(told.model)
    anatomy_of(twin.model)  # looked at before it is run under autocast
    for parameter, gradient in zip(twin.model.parameters(), along, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    nn.utils.clip_grad_norm_(twin.model.parameters(), clip)
    for optimizer, original in zip(make(twin.model), optimizers, strict=True):
        optimizer.load_state_dict(copy.deepcopy(original.state_dict()))
        for group in optimizer.param_groups:
            if "betas" in group:  # AdamW
                group["betas"] = (0.0, group["betas"][1])
            else:  # Muon
                group["momentum"] = 0.0
        optimizer.step()
    return _mean_log_odds(twin, places) - _mean_log_odds(told, places)


@torch.no_grad()
def _mean_log_odds(told: ToldStudent, places: Places) -> float:
    texts, chosen = places
    return float(told.log_odds(texts).cpu()[chosen].double().mean())
