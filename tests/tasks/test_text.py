import json
import re
import sys
from types import SimpleNamespace

import pytest

from tw_env.tasks.text import SHARES, TextPairs, part_of


@pytest.fixture
def write(tmp_path):
    """Writes records (dicts, or lines as they are) to a file and returns its path."""

    def write(*rows, name="pairs.jsonl"):
        path = tmp_path / name
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
        return path

    return write


def pairs(count, **fields):
    return [{"prompt": f"question {i}", "reference": f"answer {i}", **fields} for i in range(count)]


def test_the_sample_runs_without_arguments_and_its_parts_are_disjoint():
    whole = TextPairs()
    assert len(whole) == 60
    assert whole.name == "sample"
    assert all(prompt.endswith(" >") for prompt in whole.prompts)
    assert whole.quality(0, whole.references[0][-1]) == 1.0
    assert max(len(prompt.split()) for prompt in whole.prompts) + whole.max_new_tokens <= 48
    parts = [TextPairs(split=part).prompts for part in SHARES]
    assert all(parts)
    assert sorted(prompt for part in parts for prompt in part) == sorted(whole.prompts)


def test_records_are_read_in_order_and_references_of_one_prompt_are_joined(write):
    path = write(
        {"prompt": "b", "reference": "1", "id": 7},
        "",
        {"prompt": "ü", "references": ["2", "3"]},
        {"prompt": "b", "references": ["4", "1"]},
    )
    task = TextPairs(path, metric="exact", max_new_tokens=5)
    assert task.prompts == ["b", "ü"]
    assert task.references == [["1", "4"], ["2", "3"]]
    assert (task.name, task.max_new_tokens) == ("pairs", 5)
    assert [task.quality(0, "4"), task.quality(0, "2"), task.quality(1, "3")] == [1.0, 0.0, 1.0]
    assert TextPairs(str(path), limit=1).prompts == ["b"]


def test_hashed_parts_have_their_shares_and_a_prompt_stays_where_it_is(write):
    rows = pairs(2000)
    parts = {part: set(TextPairs(write(*rows), split=part).prompts) for part in SHARES}
    for part, share in SHARES.items():
        assert len(parts[part]) / 2000 == pytest.approx(share, abs=0.04)
    for part in SHARES:  # half of the file, backwards
        assert set(TextPairs(write(*rows[:1000][::-1]), split=part).prompts) <= parts[part]
    assert any(part_of(f"question {i}", seed=1) != part_of(f"question {i}") for i in range(20))


def test_a_split_field_decides_and_common_names_are_found(write):
    path = write(*pairs(3, split="train"), {"prompt": "p", "reference": "r", "split": "test"})
    assert len(TextPairs(path, split="train")) == len(TextPairs(path, split="policy")) == 3
    assert TextPairs(path, split="test").prompts == ["p"]
    with pytest.raises(ValueError, match=r"one of train, test, or None for all; got 'dev'"):
        TextPairs(path, split="dev")


GOOD = {"prompt": "p", "reference": "r"}
BAD_RECORDS = {
    "not json": ("{oops", "expected a JSON object in UTF-8"),
    "no object": ("[1]", "got list"),
    "no prompt": ({"text": "p", "reference": "r"}, "found 'text', 'reference'"),
    "no reference": (
        {"prompt": "p", "target": "r"},
        "either `reference` or `references`; found 'prompt', 'target'",
    ),
    "both": ({**GOOD, "references": ["r"]}, "either `reference` or `references`"),
    "number": ({"prompt": "p", "reference": 3}, "string that is not blank, got 3"),
    "blank reference": ({"prompt": "p", "references": ["r", " "]}, "string that is not blank, got ' '"),
    "blank prompt": ({"prompt": "", "reference": "r"}, "`prompt` to be a string that is not blank"),
    "no references": ({"prompt": "p", "references": []}, "list of at least one string"),
    "references no list": ({"prompt": "p", "references": "r"}, "list of at least one string, got 'r'"),
    "split no string": ({**GOOD, "split": 1}, "`split` to be a string, got 1"),
}


@pytest.mark.parametrize(("row", "message"), BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_a_bad_record_is_refused_with_its_line(write, row, message):
    path = write({"prompt": "q", "reference": "r"}, "", row)
    with pytest.raises(ValueError, match=r"pairs\.jsonl, line 3: ") as caught:
        TextPairs(path)
    assert message in str(caught.value)


def test_text_in_another_encoding_is_refused_with_its_line(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"prompt": "ü", "reference": "r"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="line 1: expected a JSON object in UTF-8"):
        TextPairs(path)


def test_splits_that_leak_or_are_half_given_are_refused(write):
    with pytest.raises(
        ValueError,
        match="line 2: expected a prompt in one split only, but 'p' stands in 'train' and in 'test'",
    ):
        TextPairs(write({**GOOD, "split": "train"}, {**GOOD, "split": "test"}))
    with pytest.raises(ValueError, match="line 2: expected a `split` field"):
        TextPairs(write({**GOOD, "split": "train"}, GOOD))


def test_data_that_hold_nothing_are_refused(write, tmp_path):
    with pytest.raises(ValueError, match=r"at least one record in .*, found none"):
        TextPairs(write("", ""))
    with pytest.raises(ValueError, match="got the folder"):
        TextPairs(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"found none at .*missing\.jsonl"):
        TextPairs(tmp_path / "missing.jsonl")
    with pytest.raises(ValueError, match="none of its 1 records falls there"):
        TextPairs(write(GOOD), split=next(part for part in SHARES if part != part_of("p")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "train"}, "one of policy, dev, test, or None for all; got 'train'"),
        ({"metric": "meteor"}, "metric to be one of chrf"),
        ({"max_new_tokens": 0}, "max_new_tokens to be a whole number of at least 1, got 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens to be a whole number of at least 1, got 2.5"),
        ({"limit": 0}, "limit to be a whole number of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TextPairs(**arguments)


def test_a_dataset_name_is_loaded_with_its_splits(monkeypatch):
    calls = []

    def load_dataset(name, configuration):
        calls.append((name, configuration))
        if name == "gone":
            raise ConnectionError("offline")
        return {"train": pairs(2), "validation": [{"prompt": "v", "reference": "w"}]}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert len(TextPairs("someone/questions", split="policy")) == 2
    assert TextPairs("someone/questions:en", split="dev").prompts == ["v"]
    assert calls == [("someone/questions", None), ("someone/questions", "en")]
    with pytest.raises(ValueError, match="there is no such file, and loading failed: offline"):
        TextPairs("gone")


def test_a_dataset_with_one_split_is_split_by_hash(monkeypatch):
    load = SimpleNamespace(load_dataset=lambda name, configuration: {"train": pairs(200)})
    monkeypatch.setitem(sys.modules, "datasets", load)
    assert sum(len(TextPairs("questions", split=part)) for part in SHARES) == 200


def test_a_dataset_name_without_the_extra_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'training-wheels\[data\]'"):
        TextPairs("someone/questions")
