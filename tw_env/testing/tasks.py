"""Check of a task: its texts, and a metric in [0, 1] that likes references."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tw_env.tasks import task as tasks
from tw_env.testing.compare import expect


def check_task(task: object, *, prompts: int = 50, seed: int = 0) -> None:
    """Check that an object can be `task=` of the environments.

    Checked: it has what `tw_env.tasks.task.Task` names, in the right types; on a random choice of prompts the
    quality is a number in [0, 1], the same when asked twice, and no reference is worth less than an empty
    text or a text that answers nothing.

    Args:
        task: the object. prompts: on how many of its prompts the metric is tried. seed: of that choice.

    Raises:
        AssertionError: what was expected and what came.
    """
    try:
        checked = tasks.check_task(task)
    except (TypeError, ValueError) as error:
        raise AssertionError(str(error)) from error
    expect(isinstance(checked.name, str) and checked.name != "", f"Expected a name, got {checked.name!r}.")
    cap = checked.max_new_tokens
    expect(isinstance(cap, int), f"Expected max_new_tokens to be a whole number, got {cap!r}.")
    count = len(checked.prompts)
    for index in np.random.default_rng(seed).permutation(count)[:prompts].tolist():
        prompt, references = checked.prompts[index], checked.references[index]
        expect(isinstance(prompt, str), f"Expected prompt {index} to be text, got {prompt!r}.")
        expect(
            not isinstance(references, str) and all(isinstance(one, str) for one in references),
            f"Expected a list of texts as the references of prompt {index}, got {references!r}.",
        )
        _check_metric(checked, index, references)


def _check_metric(task: tasks.Task, index: int, references: Sequence[str]) -> None:
    empty, nonsense = _quality(task, index, ""), _quality(task, index, "\u00a4 \u00a4 \u00a4")
    for reference in references:
        own = _quality(task, index, reference)
        expect(
            own >= max(empty, nonsense),
            f"Expected a reference to be worth as much as any text; for prompt {index}, {reference!r} scores "
            f"{own}, an empty text {empty}, a meaningless one {nonsense}. Is the metric an error rate?",
        )


def _quality(task: tasks.Task, index: int, text: str) -> float:
    quality = task.quality(index, text)
    where = f"for prompt {index} and {text!r}"
    expect(
        isinstance(quality, float | int | np.floating) and math.isfinite(quality) and 0.0 <= quality <= 1.0,
        f"Expected a quality in [0, 1] {where}, got {quality!r} ({type(quality).__name__}).",
    )
    again = task.quality(index, text)
    expect(
        again == quality,
        f"Expected the same quality twice for prompt {index} and {text!r}; got {quality}, {again}.",
    )
    return float(quality)
