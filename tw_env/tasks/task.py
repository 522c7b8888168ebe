"""What a task is: prompts, references and a metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Task(Protocol):
    """Prompts as text, their references, and how good an output is. Any object of this shape can be `task=`.

    Attributes:
        name: what results are filed under.
        prompts: one text a prompt, ready for the tokenizer.
        references: the accepted outputs of each prompt, at least one.
        max_new_tokens: the cap on new tokens, end token included.
    """

    name: str
    prompts: Sequence[str]
    references: Sequence[Sequence[str]]
    max_new_tokens: int

    def quality(self, index: int, text: str) -> float:
        """The metric of `text` as an output for prompt `index`, in [0, 1]; higher is better."""
        ...


def check_task(task: object) -> Task:
    """Refuse, early, what can't be played.

    Raises:
        TypeError: the object lacks something of `Task`.
        ValueError: no prompts, an empty prompt, a prompt without references, or a cap below 1.
    """
    if not isinstance(task, Task):
        need = ("name", "prompts", "references", "max_new_tokens", "quality")
        missing = [name for name in need if not hasattr(task, name)]
        raise TypeError(f"Expected a task with {', '.join(need)}; {type(task).__name__} lacks {', '.join(missing)}.")
    if len(task.prompts) == 0 or len(task.prompts) != len(task.references):
        raise ValueError(
            f"Expected at least one prompt and references for each; the task {task.name!r} has "
            f"{len(task.prompts)} prompts and {len(task.references)} lists of references."
        )
    for index, (prompt, references) in enumerate(zip(task.prompts, task.references, strict=True)):
        if not prompt or not references:
            what = "an empty prompt" if not prompt else "no reference"
            raise ValueError(f"Expected text and at least one reference; prompt {index} of {task.name!r} has {what}.")
    if task.max_new_tokens < 1:
        raise ValueError(f"Expected max_new_tokens >= 1, got {task.max_new_tokens} in the task {task.name!r}.")
    return task
