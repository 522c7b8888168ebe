"""What a model of a pair is taught to write: the references of a task as token ids."""

from __future__ import annotations

from tw_env.decoding.loading import Pair
from tw_env.tasks.task import Task


def answers(task: Task, pair: Pair, cap: int | None = None) -> list[list[list[int]]]:
    """Token ids of each prompt's references, end token included, up to the cap; None takes the task's.

    A causal model reads a wording such as "Summary:", behind which it goes on with a blank.
    """
    name = "text_target" if pair.encoder_decoder else "text"  # some tokenizers write another language than they read
    before = " " if not pair.encoder_decoder and getattr(task, "wording", None) is not None else ""

    def ids(text: str) -> list[int]:
        return list(pair.tokenizer(**{name: before + text}, add_special_tokens=False).input_ids)

    most = cap or task.max_new_tokens
    return [[[*ids(text), pair.end_tokens[0]][:most] for text in texts] for texts in task.references]
