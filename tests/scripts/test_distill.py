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
from tests.agents.small import PROMPTS
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


def test_a_text_task_needs_a_student(options: Options) -> None:
    with pytest.raises(ValueError, match="both student and teacher"):
        main(replace(options, student=None))


def test_losses_are_named_on_the_command_line_as_in_the_rows() -> None:
    parsed = tyro.cli(Options, args=["--losses", "pcl", "jsd", "--rates", "0.01"])
    assert (parsed.losses, parsed.rates) == ((Loss.PCL, Loss.JSD), (0.01,))
