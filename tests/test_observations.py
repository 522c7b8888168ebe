"""Named slices of the observation and their bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.letters import Letters, Watched, names_of, pair_of
from tw_env.decoding.distributions import sampled_view, student_view
from tw_env.observations import FEATURES, GameLayout, features


def test_slices_cover_the_observation_in_order() -> None:
    layout = GameLayout(top_k=3, vocabulary=50, cap=7, hidden=4)
    taken = np.zeros(layout.size, int)
    for feature in layout.features:
        where = layout[feature.name]
        assert where.stop - where.start == feature.size
        taken[where] += 1
    assert (taken == 1).all()
    assert layout.space().shape == (layout.size,)
    assert np.isfinite([layout.space().low, layout.space().high]).all()
    assert [feature.name for feature in FEATURES] == [f.name for f in features(5, 50, 7, 0)]


@pytest.mark.parametrize(
    "logits",
    [[0.0] * 6, [500.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0] + [-math.inf] * 4, [3.0, 2.0, 1.0, 0.0, -1.0, -2.0]],
    ids=["uniform", "certain", "impossible tokens", "ordinary"],
)
@pytest.mark.parametrize("top_k", [2, 6, 9])
def test_any_distribution_stays_within_bounds(logits: list[float], top_k: int) -> None:
    layout = GameLayout(top_k=top_k, vocabulary=6, cap=5, hidden=0)
    shown = layout["surprise"].stop
    tensor = torch.tensor([logits])
    drawn = [sampled_view(tensor, top_k, np.array([uniform]))[0] for uniform in (0.0, 0.5, 1 - 1e-9)]
    for view in (student_view(tensor, top_k), *drawn):
        numbers = view[0, 1:]
        assert np.isfinite(numbers).all()
        assert (numbers >= layout.space().low[:shown]).all()
        assert (numbers <= layout.space().high[:shown]).all()
        assert logits[int(view[0, 0])] > -math.inf


def test_a_final_text_shows_no_next_token() -> None:
    env = Watched(2, **names_of(pair_of()), task=Letters(max_new_tokens=1), hidden=True, actions="SELF/VERIFY")
    env.reset(seed=0)
    infos = env.step(np.zeros(2, np.int64))[-1]
    for last in infos["final_obs"]:
        nonzero = {feature.name for feature in env.layout.features if last[env.layout[feature.name]].any()}
        assert nonzero == {"position", "last_kept", "quantity", "limit", "left", "ended"}


def test_the_hidden_state_has_the_students_size() -> None:
    env = Watched(2, **names_of(pair_of()), task=Letters(), hidden=True)
    observations, _ = env.reset(seed=0)
    assert observations[:, env.layout["hidden"]].shape == (2, env.pair.student.config.hidden_size)
    plain = Watched(2, **names_of(pair_of()), task=Letters())
    assert "hidden" not in plain.layout.slices
