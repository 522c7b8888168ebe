"""Translation and summarisation: prepared data, other data, how models are asked, and what a lacking piece is told."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import pytest

import tw_env
from tests.letters import names_of
from tests.tiny import tiny_pair
from tw_env.costs import LatencyTable
from tw_env.settings import Settings, load_task
from tw_env.tasks import shipped
from tw_env.tasks.prepared import HOME, SPLITS, data_home
from tw_env.tasks.shipped import ShippedPair
from tw_env.tasks.summarize import Summarize
from tw_env.tasks.text import TextPairs
from tw_env.tasks.translate import Translate
from tw_env.tasks.wording import fill, prompts_for
from tw_env.testing import check_env, check_task


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of prepared data: letters, which the tiny pair reads, with one prompt for each part."""
    monkeypatch.setenv(HOME, str(tmp_path))
    for name in ("en-it", "summarize"):
        folder = tmp_path / "debian" / name
        folder.mkdir(parents=True)
        for letter, part in zip("abcd", SPLITS, strict=True):
            rows = [{"prompt": letter * i, "references": [f"{letter} b"], "split": part} for i in (1, 2)]
            (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_the_home_of_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME, "~/elsewhere")
    assert data_home() == Path.home() / "elsewhere"
    monkeypatch.delenv(HOME)
    assert data_home() == Path.home() / ".cache" / "training-wheels"


@pytest.mark.parametrize(
    ("task", "name", "metric"), [(Translate, "translate-en-it", "chrf"), (Summarize, "summarize", "rougeL")]
)
def test_prepared_parts_are_found(home: Path, task: type[TextPairs], name: str, metric: str) -> None:
    assert [task(split=part).prompts for part in SPLITS] == [[letter, 2 * letter] for letter in "abcd"]
    found = task()
    assert (found.name, found.metric, found.split, found.prompts[0]) == (name, metric, "policy", "b")
    assert task(limit=1, metric="exact").quality(0, "b b") == 1.0
    check_task(found)
    with pytest.raises(ValueError, match="pair, policy, dev, test, got 'train'"):
        task(split="train")


@pytest.mark.parametrize(
    ("make", "command"),
    [
        (lambda: Translate("en-pt_BR"), r"scripts\.prepare debian --pair en-pt_BR`"),
        (Summarize, r"scripts\.prepare debian --task summarize`"),
    ],
)
def test_what_is_not_prepared_names_the_command(make, command: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(HOME, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=command) as caught:
        make()
    assert str(tmp_path) in str(caught.value)


def test_how_models_are_asked(home: Path) -> None:
    task = Translate()
    assert prompts_for(task, encoder_decoder=True) == ["b", "bb"]
    assert prompts_for(task, encoder_decoder=False)[0] == "English: b\nItalian:"
    assert prompts_for(task, encoder_decoder=False, chat=True)[0].startswith("Translate from English into Italian.")
    assert prompts_for(Summarize(), encoder_decoder=False)[0] == "b\nSummary:"
    plain = Translate(template="translate English to Italian: {text}")
    assert plain.prompts == prompts_for(plain, False) == prompts_for(plain, True) == [
        "translate English to Italian: b", "translate English to Italian: bb"
    ]  # fmt: skip
    assert prompts_for(TextPairs(limit=1), False) == TextPairs(limit=1).prompts
    assert fill("{x} {text}", ["{text}{"]) == ["{x} {text}{"], "braces of the text are text"
    with pytest.raises(ValueError, match="in the template"):
        Summarize(template="TL;DR")


def test_other_data(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"translation": {"de": "eins zwei drei", "en": "one two three"}, "document": "d", "summary": "s"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    task = Translate(f"{path}@de:en")
    assert (task.prompts, task.references) == (["eins zwei drei"], [["one two three"]])
    assert prompts_for(task, False) == ["German: eins zwei drei\nEnglish:"]
    rows = [{"article": "one two three four", "highlights": "1"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert Summarize(path, source_words=2).prompts == ["one two"]
    assert Summarize(path, source_words=4).prompts == Summarize(path).prompts == ["one two three four"]


class TestSettings:
    def test_defaults_and_what_is_given(self, home: Path) -> None:
        task = load_task(Settings(task="translate"))
        assert (task.name, task.metric, task.max_new_tokens) == ("translate-en-it", "chrf", 96)
        given = load_task(Settings(task="summarize", metric="rouge2", max_new_tokens=9, template="> {text}", limit=1))
        assert (given.metric, given.max_new_tokens, given.prompts) == ("rouge2", 9, ["> b"])

    def test_unknown_tasks_get_the_list(self) -> None:
        with pytest.raises(ValueError, match=r"'pronounce', 'text', 'translate', 'summarize'"):
            load_task(Settings(task="chess"))


class TestIds:
    @pytest.mark.parametrize("env_id", tw_env.PREPARED_IDS)
    def test_they_play(self, home: Path, env_id: str) -> None:
        env = gymnasium.make(env_id, max_new_tokens=4, template="{text}", **names_of(tiny_pair()))
        assert env.unwrapped.task.name in ("translate-en-it", "summarize")
        check_env(env_id, max_new_tokens=4, template="{text}", **names_of(tiny_pair()))

    @pytest.mark.parametrize("env_id", tw_env.PREPARED_IDS)
    def test_a_shipped_pair_is_taken(self, home: Path, env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shipped, "DATA", home)
        pair, folder = tiny_pair(), ShippedPair(home / ("translate" if "Translate" in env_id else "summarize"))
        for model, place in ((pair.student, folder.student), (pair.teacher, folder.teacher)):
            model.save_pretrained(place)
            pair.tokenizer.save_pretrained(place)
        LatencyTable(2.0, 9.0, 0.5).save(folder.latency)
        env = gymnasium.make(env_id, max_new_tokens=4, template="{text}", rule="at most 30 ms per output")
        env.reset(seed=0)
        assert env.step(0)[4]["cost"] == 2.0

    @pytest.mark.parametrize("env_id", tw_env.PREPARED_IDS)
    def test_they_say_what_is_missing(self, home: Path, env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shipped, "DATA", home)
        with pytest.raises(ValueError, match="no pair ships for the task"):
            gymnasium.make(env_id)
        monkeypatch.setenv(HOME, str(home / "nothing"))
        with pytest.raises(FileNotFoundError, match=r"python -m scripts\.prepare debian"):
            gymnasium.make(env_id, **names_of(tiny_pair()))

    def test_there_are_four_beside_those_that_play_as_they_are(self) -> None:
        wanted = {f"tw_env/{task}{suffix}-v0" for task in ("Translate", "Summarize") for suffix in ("", "Verify")}
        assert set(tw_env.PREPARED_IDS) == wanted
        assert not wanted & set(tw_env.IDS)
        assert wanted < set(gymnasium.registry)
