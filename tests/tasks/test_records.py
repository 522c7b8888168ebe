"""Layouts of usual datasets, the direction of translations, and reading no more than is wanted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tw_env.tasks.records import columns_of, read_records, split_columns
from tw_env.tasks.summarize import Summarize
from tw_env.tasks.text import SHARES, TextPairs
from tw_env.tasks.translate import Translate

DATASETS: dict[str, dict[str, Any]] = {
    "xsum": {"train": [{"document": "d", "summary": "s", "id": "1"}], "test": [{"document": "d", "summary": "t"}]},
    "news:3.0.0": {"validation": [{"article": "a", "highlights": "h"}], "train": [{"article": "a", "highlights": "h"}]},
    "wmt16:de-en": {"test": [{"translation": {"de": "ja", "en": "yes"}}, {"translation": {"de": "", "en": "blank"}}]},
    "iwslt2017:iwslt2017-en-de": {"test": [{"translation": {"de": "ja", "en": "yes"}}]},
    "opus": {"train": [{"translation": {"de": "ja", "en": "yes"}}]},
    "odd": {"train": [{"question": "q", "answers": ["a", "b"]}]},
}


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A hub of small datasets; returns what was asked of it."""
    asked: list[Any] = []

    def load_dataset(name: str, configuration: str | None, **options: Any) -> dict[str, Any]:
        asked.append((name, configuration, options))
        if name == "script" and not options:
            raise RuntimeError("Dataset scripts are no longer supported, but found script.py")
        return DATASETS.get(f"{name}:{configuration}" if configuration else name, DATASETS["xsum"])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def pairs(data: str, split: str | None = "test") -> list[tuple[str, list[str]]]:
    return [(record.prompt, record.references) for record in read_records(data, split)]


def test_usual_layouts() -> None:
    assert pairs("xsum") == [("d", ["t"])]
    assert pairs("news:3.0.0", "dev") == [("a", ["h"])]
    assert pairs("odd@question:answers") == [("q", ["a", "b"])]
    with pytest.raises(ValueError, match=r"found 'question', 'answers'.*@source:target"):
        read_records("odd")


def test_the_direction_of_a_translation() -> None:
    assert pairs("wmt16:de-en") == [("ja", ["yes"])], "and the blank one is left out"
    assert pairs("wmt16:de-en@en:de") == [("yes", ["ja"])]
    assert pairs("iwslt2017:iwslt2017-en-de") == [("yes", ["ja"])]
    with pytest.raises(ValueError, match=r"direction of the translation.*@de:en"):
        read_records("opus")
    assert Translate("wmt16:de-en@en:de", "test").wording.causal == "English: {text}\nGerman:"
    assert split_columns("a/b:c@x:y") == ("a/b:c", ("x", "y"))
    assert columns_of("news:3.0.0") is None


def test_only_the_wanted_split_is_read_so_others_may_hold_the_same_texts() -> None:
    assert TextPairs("xsum", "test").references == [["t"]]
    with pytest.raises(ValueError, match="a prompt in one split only"):
        TextPairs("xsum")
    with pytest.raises(ValueError, match="one of train, test, or None for all; got 'dev'"):
        TextPairs("xsum", "dev")
    assert Summarize("news:3.0.0", "dev").name == "news:3.0.0"


def test_reading_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def rows() -> Iterator[dict[str, str]]:
        for i in range(1000):
            read.append(i)
            yield {"document": f"d{i // 2}", "summary": f"s{i}"}

    monkeypatch.setitem(DATASETS, "long", {"train": rows(), "test": []})
    task = TextPairs("long", "policy", limit=3)
    assert task.references == [["s0", "s1"], ["s2", "s3"], ["s4", "s5"]]
    assert len(read) == 7
    monkeypatch.setitem(DATASETS, "single", {"train": list(rows())})
    assert len(TextPairs("single", "test", limit=100)) == 100, "a hash chooses among all"
    assert sum(len(TextPairs("single", part)) for part in SHARES) == 500


def test_data_published_as_a_script_are_read_from_their_copy(hub: list[Any]) -> None:
    assert pairs("script") == [("d", ["t"])]
    assert hub == [("script", None, {}), ("script", None, {"revision": "refs/convert/parquet"})]
