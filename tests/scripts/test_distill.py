"""The table of losses: a row for each loss and seed, a killed sweep taken up again, other settings refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from agents.joint.distillation import Distillation
from agents.joint.distillation_config import DistillationConfig
from agents.joint.objective import Loss
from scripts.distill import Options, main
from scripts.kept_rows import Table
from tests.agents.small import PROMPTS
from tests.launching import launch
from tests.letters import names_of
from tests.tiny import tiny_pair

COLUMNS = {"loss", "seed", "learning_rate", "on_policy_share", "quality", "nats", "kl", "updates", "texts", "tokens"}


@pytest.fixture
def options(tmp_path: Path) -> Options:
    data = tmp_path / "letters.jsonl"
    parts = ("policy", "policy", "dev", "test")
    records = [{"prompt": words, "reference": "a c " + words, "split": parts[i % 4]} for i, words in enumerate(PROMPTS)]
    data.write_text("\n".join(json.dumps(record) for record in records))
    names = names_of(tiny_pair())
    return Options(
        tmp_path / "rows.json", tmp_path / "work", losses=(Loss.SUPERVISED, Loss.PCL), seeds=(0, 1), updates=3,
        rates=(1e-3, 1e-2), search_updates=2, task="text", data=str(data), metric="edit", max_new_tokens=5,
        student=names["student"], teacher=names["teacher"], config=DistillationConfig(batch=4, checkpoint_every=1),
    )  # fmt: skip


def test_a_killed_sweep_goes_on_and_ends_with_the_rows_of_an_unbroken_one(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = replace(options, out=options.out.with_name("whole.json"), work=options.work.with_name("whole"))
    main(whole)
    step, steps = Distillation._step, 0

    def breaking(self: Distillation, prompts: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 18:  # in the middle of the last loss of the first seed
            raise KeyboardInterrupt
        return step(self, prompts)  # type: ignore[arg-type]

    monkeypatch.setattr(Distillation, "_step", breaking)
    with pytest.raises(KeyboardInterrupt):
        main(options)
    assert len(json.loads(options.out.read_text())["rows"]) < 4
    main(options)
    found, wanted = (json.loads(path.read_text()) for path in (options.out, whole.out))
    for content in (found, wanted):
        assert len(content["search"]) == 4
        assert [(row["loss"], row["seed"]) for row in content["rows"]] == [
            (loss, seed) for seed in (0, 1) for loss in ("supervised", "pcl")
        ]
        assert set(content["rows"][0]) >= COLUMNS
        for row in (*content["search"], *content["rows"]):
            del row["seconds"]
    assert found["rows"] == wanted["rows"]
    assert found["search"] == wanted["search"]
    assert {row["tokens"] for row in found["rows"] if row["loss"] == "supervised"} == {0}
    assert (options.work / "pcl-1" / "model.safetensors").is_file()
    printed = capsys.readouterr().out.splitlines()
    heading, line = printed[-6].split(), dict(zip(printed[-6].split(), printed[-3].split(), strict=True))
    assert heading[0] == "loss"
    assert (line["loss"], line["updates"], line["tokens"]) == ("supervised", "3", "0")
    assert float(line["s"]) >= 0, "equal compute can be judged: processor seconds, updates and teacher tokens"
    with pytest.raises(ValueError, match="updates 3 there, 4 now"):
        main(replace(options, updates=4))


SHORT = (
    "--prompts 17 --held-out 12 --start-updates 1 --updates 3 --search-updates 1 --rates 1e-3 1e-2 --seeds 0 "
    "--losses supervised pcl --config.batch 8 --config.checkpoint-every 2 --device cpu"
)


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one_and_the_main_one_writes(tmp_path: Path) -> None:
    both, alone = tmp_path / "both", tmp_path / "alone"
    words = ["--out", str(both / "rows.json"), "--work", str(both), *SHORT.split()]
    printed = launch(tmp_path / "home", "scripts.distill", *words)
    assert printed.count("start: 0 of 1 updates") == 1
    assert printed.count("rows written to") == 1
    main(tyro.cli(Options, args=["--out", str(alone / "rows.json"), "--work", str(alone), *SHORT.split()]))
    found, wanted = (json.loads((folder / "rows.json").read_text()) for folder in (both, alone))
    for kind, count in (("search", 4), ("rows", 2)):
        assert len(found[kind]) == count
        for one, other in zip(found[kind], wanted[kind], strict=True):
            assert one.pop("loss") == other.pop("loss")
            assert one.pop("seconds") >= 0
            del other["seconds"]
            assert one == pytest.approx(other, rel=1e-4)
    logs = sorted(path.parent.name for path in both.glob("*/tensorboard"))
    assert logs == sorted(path.parent.name for path in alone.glob("*/tensorboard"))
    assert all(len(list((both / log / "tensorboard").iterdir())) == 1 for log in logs)
    assert not list(both.glob("pcl*/checkpoint.pt"))


def test_a_table_that_another_process_writes_stays_in_memory(tmp_path: Path) -> None:
    table = Table(tmp_path / "rows.json", writes=False)
    table.add("rows", {"seed": 0})
    assert table.find("rows", seed=0) == {"seed": 0}
    assert not table.path.exists()


def test_a_text_task_needs_a_student(options: Options) -> None:
    with pytest.raises(ValueError, match="both student and teacher"):
        main(replace(options, student=None))


def test_losses_are_named_on_the_command_line_as_in_the_rows() -> None:
    parsed = tyro.cli(Options, args=["--losses", "pcl", "jsd", "--rates", "0.01"])
    assert (parsed.losses, parsed.rates) == ((Loss.PCL, Loss.JSD), (0.01,))
