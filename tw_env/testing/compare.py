"""What the checks share: a condition with its message, and a comparison of whatever environments return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def expect(condition: bool | np.bool_, message: str) -> None:
    """Raise AssertionError, also under `python -O`.

    Raises:
        AssertionError: the condition doesn't hold.
    """
    if not condition:
        raise AssertionError(message)


def expect_same(expected: Any, actual: Any, where: str, tolerance: float = 0.0) -> None:
    """Compare numbers, arrays and dicts of them: floats within a tolerance, all else exactly.

    Args:
        tolerance: absolute, and relative to `expected`.

    Raises:
        AssertionError: they differ; `where` opens the message.
    """
    if isinstance(expected, Mapping):
        expect(
            isinstance(actual, Mapping) and set(actual) == set(expected),
            f"{where}: expected the keys {sorted(expected)}, got "
            f"{sorted(actual) if isinstance(actual, Mapping) else actual!r}.",
        )
        for key, value in expected.items():
            expect_same(value, actual[key], f"{where}, {key!r}", tolerance)
        return
    one, other = np.asarray(expected), np.asarray(actual)
    expect(one.shape == other.shape, f"{where}: expected the shape {one.shape}, got {other.shape}.")
    if one.dtype.kind == "f" and other.dtype.kind in "fiu":
        equal = np.isclose(other, one, rtol=tolerance, atol=tolerance, equal_nan=True)
    else:
        equal = one == other
    if not np.all(equal):
        apart = np.argwhere(~np.atleast_1d(equal))[0]
        at = tuple(apart) if one.ndim else ()
        place = f" at {[int(i) for i in at]}" if at else ""
        expect(False, f"{where}: expected {one[at]!r}{place}, got {other[at]!r}.")


def has_tensor(value: Any) -> bool:
    """Whether a torch tensor hides in a value of an info."""
    if isinstance(value, Mapping):
        return any(has_tensor(one) for one in value.values())
    if isinstance(value, list | tuple):
        return any(has_tensor(one) for one in value)
    return type(value).__module__.partition(".")[0] == "torch"
