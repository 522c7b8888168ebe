"""`scripts.generate`: texts marked by writer, their accounts, and what --policy and --prompt may be."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.command import MISTAKE, run
from scripts.generate import (
    Options,
    Text,
    account,
    against,
    as_read,
    gate_of,
    main,
    players_of,
    read_prompts,
    spelled,
    write,
)
from scripts.runs import settled
from tests.asking import asking_pair
from tests.families import source_pair
from tests.letters import Letters, Watched, names_of, pair_of
from tw_env.actions import Action, Writer
from tw_env.decoding.loading import load_pair
from tw_env.policies import AskToken, ScoreThreshold
from tw_env.render import legend, mark, marked, wants_colour
from tw_env.rules import RuleError, parse
from tw_env.tasks import pronounce
from tw_env.tasks.summarize import SOURCE_WORDS

WORDS = ("hello", "pneumonia", "a")
RULE = "ask the teacher for at most 20% of the tokens"
TINY = {
    "task": "text",
    "device": "cpu",
    "max_new_tokens": 8,
    "prompt": ("a b c", "b", "d a c"),
    "policy": "speculative",
}


def tiny(**more: object) -> Options:
    return Options(**(TINY | names_of(pair_of()) | more))  # type: ignore[arg-type]


# ---- what is printed -------------------------------------------------------------------------------------------


def test_words_are_spelt_marked_and_accounted(capsys: pytest.CaptureFixture[str]) -> None:
    main(Options(prompt=WORDS, rule=RULE, device="cpu", prices=(0.01, 0.0, 0.0)))
    head, *blocks, last = capsys.readouterr().out.strip().split("\n\n")
    assert head == "written by: student (accepted) [teacher]"
    assert len(blocks) == 3
    sums = [0, 0]
    for word, block in zip(WORDS, blocks, strict=True):
        prompt, text, numbers = block.split("\n")
        assert prompt == word
        tokens = [one.strip("()[]") for one in text.split()]
        assert tokens[-1] == "<eos>"
        calls, count = (int(number) for number in re.findall(r"(\d+) (?:calls?|tokens),", numbers))
        assert count == len(tokens)
        assert text.count("[") <= calls
        assert f"{calls / count:.3f} calls per token, " in numbers
        assert " ms" in numbers, "the pair that ships brings its table"
        assert f"a price of {calls * 0.01:.4g}" in numbers
        sums = [sums[0] + calls, sums[1] + count]
    totals, rule, note = last.split("\n")
    assert totals.startswith(f"3 texts: {sums[0]} calls, {sums[1]} tokens, {sums[0] / sums[1]:.3f} calls per token")
    assert totals.endswith(" a text")
    assert rule.startswith(f"rule '{RULE}': {sums[0] / 3:.4g} calls spent a text, {0.2 * sums[1] / 3:.4g} allowed")
    assert note == "ms are modelled at batch 1, by the latency table of the shipped pair"


def test_each_task_asks_in_its_own_words() -> None:
    causal, reads = pair_of(), source_pair("t5")
    assert as_read(tiny(task="summarize"), ["a b"], causal) == ["a b\nSummary:"]
    assert as_read(tiny(task="summarize", chat=True), ["a b"], causal)[0].startswith("Summarize this text")
    assert as_read(tiny(task="translate"), ["a b"], causal) == ["English: a b\nItalian:"]
    assert as_read(tiny(task="translate", data="de-en"), ["a b"], causal) == ["German: a b\nEnglish:"]
    assert as_read(tiny(task="translate", data="some/talks:2017-de-en"), ["a"], causal) == ["German: a\nEnglish:"]
    long = " ".join(["a"] * (SOURCE_WORDS + 1))
    assert as_read(tiny(task="summarize"), [long], reads) == [long[:-2]]
    assert as_read(tiny(task="summarize"), ["a b"], reads) == as_read(tiny(), ["a b"], causal) == ["a b"]
    assert as_read(tiny(task="summarize", template="> {text}"), ["a b"], reads) == ["> a b"]
    assert as_read(tiny(task="pronounce"), ["ab", "a b >"], causal) == ["a b >"] * 2


def test_a_task_without_a_gate_wants_a_policy() -> None:
    assert gate_of("pronounce", "at most 5% of the tokens") == gate_of("text", "never ask") == "pronounce-pcl"
    assert gate_of("translate", "as often as you like") == "translate-pcl"
    assert gate_of("translate", "at most 60 ms per output") == "translate-pcl-time"
    with pytest.raises(ValueError, match=r"Expected --policy, since no gate ships for --task sing"):
        gate_of("sing", "never ask")


@pytest.mark.parametrize("color", ["never", "always"])
def test_a_stream_prints_what_is_printed_without(color: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(tiny(stream=True, prompt=("a b c", "d a c"), color=color))
    streamed = capsys.readouterr().out
    main(tiny(prompt=("a b c", "d a c"), color=color))
    assert streamed == capsys.readouterr().out


def test_colours_on_a_terminal_unless_nobody_wants_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())
    main(tiny(color="always"))
    coloured = capsys.readouterr().out
    main(tiny())
    plain = capsys.readouterr().out
    assert "\033[36m" in coloured
    assert "\033" not in plain
    assert re.sub(r"\033\[[\d;]*m", "", coloured) == re.sub(r"[()\[\]]", "", plain)


def test_marks() -> None:
    assert mark(" ab ", Writer.TEACHER, colour=False) == " [ab] "
    assert mark(" ab", Writer.ACCEPTED, colour=False) == " (ab)"
    assert mark(" ", Writer.TEACHER, colour=False) == " "
    assert mark("ab", Writer.STUDENT) != mark("ab", Writer.STUDENT, pending=True) != mark("ab", Writer.TEACHER)
    assert legend(colour=False) == "student (accepted) [teacher]"
    tokenizer = pair_of().tokenizer
    assert marked(tokenizer, [2, 3, 4], list(Writer), colour=False) == "a (b) [c]"


# ---- what plays ------------------------------------------------------------------------------------------------


def saved_threshold(folder: Path) -> None:
    env = Watched(1, **names_of(pair_of()), task=Letters(max_new_tokens=8), actions="SELF/ASK")
    ScoreThreshold(env.layout, env.game.spec.actions, "p_max", -1.0, Action.ASK).save(folder)


def test_a_run_tells_its_policy_its_pair_and_its_cap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_threshold(tmp_path / "policy")
    (tmp_path / "settings.json").write_text(json.dumps(names_of(pair_of()) | {"env": "tw_env/Text-v0"}))
    options = settled(
        Options(policy=str(tmp_path), device="cpu", prompt=("a b c", "b"), rule="as often as you like"), tmp_path
    )
    assert options.task == "text"
    players = players_of(options)
    assert players.pair is load_pair(*pair_of().name.split(" < "), device="cpu")
    assert players.table is None
    texts = list(write(options, players, options.prompt, colour=False))
    assert [text.calls for text in texts] == [text.tokens for text in texts]
    assert max(text.tokens for text in texts) <= 8
    assert texts[0].milliseconds is None
    main(options)
    assert "ms" not in capsys.readouterr().out


def test_a_student_that_asks_by_itself_is_a_run(tmp_path: Path) -> None:
    pair = asking_pair(0.7)
    pair.student.save_pretrained(tmp_path / "model")
    pair.tokenizer.save_pretrained(tmp_path / "model")
    pair.teacher.save_pretrained(tmp_path / "teacher")
    pair_of().tokenizer.save_pretrained(tmp_path / "teacher")
    options = Options(
        policy=str(tmp_path), teacher=str(tmp_path / "teacher"), task="text", prompt=("a b c", "b", "d"), device="cpu",
        words="a b", max_new_tokens=8,
    )  # fmt: skip
    options = settled(options, options.policy)
    players = players_of(options)
    assert players.policy is None
    assert players.pair.reads_rules
    assert sum(text.calls for text in write(options, players, options.prompt, colour=False)) > 0
    env = Watched(1, **names_of(pair), task=Letters(max_new_tokens=8), actions="SELF/ASK")
    AskToken(env.layout, env.game.spec.actions, cut=1e6).save(tmp_path / "model")
    players = players_of(replace(options, policy=str(tmp_path / "model")))
    assert isinstance(players.policy, AskToken)
    players = players_of(options)
    assert isinstance(players.policy, AskToken)
    assert sum(text.calls for text in write(options, players, options.prompt, colour=False)) == 0, "its cut"


def texts_of(options: Options) -> list[Text]:
    return list(write(options, players_of(options), options.prompt, colour=False))


def test_a_batch_is_its_texts_one_by_one() -> None:
    drawn = {"policy": "speculative-2", "decoding": "sampling", "seed": 3}
    together = texts_of(tiny(rows=64, **drawn))
    assert together == texts_of(tiny(rows=1, **drawn))
    assert together != texts_of(tiny(policy="speculative-2")), "a draw"


# ---- what is asked for -----------------------------------------------------------------------------------------


def test_prompts_of_the_command_line_and_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.txt").write_text("one\n\n two \n")
    assert read_prompts(Options(prompt=("zero",), prompts_file=tmp_path / "words.txt")) == ["zero", "one", "two"]
    monkeypatch.setattr("sys.stdin", io.StringIO("three\n"))
    assert read_prompts(Options(prompts_file=Path("-"))) == ["three"]
    assert spelled("Hello") == spelled(pronounce.prompt("hello")) == "h e l l o >"


def test_a_template_says_what_the_models_read() -> None:
    wrapped = [text.shown for text in texts_of(tiny(prompt=("b", "d"), template="a {text} c"))]
    assert wrapped == [text.shown for text in texts_of(tiny(prompt=("a b c", "a d c")))]
    with pytest.raises(ValueError, match="in the template, where the text goes"):
        texts_of(tiny(template="a c"))
    with pytest.raises(ValueError, match="chat template"):
        texts_of(tiny(chat=True))


def test_accounts() -> None:
    one, other = Text("a", "", 1, 4, 1.0, 0.8, 20.0, None), Text("b", "", 3, 6, 3.0, 1.2, 30.0, None)
    assert account([one]) == "1 call, 4 tokens, 0.250 calls per token, 20.0 ms"
    assert account([one, other]) == "4 calls, 10 tokens, 0.400 calls per token, 25.0 ms a text"
    assert against(parse(RULE), [one, other]).startswith(f"rule '{RULE}': 2 calls spent a text, 1 allowed: exceeded")
    free = Text("a", "", 0, 4, 0.0, 0.8, None, 0.5)
    assert against(parse(RULE), [one, free]).endswith("0.5 calls spent a text, 0.8 allowed: kept")
    assert account([free]).endswith("0 calls, 4 tokens, 0.000 calls per token, a price of 0.5")
    assert "1 ms spent" in against(parse("at most 3 ms per output"), [one])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Expected prompts, got none"),
        (["--prompt", "a", "--rule", "ask at least once"], "lower"),
        (["--prompt", "a", "--policy", "nowhere"], "nowhere"),
        (["--prompt", "a", "--rows", "0"], "--rows"),
        (["--prompts-file", "/no/such/file"], "/no/such/file"),
        (["--prompt", "a", "--rule", "at most 2 cents per text"], "needs prices"),
        (["--prompt", "a", "--words", "rarely"], "reads no rules"),
    ],
)
def test_mistakes_are_told_in_a_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(main, Options, None, [*args, "--device", "cpu"])
    assert stopped.value.code == MISTAKE
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown


def test_rules_are_read_before_anything_is_loaded() -> None:
    with pytest.raises(RuleError):
        main(Options(policy="nowhere", rule="be nice"))
