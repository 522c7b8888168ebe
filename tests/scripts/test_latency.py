"""One text at a time: the same texts and teacher calls as transformers' assisted generation, and a row for each."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import tw_env
from scripts.clock import Foreseen, Generated, Output, Played, counted, modelled, race, side_by_side
from scripts.contenders import Field, joint, run_names, share
from scripts.latency import BATCHED, Options, check_same, main, read_rows
from scripts.latency_picture import _ends, _frontiers
from tests.agents.small import PROMPTS as WORDS
from tests.asking import asking_pair
from tests.families import source_pair
from tests.letters import PROMPTS, names_of, pair_of
from tests.tiny import tiny_pair
from tw_env.actions import Action
from tw_env.costs import LatencyTable
from tw_env.decoding.loading import Pair
from tw_env.generate.playing import find_policy
from tw_env.policies import AskToken, ScoreThreshold
from tw_env.policies.cuts import CutTable
from tw_env.rules import Constraint, Quantity, parse

CAP = 8
FREE = Constraint(Quantity.CALLS_PER_TOKEN, float("inf"))
NEEDED = ("policy", "kind", "rule", "quality", "recovered_gap", "tokens_per_second", "teacher_calls", "prompts")


def encoded(pair: Pair) -> list[tuple[int, ...]]:
    return [tuple(ids) for ids in pair.tokenizer(list(PROMPTS)).input_ids]


@pytest.mark.parametrize("draft", [1, 2, 3, CAP])
def test_speculation_is_assisted_generation_call_for_call(draft: int) -> None:
    pair = pair_of(positions=64)
    prompts = encoded(pair)
    ours = Played(pair, find_policy(f"speculative-{draft}", pair), prompts, CAP, FREE, "exact")
    theirs = Generated(pair, prompts, CAP, draft)
    total = 0
    for prompt in range(len(prompts)):
        (mine, read), (other, _) = counted(ours, pair, prompt), counted(theirs, pair, prompt)
        assert (mine.tokens, mine.calls) == (other.tokens, other.calls), prompt
        assert read == mine.calls, "a prompt takes no pass of its own"
        total += mine.calls
    assert total < sum(len(theirs.write(prompt).tokens) for prompt in range(len(prompts)))


@pytest.mark.parametrize("kind", ["t5", "marian"])
def test_so_it_is_for_encoder_decoders(kind: str) -> None:
    pair = source_pair(kind)
    prompts = [(3, 4, 5, 6, 0), (7, 8, 0), (9, 3, 11, 0)]
    ours = Played(pair, find_policy("speculative-2", pair), prompts, CAP, FREE, "exact")
    theirs = Generated(pair, prompts, CAP, 2)
    for prompt in range(len(prompts)):
        (mine, _), (other, _) = counted(ours, pair, prompt), counted(theirs, pair, prompt)
        assert mine.tokens == other.tokens
        assert mine.calls == other.calls or kind == "t5", "transformers drafts for it what the student would not write"


@pytest.mark.parametrize("kind", ["causal", "t5"])
def test_an_oracle_knows_where_to_ask_before_the_clock_begins(kind: str) -> None:
    pair = pair_of(positions=64) if kind == "causal" else source_pair(kind)
    prompts = encoded(pair) if kind == "causal" else [(3, 4, 5, 6, 0), (7, 8, 0), (9, 3, 11, 0)]
    teacher = Played(pair, find_policy("teacher", pair), prompts, CAP, FREE, "exact")
    oracle = Foreseen(pair, prompts, CAP, FREE)
    for prompt in (*range(len(prompts)), 0):
        (mine, passes), (text, _) = counted(oracle, pair, prompt), counted(teacher, pair, prompt)
        assert mine.tokens == text.tokens
        source = pair.encoder_decoder and mine.calls > 0
        assert passes == mine.calls + source, "it looks at the teacher in calls alone"
        assert mine.calls == sum(oracle._plans[prompt]) <= text.calls


def test_drafts_are_verified_side_by_side_where_transformers_takes_one_text_at_a_time() -> None:
    pair = pair_of(positions=64)
    prompts = encoded(pair)
    drafting = find_policy("speculative-2", pair)
    one = Played(pair, drafting, prompts, CAP, FREE, "exact")
    tokens = sum(len(one.write(prompt).tokens) for prompt in range(len(prompts)))
    for rows in (1, 3, len(prompts)):
        seconds, written = side_by_side(pair, drafting, prompts, CAP, FREE, rows)
        assert written == tokens
        assert (seconds > 0).all()
    two = torch.tensor([prompts[0], prompts[0]])
    with pytest.raises(ValueError, match="batch_size = 1"):
        pair.teacher.generate(two, attention_mask=torch.ones_like(two), assistant_model=pair.student, max_new_tokens=4)


def test_a_text_is_read_anew_whenever_it_is_written_again() -> None:
    pair = pair_of(positions=64)
    prompts = encoded(pair)
    writer = Played(pair, find_policy("speculative-2", pair), prompts, CAP, FREE, "exact")
    first = [counted(writer, pair, prompt) for prompt in range(3)]
    assert [counted(writer, pair, prompt) for prompt in range(3)] == first
    assert all(output.read >= len(prompts[prompt]) for prompt, (output, _) in enumerate(first))


def test_a_student_that_reads_rules_is_told_its_own() -> None:
    pair = asking_pair()
    prompts = encoded(pair)
    told = [(3, 4, *ids) for ids in prompts]
    heard = Played(pair, AskToken, prompts, CAP, FREE, "exact", told)
    deaf = Played(pair, AskToken, prompts, CAP, FREE, "exact")
    texts = [[writer.write(prompt).tokens for prompt in range(len(prompts))] for writer in (heard, deaf)]
    assert texts[0] != texts[1]


def test_a_jointly_trained_student_is_told_each_limit_in_words(tmp_path: Path) -> None:
    pair, words = asking_pair(), WORDS[:6]
    data = tmp_path / "letters.jsonl"
    data.write_text(
        "\n".join(json.dumps({"prompt": word, "reference": "a " + word, "split": "test"}) for word in words)
    )
    names = names_of(tiny_pair(positions=80))
    options = Options(
        task="text", data=str(data), metric="edit", limit=(0.1, 0.3), joint=(tmp_path / "run",), rows=4, prompts=6,
        max_new_tokens=CAP, **names,
    )  # fmt: skip
    folder = tmp_path / "run" / "model"
    pair.student.save_pretrained(folder)
    pair.tokenizer.save_pretrained(folder)
    field = Field.open(options)
    env = field.game("test", 6, student=str(folder))
    AskToken(env.layout, env.game.spec.actions).save(folder)
    rare, often = joint(field, options.joint[0], "run", options.limit)
    assert rare.told != often.told
    assert (rare.name, rare.words, rare.kind, len(rare.told or ())) == ("joint run", str(share(0.1)), "joint", 6)
    text = rare.writer(field.encoded("test", 6)).write(0)
    assert 0 < len(text.tokens) <= CAP


def test_runs_are_named_by_their_folders() -> None:
    assert run_names([Path("runs/a"), Path("runs/b/model")]) == ["a", "b"]
    assert run_names([Path("old/a"), Path("new/a/model")]) == ["old/a", "new/a"]


def test_the_settings_of_the_student_are_as_before() -> None:
    pair = pair_of(positions=64)
    before = pair.student.generation_config.to_dict()
    Generated(pair, encoded(pair), CAP, 3).write(0)
    assert pair.student.generation_config.to_dict() == before


def test_a_race_times_everyone_on_every_prompt() -> None:
    pair = pair_of(positions=64)
    prompts = encoded(pair)
    writers = {
        "ours": Played(pair, find_policy("speculative", pair), prompts, CAP, FREE, "exact"),
        "theirs": Generated(pair, prompts, CAP, CAP),
    }
    times = race(writers, range(4), 2, torch.device("cpu"))
    assert all(timed.cpu.shape == timed.wall.shape == (4,) and (timed.wall > 0).all() for timed in times.values())
    assert [one.tokens for one in times["ours"].outputs] == [one.tokens for one in times["theirs"].outputs]
    with pytest.raises(ValueError, match="rounds >= 1"):
        race(writers, range(4), 0, torch.device("cpu"))


def test_the_model_charges_steps_calls_and_what_calls_read() -> None:
    table = LatencyTable(student_ms=1.5, teacher_ms=4.0, teacher_ms_per_token=0.25)
    outputs = [Output((), calls=0, steps=3), Output((), calls=2, steps=4, read=12)]
    assert modelled(table, outputs).tolist() == [4.5, 4 * 1.5 + 2 * 4.0 + 10 * 0.25]
    encoders = replace(table, student_prompt_ms=2.0, teacher_prompt_ms=5.0)
    assert modelled(encoders, outputs).tolist() == [6.5, 4 * 1.5 + 2 * 4.0 + 10 * 0.25 + 7.0]


def test_texts_that_differ_are_not_passed_over() -> None:
    same = [Output((1, 2), 1, 3)] * 5
    assert check_same({"a": same, "b": same}, "a", "b") == 0
    with pytest.raises(RuntimeError, match="5 of 5"):
        check_same({"a": same, "b": [Output((1, 2), 2, 3)] * 5}, "a", "b")


def test_a_small_run_writes_a_row_for_each_policy_and_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "letters.jsonl"
    records = [
        {"prompt": word, "reference": "a " + word, "split": ("policy", "test")[place % 2]}
        for place, word in enumerate(WORDS)
    ]
    data.write_text("\n".join(json.dumps(record) for record in records))
    main(
        Options(
            task="text", out=tmp_path, data=str(data), metric="edit", prompts=20, timed=4, rounds=1, calibration=20,
            drafted=3, draft=(2,), accept=("distance:2",), limit=(0.1, 0.3), rows=8, max_new_tokens=CAP,
            side_by_side=(1, 4), **names_of(tiny_pair()),
        )
    )  # fmt: skip
    rows = json.loads((tmp_path / "latency-text.json").read_text())
    assert (tmp_path / "latency-text.png").read_bytes().startswith(b"\x89PNG")
    assert all(name in row for row in rows for name in NEEDED)
    assert [row["rows"] for row in rows if row["kind"] == BATCHED] == [1, 4]
    rows = [row for row in rows if row["kind"] != BATCHED]
    by_name = {row["policy"]: row for row in rows}
    assert by_name.keys() == {
        "student", "teacher", "oracle", "speculative-2", "speculative-rest", "lossy", "p-max", "surprise-at-end",
        "big-little", "assisted-2", "assisted-rest", "assisted", "generate-student", "generate-teacher",
    }  # fmt: skip
    assert by_name["speculative-2"]["teacher_calls"] == by_name["assisted-2"]["teacher_calls"]
    assert by_name["student"]["teacher_calls"] == 0
    assert by_name["student"]["recovered_gap"] == 0
    assert by_name["oracle"]["teacher_calls"] <= by_name["teacher"]["teacher_calls"]
    lossless = ("oracle", "teacher", "speculative-rest")
    assert {by_name[name]["recovered_gap"] for name in lossless} == {1}
    assert len([row for row in rows if row["policy"] == "p-max"]) == 2
    assert all(row["tokens_per_second"] > 0 and row["timed"] == 4 for row in rows)
    said = capsys.readouterr().out
    assert "fastest lossless" in said
    main(Options(task="text", out=tmp_path, redraw=True))
    again = capsys.readouterr().out
    assert again.splitlines()[-4:] == said.splitlines()[-4:], "the same is told of rows that were written before"
    with pytest.raises(FileNotFoundError, match="leave out --redraw"):
        main(Options(task="translate", out=tmp_path, redraw=True))


def test_a_pair_with_encoders_is_measured_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "talks-en-it.jsonl"
    records = [
        {"prompt": word, "reference": word + " a", "split": ("policy", "test")[place % 2]}
        for place, word in enumerate(WORDS)
    ]
    data.write_text("\n".join(json.dumps(record) for record in records))
    pair = names_of(source_pair("t5"))
    settings = {"data": str(data), "max_new_tokens": CAP, **pair}
    env = tw_env.make_vec("tw_env/TranslateVerify-v0", 2, latency=LatencyTable(1.0, 4.0, 0.1), **settings)
    seen = [0.2, 0.5]
    cut = CutTable(limits={"latency_ms": seen}, cuts={"latency_ms": [0.9, 0.5]})
    ScoreThreshold(env.unwrapped.layout, env.unwrapped.game.spec.actions, "p_max", cut, Action.ASK).save(
        tmp_path / "timed"
    )
    main(
        Options(
            task="translate", out=tmp_path, data=str(data), prompts=12, timed=3, rounds=1, calibration=12, drafted=2,
            draft=(2,), accept=(), limit=(0.2,), rows=8, max_new_tokens=CAP, side_by_side=(4,),
            policy=(str(tmp_path / "timed"),), **pair,
        )
    )  # fmt: skip
    rows = json.loads((tmp_path / "latency-translate.json").read_text())
    timed = [row for row in rows if row["policy"].endswith("timed")]
    told = [parse(row["rule"]) for row in timed]
    assert {rule.quantity for rule in told} == {Quantity.LATENCY_MS}
    wanted = [share * CAP * timed[0]["table"]["teacher_ms"] for share in seen]
    assert [rule.limit for rule in told] == pytest.approx(wanted, rel=0.01), "as this machine's table tells them"
    assert {row["policy"] for row in rows} >= {"oracle", "p-max", "assisted-2", "generate-teacher"}
    assert all(row["table"]["teacher_prompt_ms"] >= 0 < row["table"]["student_prompt_ms"] for row in rows)
    assert "prompts differ in text or calls" in capsys.readouterr().out


def test_the_gate_and_both_models_alone_are_named_in_the_picture() -> None:
    axes = Figure().subplots()
    rows = read_rows(Path("results/latency-translate.json"))  # whose task is called by its languages
    _frontiers(axes, rows)
    assert "PCL gate (learned)" in axes.get_legend_handles_labels()[1]
    _ends(axes, rows)
    assert {text.get_text() for text in axes.texts} == {"student alone", "teacher alone"}


def test_published_rows_name_no_place_on_a_machine() -> None:
    for path in Path("results").rglob("*.json"):
        assert not re.search(r"[\" ]/\w+/", path.read_text()), path
