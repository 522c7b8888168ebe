"""Outcomes of every prompt come back as they were kept, each row's own."""

from pathlib import Path

import numpy as np
import pytest

from agents.evaluation import Ends
from agents.rollout import Outcomes
from scripts import outcomes

ROW = {"agent": "p-max", "actions": "SELF/ASK", "accept": "probability:0.1", "seed": 2, "rule": "once", "prompts": 4}


def played(quality: list[float]) -> Outcomes:
    numbers = np.arange(4.0)
    return Outcomes(np.array(quality), numbers, numbers + 300, numbers, numbers, numbers, np.arange(4))


@pytest.mark.parametrize("quality", [[0, 1, 1, 0], [0.25, 1, 0.123456, 0]])
def test_what_is_kept_comes_back(tmp_path: Path, quality: list[float]) -> None:
    outcomes.keep(tmp_path, ROW, played(quality))
    kept = outcomes.recall(tmp_path, ROW)
    np.testing.assert_allclose(kept.quality, quality, atol=1e-7)
    assert kept.calls.tolist() == [0, 1, 2, 3]
    assert kept.tokens.tolist() == [300, 301, 302, 303]
    ends = Ends(np.array(quality), np.ones(4))
    outcomes.keep_ends(tmp_path, ends)
    np.testing.assert_allclose(outcomes.recall_ends(tmp_path).student, quality, atol=1e-7)


def test_every_row_has_a_file_of_its_own(tmp_path: Path) -> None:
    changed = [{"rule": "twice"}, {"seed": 3}, {"accept": "exact"}, {"actions": "SELF/ASK/VERIFY"}, {"agent": "x"}]
    assert len({outcomes.file_of(tmp_path, ROW | change) for change in [{}, *changed]}) == 6


def test_commands_are_kept_once_and_in_their_order(tmp_path: Path) -> None:
    assert outcomes.recall_commands(tmp_path / "new") == []
    for command in ("first --seeds 1", "second", "first --seeds 1"):
        outcomes.keep_command(tmp_path / "new", command)
    assert outcomes.recall_commands(tmp_path / "new") == ["first --seeds 1", "second"]


def test_there_are_none_of_other_prompts_or_before_anything_was_kept(tmp_path: Path) -> None:
    assert outcomes.recall(tmp_path, ROW) is None
    assert outcomes.recall_ends(tmp_path) is None
    outcomes.keep(tmp_path, ROW, played([0, 1, 1, 0]))
    assert outcomes.recall(tmp_path, ROW | {"prompts": 5}) is None


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    outcomes.file_of(tmp_path, ROW).write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(ValueError, match="got a file that can't be read"):
        outcomes.recall(tmp_path, ROW)
