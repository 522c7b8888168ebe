"""What the gate is shown before it plays: several paths of every prompt."""

from __future__ import annotations

import numpy as np
import pytest

from agents.pcl.recipe import demonstrate
from tests.agents.small import small_game


@pytest.mark.parametrize("at_end", [False, True])
def test_demonstrations_go_through_all_prompts_alike(at_end: bool) -> None:
    env = small_game(rows=16)
    prompts, scores = len(env.task.prompts), 2 if at_end else 4
    shown = demonstrate(env, 3 * scores * prompts, seed=0, at_end=at_end)
    assert shown is not None
    times = np.bincount(shown.sums["prompt"].astype(int), minlength=prompts)
    assert len(shown) == 3 * scores * prompts
    assert set(times) == {3 * scores}
    calls, ends = shown.actions > 0, shown.observations[:, env.layout["would_end"].start] > 0
    assert calls.any()
    assert bool(calls[~ends].any()) == (not at_end)


def test_no_demonstrations_are_none_and_their_seed_decides() -> None:
    env = small_game(rows=16)
    assert demonstrate(env, 0, seed=0) is None
    one, again, other = (demonstrate(env, 90, seed=seed) for seed in (1, 1, 2))
    assert one is not None
    assert again is not None
    assert other is not None
    assert np.array_equal(one.actions, again.actions)
    assert not np.array_equal(one.sums["prompt"], other.sums["prompt"])
