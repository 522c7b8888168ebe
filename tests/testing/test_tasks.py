"""`check_task` lets good tasks pass and names what is wrong with broken ones."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from tw_env.tasks.pronounce import Pronounce
from tw_env.tasks.text import TextPairs
from tw_env.testing import check_task

NOISE = itertools.count()  # what differs at every call


class Words:
    """A good task."""

    name = "words"
    max_new_tokens = 4

    def __init__(self) -> None:
        self.prompts, self.references = ["a", "b"], [["c d"], ["e", "f"]]

    def quality(self, index: int, text: str) -> float:
        return float(text in self.references[index])


def words(**wrong: Any) -> Words:
    """A task with some of its attributes replaced."""
    task = Words()
    for name, value in wrong.items():
        setattr(task, name, value)
    return task


@pytest.mark.parametrize("task", [Words(), Pronounce("dev", limit=200), TextPairs()])
def test_good_tasks_pass(task: Any) -> None:
    check_task(task)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"quality": lambda index, text: 2.0},
            r"Expected a quality in \[0, 1\] for prompt \d and '', got 2.0",
        ),
        ({"quality": lambda index, text: float("nan")}, "got nan"),
        ({"quality": lambda index, text: torch.tensor(0.5)}, "Tensor"),
        ({"quality": lambda index, text: float(text not in ("c d", "e", "f"))}, "metric an error rate"),
        ({"quality": lambda index, text: next(NOISE) % 2 / 2}, "same quality twice"),
        ({"references": [["c"], "ef"]}, "Expected a list of texts as the references of prompt 1"),
        ({"references": [["c"], []]}, "prompt 1 of 'words' has no reference"),
        ({"references": [["c"]]}, "2 prompts and 1 lists"),
        ({"prompts": ["a", ""]}, "prompt 1 of 'words' has an empty prompt"),
        ({"prompts": ["a", 7]}, "Expected prompt 1 to be text, got 7"),
        ({"name": ""}, "Expected a name"),
        ({"max_new_tokens": 0}, "Expected max_new_tokens >= 1"),
    ],
)
def test_broken_tasks(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_task(words(**wrong))


def test_what_is_no_task() -> None:
    with pytest.raises(AssertionError, match="lacks name, prompts, references"):
        check_task(object())
