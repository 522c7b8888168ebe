"""An update split over processes and over parts, each with its share of the loss, and its precision.

Every process makes the same draws and takes its own stretch of them, so that several give what one would, up to
rounding. Gradients are added up, not averaged: a loss is a weighted mean over the whole update, and each part counts
with its share of the update's weight (`Processes.shares`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object, reduce
from numpy.typing import NDArray
from torch import Tensor, nn

Kind = Literal["no", "bf16", "fp16"]
KINDS: dict[str, torch.dtype | None] = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PATIENCE = timedelta(hours=12)  # for a process that writes the teacher's texts while the others wait

Result = TypeVar("Result")
Item = TypeVar("Item")
Array = TypeVar("Array", bound=NDArray[Any])


class Processes:
    """The processes that `accelerate launch` (or torchrun) started; one alone where nothing did.

    Args:
        cpu: work on the CPU where there is a GPU, too. All later ones in a process are like its first.

    Attributes:
        index, count: of this process, and of all. main: whether this is the one that writes files.
        device: "cpu", "cuda" or "cuda:N", where this process works; each has a GPU of its own.
    """

    def __init__(self, cpu: bool) -> None:
        told = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        self._state = PartialState(cpu=cpu or told or not torch.cuda.is_available(), timeout=PATIENCE)
        self.index: int = self._state.process_index
        self.count: int = self._state.num_processes
        self.main = self.index == 0
        self.device = "cpu" if self._state.device.type == "cpu" else str(self._state.device)

    def device_for(self, asked: str) -> str:
        """Where a script works that was asked for "auto", "cpu", "cuda" or "cuda:N"; several GPUs have one each."""
        return self.device if asked == "auto" or (self.count > 1 and self.device != "cpu") else asked

    def slices(self, items: int, parts: int = 1) -> list[slice]:
        """The stretches of `items` that this process works on, one for each of its `parts`.

        Raises:
            ValueError: fewer items than parts of all processes.
        """
        if items < self.count * parts:
            raise ValueError(
                f"Expected at least {self.count * parts} texts, episodes or prompts an update, one for each of {parts} "
                f"parts (accumulate) of {self.count} processes; got {items}."
            )
        return self.stretches(items, parts)

    def stretches(self, items: int, parts: int = 1) -> list[slice]:
        """As `slices`; where there are too few items, as in the last batch of an epoch, some are empty."""
        edges = [items * edge // (self.count * parts) for edge in range(self.count * parts + 1)]
        return [slice(*edges[part : part + 2]) for part in range(self.index * parts, (self.index + 1) * parts)]

    def joined(self, rows: Array) -> Array:
        """(n, ...) the rows of all processes, in their order."""
        return rows if self.count == 1 else np.concatenate(self.gathered([rows]))  # type: ignore[return-value]

    def gathered(self, items: list[Item]) -> list[Item]:
        """What all processes bring, in their order; some may bring more than others, or nothing."""
        return items if self.count == 1 else gather_object(items)

    def told(self, item: Item) -> Item:
        """What the main process says; what the others do isn't heard."""
        found: list[Item] = broadcast_object_list([item])
        return found[0]

    def shares(self, weights: Sequence[float]) -> list[float]:
        """(parts,) what each part of this process weighs, out of the parts of all processes."""
        total = self.total(weights)
        return [weight / total for weight in weights]

    def total(self, values: Sequence[float]) -> float:
        """The sum over the parts of all processes."""
        return float(self.joined(np.array(values, np.float64)).sum())

    def mean(self, shares: Sequence[float], values: Sequence[float]) -> float:
        """The mean of a number over the parts of all processes, given the shares of this one's."""
        return self.total([share * value for share, value in zip(shares, values, strict=True)])

    def add_gradients(self, parameters: Iterator[nn.Parameter]) -> None:
        """Give every process the sum of all gradients; who has none of a weight that another learnt adds nothing."""
        if self.count > 1:
            every = list(parameters)
            told = self.gathered([[parameter.grad is not None for parameter in every]])  # by process
            learnt = [parameter for parameter, *learn in zip(every, *told, strict=True) if any(learn)]
            sums = reduce([torch.zeros_like(p) if p.grad is None else p.grad for p in learnt], "sum")
            for parameter, gradient in zip(learnt, sums, strict=True):
                parameter.grad = gradient

    @torch.no_grad()
    def agree(self, parameters: Iterator[nn.Parameter]) -> None:
        """Give every process the main one's weights."""
        if self.count > 1:
            for parameter in parameters:
                parameter.copy_(broadcast(parameter.detach().clone()))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The others enter once the main process has left."""
        with self._state.main_process_first():
            yield

    def wait(self) -> None:
        """Until all have come here."""
        self._state.wait_for_everyone()

    def part(self) -> None:
        """Nothing more is done together: from here on nobody waits for another."""
        self._state.destroy_process_group()


class Passes(Generic[Result]):
    """A student's passes over the parts of an update: what they say is seen of all, then gradients of one at a time.

    A part's loss depends on the others (on what all weigh, on where behaviour cloning marks), and a pass with gradients
    holds its activations. So several parts are read twice, first without gradients; one alone is read once.

    Args:
        run: the pass over a part. parts: how many.

    Attributes:
        seen: of each part, what `run` returned; use it detached.
    """

    def __init__(self, run: Callable[[int], Result], parts: int) -> None:
        self._run, self._kept = run, parts == 1
        with nullcontext() if self._kept else torch.no_grad():
            self.seen = [run(part) for part in range(parts)]

    def __call__(self, part: int) -> Result:
        """With gradients."""
        return self.seen[part] if self._kept else self._run(part)


class Precision:
    """Mixed precision: passes under autocast, and for fp16 a loss scaled up against underflow.

    Args:
        kind: None takes what `accelerate launch` was told (`--mixed_precision`), else "no".

    Raises:
        ValueError: a kind that isn't known.
    """

    def __init__(self, kind: Kind | None, device: torch.device) -> None:
        self.kind = kind or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if self.kind not in KINDS:
            raise ValueError(f"Expected a precision of {', '.join(KINDS)}, got {self.kind!r}.")
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.kind == "fp16")
        self._scaler.scale(torch.zeros(1, device=device))  # begins its scale, even where others learn first

    def autocast(self) -> AbstractContextManager[Any]:
        """For passes of the student; what leaves them is turned into single precision by who calls."""
        dtype = KINDS[self.kind]
        return nullcontext() if dtype is None else torch.autocast(self._device.type, dtype)

    @property
    def scale(self) -> float:
        """By what gradients are too large until they are clipped; 1 but for fp16."""
        return self._scaler.get_scale()

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        self._scaler.scale(loss).backward()

    def clip(
        self,
        weights: Iterable[nn.Parameter],
        optimizers: Sequence[torch.optim.Optimizer],
        norm: float,
        *apart: Iterable[nn.Parameter],
    ) -> bool:
        """Unscale and clip the gradients; False if they overflowed in fp16, so that no step shall follow.

        Args:
            weights: their norm is at most `norm`. apart: further ones, each with a norm of its own.
            optimizers: of all of them.
        """
        for optimizer in optimizers:
            self._scaler.unscale_(optimizer)
        lengths = [nn.utils.clip_grad_norm_(each, norm) for each in (weights, *apart)]
        self._scaler.update()
        return not self._scaler.is_enabled() or all(bool(length.isfinite()) for length in lengths)

    def state(self) -> dict[str, Any]:
        return self._scaler.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state)
