"""Pictures of joint training: lines are means over seeds, marks are rules told otherwise, logs become curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from scripts.joint_curves import PANELS, curves_picture, mean_of, read_scalars
from scripts.joint_picture import LOWEST, Options, frontier, main, student_of


def row(agent: str, limit: float | None, calls: float, gap: float, **more: Any) -> dict[str, Any]:
    kind = "learned" if agent in ("joint", "joint+verify", "pcl") else "heuristic"
    return {
        "task": "letters", "actions": "SELF/VERIFY", "accept": "exact", "agent": agent, "kind": kind, "seed": 0,
        "rule": f"at most {limit}", "quantity": "calls_per_token", "limit": limit, "quality": 0.5, "recovered_gap": gap,
        "recovered_gap_low": gap, "recovered_gap_high": gap, "calls_per_token": calls, "told": "trained", **more,
    }  # fmt: skip


ROWS = [
    *(row("joint+verify", 0.1, 0.1 + seed / 50, 0.6 + seed / 5, seed=seed) for seed in (0, 1)),
    *(row("joint+verify", 0.2, 0.2, 0.8 + seed / 10, seed=seed) for seed in (0, 1)),
    *(row("distilled surprise-at-end", limit, limit, 5 * limit) for limit in (0.1, 0.2)),
    row("joint+verify", 0.1, 0.12, 0.5, told="held-out phrasing"),
    row("joint+verify", 0.08, 0.06, -0.43, told="held-out limit"),
    row("joint+verify", 0.1, 0.03, -2.0, told="ambiguous"),
    *(row("joint", limit, limit, 4 * limit, actions="SELF/ASK") for limit in (0.1, 0.2)),
]
FROZEN = [row("pcl", limit, limit, 4 * limit, actions="SELF/ASK/VERIFY") for limit in (0.05, 0.1)]


def points(ax: Any) -> list[list[tuple[float, float]]]:
    return [[(round(x, 6), round(y, 6)) for x, y in np.array(line.get_data(), float).T] for line in ax.lines]


def test_a_panel_for_each_game_with_means_seeds_and_marks() -> None:
    figure = frontier(ROWS, FROZEN)
    asking, verifying = figure.axes
    drawn = points(verifying)
    assert [(0.11, 0.7), (0.2, 0.85)] in drawn, "the mean of two seeds"
    assert [(0.1, 0.6), (0.2, 0.8)] in drawn
    assert [(0.12, 0.8), (0.2, 0.9)] in drawn
    assert [(0.12, 0.5)] in drawn, "a mark for a held-out phrasing"
    assert [(0.06, LOWEST)] in drawn, "what lies far below stands at the bottom"
    assert not any((0.03, -2.0) in line for line in drawn), "ambiguous words have no place in it"
    assert [(0.05, 0.2), (0.1, 0.4)] in drawn, "the frozen gate's, which may ask and verify"
    assert points(asking).count([(0.1, 0.4), (0.2, 0.8)]) == 1, "one seed is its own mean"
    words = [text.get_text() for text in verifying.texts]
    assert {"10%", "20%", "8% \N{DOWNWARDS ARROW} -43%"} <= set(words)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[0] == "student trained with its asking"
    assert {"frozen student: PCL gate (learned)", "distilled student: verify at the end if unsure"} <= set(names)


def test_one_command_writes_the_picture_beside_the_rows(tmp_path: Path) -> None:
    (tmp_path / "letters-joint.json").write_text(json.dumps(ROWS))
    (tmp_path / "letters.json").write_text(json.dumps(FROZEN))
    main(Options(tmp_path / "letters-joint.json"))
    assert (tmp_path / "letters-joint.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "letters.json").write_text(json.dumps([{k: v for k, v in FROZEN[0].items() if k != "told"}]))
    with pytest.raises(ValueError, match="with `told`; there are others"):
        main(Options(tmp_path / "letters.json"))
    assert student_of("told p-max") == ("told", "p-max")


def log(folder: Path, start: int, values: dict[str, list[float]]) -> None:
    with SummaryWriter(str(folder / "tensorboard"), purge_step=start) as writer:
        for tag, numbers in values.items():
            for place, value in enumerate(numbers):
                writer.add_scalar(tag, value, start + 10 * place)


def test_curves_of_several_runs_are_averaged_and_repeated_updates_count_once(tmp_path: Path) -> None:
    runs = [tmp_path / "run-0", tmp_path / "run-1"]
    log(runs[0], 10, {"quality": [0.1, 0.2, 0.9], "lambda/0.1": [0.3, 0.2, 0.9], "asked/never": [0.0, 0.0, 0.0]})
    log(runs[0], 30, {"quality": [0.3], "lambda/0.1": [0.1], "asked/never": [0.0]})  # resumed behind 20
    log(runs[1], 10, {"quality": [0.3, 0.4], "asked/0.05": [0.1, 0.1]})
    curves = [read_scalars(run) for run in runs]
    np.testing.assert_allclose(curves[0]["quality"], [[10, 20, 30], [0.1, 0.2, 0.3]])
    np.testing.assert_allclose(mean_of(curves, "quality"), [[10, 20, 30], [0.2, 0.3, 0.3]])
    figure = curves_picture(curves)
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.axison]
    assert titles == [panel.title for panel in PANELS if panel.rules in ("asked", "lambda") or "quality" in panel.title]
    asked = figure.axes[1].get_legend()
    assert asked is not None
    assert [text.get_text() for text in asked.get_texts()] == ["never", "5%"]
    main(Options(runs=tuple(runs), out=tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match="Expected a TensorBoard log"):
            read_scalars(folder)
