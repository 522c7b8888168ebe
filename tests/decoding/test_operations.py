"""A session's states equal those of a full pass of each row alone, whatever came before: every kind of model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decoding.checked import CAPACITY, CONFIGS, ROWS, Checked, checked_of
from tests.families import FAMILIES, MAIN, VOCABULARY
from tw_env.decoding.session import Session

TEXT = range(2, 12)  # ids that are padding in no encoder-decoder


@pytest.fixture(params=[*CONFIGS, *FAMILIES])
def checked(request: pytest.FixtureRequest) -> Checked:
    checked = checked_of(request.param)
    checked.reset([2, 0, 3, 1], [[3, 2, 3], [4], [3, 2, 3, 4, 5], [7, 7]])
    return checked


def test_rows_in_step(checked: Checked) -> None:
    checked.reset([0, 1, 2, 3], [[3, 2], [3, 4], [5, 6], [3, 3]])
    checked.append(None, [[3, 2], [2, 3], [3, 4], [4, 4]])
    checked.append(None, [[3], [4], [5], [6]])
    checked.probe()


def test_unequal_catch_up(checked: Checked) -> None:
    checked.append(None, [[2, 3, 4], [4, 0, 0], [5, 6, 0], [0, 0, 0]], [3, 1, 2, 0])
    checked.append([3, 1], [[8, 9], [9, 0]], [2, 1])
    checked.probe()


@pytest.mark.parametrize("pays", [True, False])
def test_a_subset_gathered_or_run_with_all(checked: Checked, pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_gathering_pays", lambda *_: pays)
    checked.append([3, 0], [[8, 9], [9, 4]])
    checked.append([1, 0, 2], [[8, 9, 4], [9, 4, 4], [3, 0, 0]], [2, 0, 1])
    checked.append([2, 3, 0, 1], [[4], [2], [3], [4]])
    checked.probe()


def test_rewind_and_write_something_else(checked: Checked) -> None:
    checked.append(None, [[4, 2, 3]] * ROWS)
    checked.rewind([0, 2], [1, 2])
    checked.append([2, 0], [[9, 8], [7, 6]])
    checked.rewind([1], [0])
    checked.append([1], [[4, 4, 2]])
    checked.probe()


def test_reset_of_one_row_leaves_the_others(checked: Checked) -> None:
    checked.append(None, [[4, 2, 3, 4]] * ROWS)
    checked.reset([2], [[6]])
    checked.probe()
    checked.reset([1], [[6, 7, 8, 9, 10, 11, 2, 3, 4]])  # longer than any before
    checked.probe()


@pytest.mark.parametrize("kind", ["llama", "gpt2", *MAIN])
def test_eager_attention(kind: str) -> None:
    checked = checked_of(kind, "eager")
    checked.reset([0, 1, 3], [[3, 2, 3], [4], [7, 2]])
    checked.append([3, 1], [[4, 2], [3, 0]], [2, 1])
    checked.append([0, 1, 3], [[5, 3], [5, 4], [2, 2]])


ROW_SETS = st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS, unique=True)
PROMPTS = st.lists(st.integers(3, 5), min_size=1, max_size=4)


@settings(max_examples=15)
@given(st.data())
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", *MAIN])
def test_any_string_of_operations(kind: str, data: st.DataObject) -> None:
    checked, token = checked_of(kind, prompt_memory=2), st.integers(0, VOCABULARY - 1)
    if kind in FAMILIES:  # without a source nothing can be written
        checked.reset(list(range(ROWS)), [data.draw(PROMPTS) for _ in range(ROWS)])
        token = st.sampled_from(TEXT)
    for verb in data.draw(st.lists(st.sampled_from(["reset", "append", "append", "rewind"]), min_size=2, max_size=10)):
        rows = data.draw(ROW_SETS)
        if verb == "reset":
            checked.reset(rows, [data.draw(PROMPTS) for _ in rows])
        elif verb == "rewind":
            checked.rewind(rows, [data.draw(st.integers(0, len(checked.texts[row]))) for row in rows])
        else:
            width = data.draw(st.integers(1, 3))
            asked = data.draw(st.sampled_from([rows, None]))
            written = range(ROWS) if asked is None else rows
            room = [min(width, CAPACITY - len(checked.texts[row])) for row in written]
            counts = [data.draw(st.integers(0, most)) for most in room]
            if min(room) == width and data.draw(st.booleans()):
                counts = None
            checked.append(asked, [data.draw(st.lists(token, min_size=width, max_size=width)) for _ in written], counts)
