"""The report of the game's speed holds every promised figure; how fast it is depends on the machine."""

from __future__ import annotations

import json
from pathlib import Path

from scripts.speed import Options, main

RATIOS = (
    "step_over_forward", "step_with_resets_over_forward", "speedup_over_per_env_cache", "speedup_over_reforward",
    "tree_speedup",
)  # fmt: skip


def test_a_small_run_reports_every_figure(tmp_path: Path) -> None:
    main(Options(tmp_path / "speed.json", rows=4, rounds=1, steps=2, prompts=8, words=8))
    report = json.loads((tmp_path / "speed.json").read_text())
    assert (report["rows"], report["threads"]) == (4, 1)
    assert all(report[name] > 0 for name in (*RATIOS, "step_scored_eager_ms", "step_scored_lazy_ms", "tree_mebibytes"))
