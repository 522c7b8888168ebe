"""The table of ablations: a row of each variant and seed, what is there is not done again, other settings refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from agents.joint.config import JointConfig
from agents.joint.distillation import DistillationConfig
from scripts.ablate import DISTILLED, JOINT, MAY_DIFFER, SHARES, START, Ablation, Benches, Options, main, tasks
from scripts.ablate_joint import joint_variants
from scripts.ablate_reasons import REASONS, ReasonBench
from scripts.ablate_text import PARTS, cell, print_tables
from scripts.distill import Table
from tw_env.tasks import pronounce


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(
        tmp_path / "rows.json", tmp_path / "work", tested=30, share_words=40, share_updates=3,
        start=str(pronounce.STUDENT), words=40, joint_words=60, joint_held=6, joint_first=2, joint_pcl=1,
        distillation=DistillationConfig(updates=2, batch=8), joint=JointConfig(episodes=4, texts=4),
    )  # fmt: skip


def rows_of(options: Options) -> list[dict[str, Any]]:
    return json.loads(options.out.read_text())["rows"]


def test_shares_have_a_row_each_and_are_taken_up_again(
    options: Options, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(options, only=(Ablation.SHARES,))
    main(options)
    whole = rows_of(options)
    assert [(row["variant"], row["seed"]) for row in whole] == [(f"{share:g}", 0) for share in SHARES]
    first = {**json.loads(options.out.read_text()), "rows": whole[:3]}
    options.out.write_text(json.dumps(first))
    main(options)
    assert rows_of(options) == whole
    monkeypatch.setattr(Benches, "of_share", lambda self, share, seed: pytest.fail("done already"))
    main(options)
    assert "closed form" in capsys.readouterr().out
    with pytest.raises(ValueError, match="share_updates 3 there, 4 now"):
        main(replace(options, share_updates=4))


def test_too_many_words_are_refused(options: Options) -> None:
    with pytest.raises(ValueError, match="Expected at most 10000 words"):
        main(replace(options, only=(Ablation.SHARES,), share_words=1_000_000))


def test_distillation_fills_its_columns(options: Options) -> None:
    main(replace(options, only=(Ablation.EXPECTED,)))
    rows = rows_of(options)
    assert [row["variant"] for row in rows] == [START, "d = 1, 4, end; V a network", "stored distributions"]
    for row in rows:
        assert {name for _, name, _ in PARTS["distillation"][2]} <= set(row)
    assert [row["texts"] for row in rows] == [0, 16, 16]


def test_joint_training_fills_its_columns(options: Options) -> None:
    config = joint_variants(options.joint_first, options.joint_pcl, options.joint)["start, then frozen"]
    row = Benches(options).of_joint("start, then frozen", config)
    assert {name for _, name, _ in PARTS["joint"][2]} <= set(row)
    assert 0.0 <= row["alone"] <= 1.0


def test_a_variant_that_several_ablations_need_is_run_once(options: Options) -> None:
    every = [(part, name, seed) for part, name, seed, _ in tasks(replace(options, seeds=(0, 1)), Benches(options))]
    assert len(every) == len(set(every)) == 2 * (len(SHARES) + len(DISTILLED) + len(JOINT)) + 1 + len(REASONS)
    variants = joint_variants(5, 3, JointConfig())
    assert list(variants) == list(JOINT)
    assert {config.updates for config in variants.values()} == {8}
    assert [config.frozen for config in variants.values()] == [False, False, True, True]


def test_cells_are_means_over_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert cell([0.5], ".1%") == "50.0%"
    assert cell([1.0, 3.0, None], ".1f") == "2.0 (1.4)"
    assert cell([None], ".1f") == "\N{EN DASH}"
    row = {
        "part": "distillation",
        "variant": "d = 1",
        "quality": 0.4,
        "nats": 0.5,
        "kl": 1.0,
        "tokens": 9,
        "seconds": 1,
    }
    print_tables([row, {**row, "quality": 0.6}])
    assert "50.0% (14.1%)" in capsys.readouterr().out


def test_ablations_are_named_on_the_command_line() -> None:
    assert tyro.cli(Options, args=["--only", "shares", "frozen"]).only == (Ablation.SHARES, Ablation.FROZEN)


def test_the_published_table_is_taken_up_by_the_published_command(tmp_path: Path) -> None:
    copied = tmp_path / "ablations.json"
    copied.write_bytes(Path("results/ablations.json").read_bytes())
    assert Table(Options(out=copied), MAY_DIFFER).content["rows"]


def test_more_ask_tokens_know_more_of_the_doubts() -> None:
    bench = ReasonBench(60, 60, "cpu")
    one, many = bench.row(1), bench.row(64)
    assert one["p_max_auc"] == many["p_max_auc"] > 0.7
    assert 0.4 < one["auc"] < many["auc"] < many["p_max_auc"] + 0.05
