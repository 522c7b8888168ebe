"""What a step spends: teacher calls, modelled milliseconds, money."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
    included.
    """

    student_ms: float
    teacher_ms: float
    teacher_ms_per_token: float

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
        try:
            record = source if isinstance(source, Mapping) else json.loads(Path(str(source)).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"Expected a JSON file with a latency table ({', '.join(names)}) as {str(source)!r}; got {error}. "
                "Write one with tw_env.decoding.latency.measure(pair).save(path)."
            ) from error
        if not isinstance(record, Mapping) or not set(names) <= set(record):
            raise ValueError(f"Expected a latency table with {', '.join(names)}; got {record!r}.")
        return cls(**{name: record[name] for name in names})

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

    def milliseconds(self, called: BoolArray, unread: IntArray) -> FloatArray:
        """(rows,) modelled milliseconds of one decision each."""
        assert self.latency is not None
        if not called.any():
            return np.full(len(called), self.latency.student_ms)
        return self.latency.student_ms + called * self.latency.call(unread)

    def money(self, called: BoolArray, unread: IntArray) -> FloatArray:
        """(rows,) currency units of one decision each; a call always writes one token."""
        assert self.prices is not None
        return called * (self.prices.call + self.prices.read * unread + self.prices.written)
