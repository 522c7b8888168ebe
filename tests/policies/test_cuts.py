"""The cut of each row's rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tw_env.budget import QUANTITIES
from tw_env.observations import Layout, features
from tw_env.policies.cuts import ALWAYS, NEVER, CutTable
from tw_env.rules import Quantity

LAYOUT = Layout(features(5, 512, 24, 0, asks=True), 24)
SHARE = Quantity.CALLS_PER_TOKEN.value
TABLE = {SHARE: [0.1, 0.2]}, {SHARE: [3.0, 1.0]}


def observed(limits: Sequence[float], quantity: Quantity = Quantity.CALLS_PER_TOKEN) -> NDArray[np.float32]:
    """(rows, size) what a policy sees of these limits, nothing else."""
    rows = np.zeros((len(limits), LAYOUT.size), np.float32)
    rows[:, LAYOUT["limit"].start] = np.minimum(limits, 1.0)
    rows[:, LAYOUT["quantity"].start + QUANTITIES.index(quantity)] = 1.0
    return rows


def test_cuts_between_two_limits_lie_on_a_line() -> None:
    cuts = CutTable(*TABLE).of(observed([0.05, 0.1, 0.15, 0.2, 0.9]), LAYOUT)
    assert cuts.tolist() == pytest.approx([3.0, 3.0, 2.0, 1.0, 1.0], abs=1e-6)


def test_without_limits_there_is_one_cut() -> None:
    assert set(CutTable(default=0.5).of(observed([0.0, 0.1, math.inf]), LAYOUT)) == {0.5}


def test_what_the_table_has_no_cut_for() -> None:
    assert CutTable(*TABLE).of(observed([0.0, math.inf]), LAYOUT).tolist() == [NEVER, ALWAYS]
    with pytest.raises(ValueError, match=f"Expected a limit on {SHARE}, .* got one on {Quantity.CALLS.value}"):
        CutTable(*TABLE).of(observed([0.1], Quantity.CALLS), LAYOUT)

    other = CutTable(*TABLE, elsewhere=-2.0)
    assert other.of(observed([0.0, 0.1, math.inf]), LAYOUT).tolist() == pytest.approx([NEVER, 3.0, -2.0], abs=1e-6)
    assert other.of(observed([0.1, math.inf], Quantity.CALLS), LAYOUT).tolist() == [-2.0, -2.0]
    assert CutTable(**other.record()) == other
