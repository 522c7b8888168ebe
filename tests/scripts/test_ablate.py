"""The table of ablations: a row of each variant and seed, what is there is not done again, other settings refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from agents.joint.config import JointConfig
from agents.joint.distillation_config import DistillationConfig
from agents.joint.reading import Texts
from agents.joint.student import asking_student, start_asking
from scripts.ablate import DISTILLED, JOINT, START, Ablation, Benches, Options, main, missing, tasks
from scripts.ablate_joint import VARIANTS
from scripts.ablate_reasons import REASONS, ReasonBench
from scripts.ablate_shares import SHARES
from scripts.ablate_text import PARTS, cell, print_tables
from scripts.kept_rows import Table
from tw_env.settings import Settings, load_models
from tw_env.tasks import pronounce

JOINT_ABLATIONS = (Ablation.CLONING, Ablation.FROZEN, Ablation.OBJECTIVE)


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `told` and `started` of students that ask as the shipped one would begin to, and never."""
    folder, pair = tmp_path_factory.mktemp("students"), load_models(Settings(task="pronounce"))
    student, tokenizer = asking_student(pair.student, pair.tokenizer, reasons=8)
    for name in ("started", "told"):
        student.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        start_asking(student, Texts([[5, 6]], [[7, 8, 9]]), 0.1)
    return folder


@pytest.fixture
def options(tmp_path: Path, students: Path) -> Options:
    return Options(
        tmp_path / "rows.json", tmp_path / "work", tested=30, share_words=40, share_updates=3,
        start=str(pronounce.STUDENT), words=40, joint_words=60, joint_held=6, joint_tested=20,
        told=students / "told", started=students / "started", distillation=DistillationConfig(updates=2, batch=8),
        joint=JointConfig(call="ASK", pcl=1, episodes=4, texts=4, limits=(0.1, 0.2)),
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


def test_ask_tokens_have_the_columns_of_the_small_gate(options: Options) -> None:
    main(replace(options, only=(Ablation.ASK_SHARES,)))
    rows = rows_of(options)
    assert [row["part"] for row in rows] == ["ask shares"] * len(SHARES)
    assert {name for _, name, _ in PARTS["ask shares"][2]} <= set(rows[0])


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


def test_joint_variants_fill_their_columns(options: Options, capsys: pytest.CaptureFixture[str]) -> None:
    options = replace(options, only=JOINT_ABLATIONS)
    main(options)
    rows = rows_of(options)
    assert [row["variant"] for row in rows] == list(VARIANTS)
    for row in rows:
        assert row["part"] == "joint ASK"
        assert {name for _, name, _ in PARTS["joint ASK"][2]} <= set(row)
        assert row["began"] == VARIANTS[row["variant"]].begin
        assert 0.0 <= row["alone"] <= 1.0
        trained = row["variant"] != "cloning alone"
        assert (row["updates"], row["seconds"] > 0) == (int(trained), trained)
    assert not (options.told / "policy.json").exists(), "what a run begins from stays as it is"
    assert "no cloning (started)" in capsys.readouterr().out
    assert missing(options, Table(options.out), Benches(options)) == []


def test_verify_has_a_table_of_its_own(options: Options) -> None:
    verify = replace(options.joint, call="VERIFY")
    parts = {part for part, *_ in tasks(replace(options, joint=verify, only=JOINT_ABLATIONS), Benches(options))}
    assert parts == {"joint VERIFY"}
    row = Benches(options).of_joint("policy gradient", verify)
    assert {name for _, name, _ in PARTS["joint VERIFY"][2]} <= set(row)


def test_variants_change_what_they_say() -> None:
    assert list(VARIANTS) == list(JOINT)
    configs = {name: variant.config(JointConfig(pcl=9, frozen=True)) for name, variant in VARIANTS.items()}
    assert {config.updates for config in configs.values()} == {9}
    assert [name for name, config in configs.items() if config.pcl == 0] == ["cloning alone, going on"]
    assert configs["cloning alone, going on"].clone_weight == JointConfig().clone_kept
    assert [name for name, config in configs.items() if config.frozen] == [
        "cloning, then PCL, held still", "no cloning, held still",
    ]  # fmt: skip
    assert [name for name, config in configs.items() if config.objective == "expected_return"] == ["policy gradient"]
    assert [name for name, config in configs.items() if config.clone_kept == 0] == [
        "cloning, then PCL alone", "no cloning", "no cloning, held still",
    ]  # fmt: skip


def test_a_student_that_is_missing_is_named_with_its_command(options: Options, tmp_path: Path) -> None:
    gone = replace(options, told=tmp_path / "runs" / "told" / "model")
    with pytest.raises(FileNotFoundError, match=r"scripts.joint --out \S+runs/told .*--config.clone 12000"):
        main(replace(gone, only=(Ablation.OBJECTIVE,)))
    with pytest.raises(FileNotFoundError, match=r"--config.start 14000 --config.clone 0.*--started OUT/model"):
        main(replace(options, only=(Ablation.FROZEN,), started=tmp_path / "none"))
    main(replace(gone, only=(Ablation.SHARES,)))  # where nobody needs it
    assert len(rows_of(options)) == len(SHARES)


def test_students_that_were_swapped_are_refused(options: Options) -> None:
    swapped = replace(options, told=options.started, started=options.told)
    for name, asked in (
        ("cloning alone", "told one has 8 of them, not"),
        ("no cloning", "started one has 8 of them, "),
    ):
        with pytest.raises(ValueError, match=asked):
            Benches(swapped).of_joint(name, options.joint)


def test_settings_of_one_part_leave_the_others_alone(options: Options) -> None:
    main(replace(options, only=(Ablation.SHARES,)))
    main(replace(options, only=(Ablation.SHARES,), joint=JointConfig(), words=50))
    other = replace(options, only=(Ablation.EXPECTED,), words=50)
    main(other)
    assert {row["part"] for row in rows_of(options)} == {"shares", "distillation"}
    with pytest.raises(ValueError, match="words 50 there, 40 now"):
        main(replace(other, words=40))


def test_a_variant_that_several_ablations_need_is_run_once(options: Options) -> None:
    every = [(part, name, seed) for part, name, seed, _ in tasks(replace(options, seeds=(0, 1)), Benches(options))]
    assert len(every) == len(set(every)) == 2 * (2 * len(SHARES) + len(DISTILLED) + len(JOINT) + 1) + 1 + len(REASONS)


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
    options = Options(out=copied, seeds=(0,))
    assert missing(options, Table(copied), Benches(options)) == []


def test_more_ask_tokens_know_more_of_the_doubts() -> None:
    bench = ReasonBench(60, 60, "cpu")
    one, many = bench.row(1), bench.row(64)
    assert one["p_max_auc"] == many["p_max_auc"] > 0.7
    assert 0.4 < one["auc"] < many["auc"] < many["p_max_auc"] + 0.05


def test_a_network_learns_where_the_student_goes_wrong() -> None:
    bench = ReasonBench(400, 200, "cpu")
    found = bench.network_row(0)
    assert found == bench.network_row(0)
    assert found["p_max_auc"] == pytest.approx(bench.row(1)["p_max_auc"])
    assert found["auc"] > 0.8
