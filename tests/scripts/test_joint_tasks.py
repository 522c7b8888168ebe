"""Joint training from the command line: an encoder-decoder pair on a file of its own, judged against where it began."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from agents.baselines.calibration import CalibrationConfig
from agents.joint import diagnostics
from agents.joint.config import JointConfig
from agents.joint.deployment import MODEL
from agents.joint.sampling import Writer
from agents.joint.teacher import ScoredTexts
from agents.joint.training_cost import TrainingCost
from agents.joint.wording import FREE, NEVER
from scripts import evaluate, generate
from scripts import joint_rivals as rivals
from scripts.joint import Options, main
from scripts.joint_curves import read_scalars
from scripts.joint_games import original_of, settings_of, teacher_of
from scripts.joint_rules import AMBIGUOUS, HELD_BACK_LIMITS, JUDGED, OPEN, judged_rules, readable
from scripts.latency import Options as LatencyOptions
from scripts.latency import main as measure_latency
from tests.agents.small import PROMPTS as WORDS
from tests.asking import POSITIONS
from tests.families import source_pair
from tests.letters import names_of
from tw_env.rules import Constraint, Quantity, paraphrases
from tw_env.tasks import pronounce
from tw_env.tasks.shipped import shipped_pair

CAP = 6
CONFIG = JointConfig(clone=6, pcl=4, episodes=8, texts=8, limits=(0.1, 0.3), level_rate=0.1)


def options_of(folder: Path, **changed: Any) -> dict[str, Any]:
    """Of a run on the letters in this folder."""
    names = {name: value for name, value in names_of(source_pair("t5", POSITIONS)).items() if name != "device"}
    shared = {
        "rows": folder / "rows.json", "task": "summarize", "data": str(folder / "letters.jsonl"), "metric": "edit",
        "held": 8, "max_new_tokens": CAP, "play_rows": 32, "device": "cpu", "stored": folder / "stored.safetensors",
    }  # fmt: skip
    return {**shared, **names, **changed}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5, trained for some updates on prompts of letters, and its rows."""
    folder = tmp_path_factory.mktemp("joint")
    pair = source_pair("t5", POSITIONS)
    prompts = pair.tokenizer(list(WORDS)).input_ids
    right = Writer(pair.teacher, 1, CAP, pair.end_tokens).greedy(prompts).outputs  # what the teacher says
    texts = pair.tokenizer.batch_decode(right, skip_special_tokens=True)
    records = [
        {"prompt": word, "reference": text, "split": ("policy", "test")[place % 2]}
        for place, (word, text) in enumerate(zip(WORDS, texts, strict=True))
        if text
    ]
    (folder / "letters.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnostics, "TEACHER_EVERY", 10)
        main(Options(out=folder / "run", asks=8, doubt=1.0, config=CONFIG, **options_of(folder)))
    return folder


def test_the_log_is_read_back_as_curves_of_every_group(run_folder: Path) -> None:
    curves = read_scalars(run_folder / "run")
    assert {tag.split("/")[0] for tag in curves} >= {
        "asked", "lambda", "level", "violation", "kl", "drift", "value", "residual", "nats", "share",
    }  # fmt: skip
    assert {"lambda/0.1", "lambda/0.3", "kl/own", "asking/auc", "quality", "calls_per_token"} <= set(curves)
    for tag, (updates, values) in curves.items():
        assert updates.tolist() == [CONFIG.updates], tag
        assert np.isfinite(values).all(), tag
    assert all(0 <= curves[tag][1][0] <= 1 for tag in curves if tag.startswith("asked/"))
    assert curves["lambda/0.1"][1][0] > curves["lambda/0.3"][1][0] > 0
    assert sum(float(curves[f"share/{who}"][1][0]) for who in ("own", "gold", "teacher")) == pytest.approx(1.0)


def test_an_encoder_decoder_is_trained_saved_and_judged(run_folder: Path) -> None:
    rows = json.loads((run_folder / "rows.json").read_text())
    assert {row["told"] for row in rows} >= {"trained", "held-out phrasing", "held-out limit", "ambiguous"}
    assert {row["words"] for row in rows if row["told"] == "ambiguous"} == set(AMBIGUOUS)
    assert all(0 <= row["quality"] <= 1 for row in rows)
    told = {
        agent: {row["told"] for row in rows if row["agent"] == agent}
        for agent in ("joint+verify words", "joint+verify")
    }
    assert told["joint+verify"] == {"trained", "held-out phrasing", "held-out limit"}, "a table of limits needs a limit"
    assert told["joint+verify words"] == {"trained", "ambiguous", "open"}
    assert len(rows) == sum(row["agent"] in told for row in rows)
    never = next(row for row in rows if row["limit"] == 0)
    assert never["rule"].startswith("never")
    assert never["calls_per_token"] == 0
    config = json.loads((run_folder / "run" / MODEL / "config.json").read_text())
    assert (len(config["ask_token_ids"]), config["ask_doubt"]) == (8, 1.0)


def test_a_run_tells_task_and_pair(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = names_of(source_pair("t5", POSITIONS))
    (row,) = evaluate.evaluate(evaluate.Options((str(run_folder / "run"),), prompts=8, rows=8, device="cpu"))
    assert row["prompts"] == 8
    assert list(row["corpus"]) == ["rouge1", "rouge2", "rougeL"], "the task of the run"
    with pytest.raises(ValueError, match="which this student was trained to read; got one on calls"):
        evaluate.evaluate(
            evaluate.Options((str(run_folder / "run" / "model"),), ("at most 2 calls",), prompts=8, device="cpu")
        )
    generate.main(generate.Options(policy=str(run_folder / "run"), prompt=("a b c",), device="cpu"))
    assert "calls per token" in capsys.readouterr().out
    kept = json.loads((run_folder / "run" / "settings.json").read_text())
    assert (kept["task"], kept["metric"], kept["teacher"]) == ("summarize", "edit", names["teacher"])


def test_rows_say_what_training_took_with_the_runs_before(run_folder: Path) -> None:
    first = json.loads((run_folder / "rows.json").read_text())[0]
    student = run_folder / "run" / MODEL
    taken = TrainingCost.read(student)
    assert taken is not None
    assert taken.updates == CONFIG.updates
    assert taken.env_steps >= CONFIG.pcl * CONFIG.episodes
    (read,) = taken.teacher_tokens.values()
    assert read == ScoredTexts.load(run_folder / "stored.safetensors").teacher_tokens
    assert first["training_teacher_tokens"] > read, "the cut was fitted in play with the teacher"
    assert first["training_env_steps"] > taken.env_steps

    quick = CalibrationConfig((0.1,), prompts=8, rounds=2)
    begun = options_of(run_folder, student=str(student), rows=run_folder / "rivals.json")
    games: Any = ("SELF/VERIFY",)
    rivals.main(rivals.RivalOptions(out=run_folder / "rival", updates=3, games=games, calibration=quick, **begun))
    rival = TrainingCost.read(run_folder / "rival" / MODEL)
    assert rival is not None
    assert (rival.updates, rival.env_steps) == (CONFIG.updates + 3, taken.env_steps)
    assert rival.seconds > taken.seconds
    assert rival.teacher_tokens == taken.teacher_tokens, "both learnt from the same texts, which were written once"
    rows = json.loads((run_folder / "rivals.json").read_text())
    assert {(row["agent"], row["actions"]) for row in rows} == {
        ("distilled p-max", "SELF/VERIFY"),
        ("distilled surprise-at-end", "SELF/VERIFY"),
    }
    for row in rows:
        assert row["training_teacher_tokens"] > read
        assert row["training_seconds"] > rival.seconds


def test_its_latency_is_measured_beside_the_others(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = names_of(source_pair("t5", POSITIONS))
    measure_latency(
        LatencyOptions(
            task="summarize", out=run_folder, data=str(run_folder / "letters.jsonl"), metric="edit", prompts=12,
            timed=3, rounds=1, calibration=12, drafted=2, draft=(2,), accept=(), limit=(0.1, 0.3), rows=8,
            max_new_tokens=CAP, joint=(run_folder / "run",), **names,
        )
    )  # fmt: skip
    rows = json.loads((run_folder / "latency-summarize.json").read_text())
    mine = [row for row in rows if row["kind"] == "joint"]
    assert [row["policy"] for row in mine] == ["joint run"] * 2
    assert len({row["rule"] for row in mine}) == 2
    needed = ("quality", "recovered_gap", "tokens_per_second", "teacher_calls", "prompts")
    assert all(row[name] is not None for row in mine for name in needed)
    student = next(row for row in rows if row["policy"] == "student")
    assert student["recovered_gap"] == 0, "the gap is that of the pair that training began with"
    assert "of the gap, joint:" in capsys.readouterr().out
    assert (run_folder / "latency-summarize.png").read_bytes().startswith(b"\x89PNG")


def test_open_wordings_are_judged_where_every_word_is_known() -> None:
    subwords = AutoTokenizer.from_pretrained(shipped_pair("summarize").student)
    whole = AutoTokenizer.from_pretrained(pronounce.STUDENT)
    assert all(readable(words, subwords) for words in (*OPEN, *AMBIGUOUS))
    assert [words for words in OPEN if readable(words, whole)] == [
        "roughly every twentieth token may come from your teacher"
    ]
    assert readable("never ask the teacher", whole)


def test_nothing_that_is_held_back_is_trained_on() -> None:
    limits = JointConfig().limits
    assert not set(HELD_BACK_LIMITS) & set(limits)
    assert set(JUDGED) <= set(limits)
    assert max(HELD_BACK_LIMITS) > max(limits), "one lies beyond the trained range"
    read = {
        sentence
        for limit in (*limits, NEVER, FREE)
        for sentence in paraphrases(Constraint(Quantity.CALLS_PER_TOKEN, limit), held_out=False)
    }
    kinds: dict[str, set[str]] = {}
    for rule in judged_rules(AutoTokenizer.from_pretrained(shipped_pair("summarize").student)):
        kinds.setdefault(rule.name, set()).update(rule.sentences)
    assert kinds.pop("trained") <= read
    assert set(kinds) == {"held-out phrasing", "held-out limit", "ambiguous", "open"}
    for name, sentences in kinds.items():
        assert not sentences & read, name


def test_the_original_is_where_the_gap_begins() -> None:
    assert original_of(Options(Path(), student="begun")) == str(pronounce.STUDENT)
    assert original_of(Options(Path(), task="summarize")) == str(shipped_pair("summarize").student)
    assert original_of(Options(Path(), student="mine", teacher="big")) == "mine"
    assert original_of(Options(Path(), student="mine", teacher="big", original="first")) == "first"
    assert teacher_of(Options(Path(), task="summarize")) == str(shipped_pair("summarize").teacher)
    judged = settings_of(Options(Path(), student="begun", limit=9, judged=5), "test")
    assert (judged.limit, judged.teacher) == (5, str(pronounce.TEACHER))
    assert settings_of(Options(Path(), limit=9, judged=5), "policy").limit == 9
