"""What a step spends: teacher calls, modelled milliseconds, money."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from numbers import Real
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


def _payable(value: object) -> bool:
    return isinstance(value, Real) and 0 <= float(value) < np.inf


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds at batch 1, measured once (`tw_env.decoding.latency.measure`), never read off a clock in play.

    A decision pays the student's forward pass that showed it. A call pays
    c_T(k) = `teacher_ms` + `teacher_ms_per_token` * (k - 1) for its k unread tokens, the prompt at the first call
    included. An encoder-decoder pays its `..._prompt_ms` once a text, the student with its first decision, the teacher
    with its first call: what its encoder takes for a prompt of the usual length, beyond the teacher's price per token.
    """

    student_ms: float
    teacher_ms: float
    teacher_ms_per_token: float
    student_prompt_ms: float = 0.0
    teacher_prompt_ms: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not _payable(value):
                raise ValueError(f"Expected {name} to be a finite number of milliseconds >= 0, got {value!r}.")

    def call(self, unread: IntArray) -> FloatArray:
        """Milliseconds of a teacher call that reads `unread` >= 1 tokens."""
        return self.teacher_ms + self.teacher_ms_per_token * (unread.astype(np.float64) - 1.0)

    @classmethod
    def load(cls, source: LatencyTable | Mapping[str, float] | str | Path) -> LatencyTable:
        """From a table, its three numbers by name, or the JSON file that holds them."""
        if isinstance(source, cls):
            return source
        names = list(cls.__dataclass_fields__)
        needed = [field.name for field in fields(cls) if field.default is MISSING]
        try:
            record = source if isinstance(source, Mapping) else json.loads(Path(str(source)).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"Expected a JSON file with a latency table ({', '.join(needed)}) as {str(source)!r}; got {error}. "
                "Write one with tw_env.decoding.latency.measure(pair).save(path)."
            ) from error
        if not isinstance(record, Mapping) or not set(needed) <= set(record):
            raise ValueError(f"Expected a latency table with {', '.join(needed)}; got {record!r}.")
        return cls(**{name: record[name] for name in names if name in record})

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True)
class Prices:
    """Currency units for a teacher: per call, per token it reads, per token it writes."""

    call: float = 0.0
    read: float = 0.0
    written: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not _payable(value):
                raise ValueError(f"Expected the price per {name} to be a finite number >= 0, got {value!r}.")

    @classmethod
    def load(cls, source: Prices | Mapping[str, float]) -> Prices:
        """From prices, or their numbers by name."""
        if isinstance(source, cls):
            return source
        if not isinstance(source, Mapping):
            raise ValueError(f"Expected prices by name ({', '.join(cls.__dataclass_fields__)}), got {source!r}.")
        unknown = set(source) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(
                f"Expected prices named {', '.join(cls.__dataclass_fields__)}, got {', '.join(sorted(unknown))}."
            )
        return cls(**source)


@dataclass(frozen=True)
class CostModel:
    """Prices a step in every quantity that a rule can limit. `latency` and `prices` may be absent."""

    latency: LatencyTable | None = None
    prices: Prices | None = None

    def milliseconds(
        self, called: BoolArray, unread: IntArray, first: BoolArray | None = None, uncalled: BoolArray | None = None
    ) -> FloatArray:
        """(rows,) modelled milliseconds of one decision each.

        Args:
            first: rows whose text begins with this decision; None for none.
            uncalled: rows whose teacher has not been called for this text; None for none.
        """
        table = self.latency
        assert table is not None
        taken = np.full(len(called), table.student_ms)
        if first is not None and table.student_prompt_ms:
            taken += first * table.student_prompt_ms
        if called.any():
            taken += called * table.call(unread)
            if uncalled is not None and table.teacher_prompt_ms:
                taken += (called & uncalled) * table.teacher_prompt_ms
        return taken

    def money(self, called: BoolArray, unread: IntArray) -> FloatArray:
        """(rows,) currency units of one decision each; a call always writes one token."""
        assert self.prices is not None
        return called * (self.prices.call + self.prices.read * unread + self.prices.written)
