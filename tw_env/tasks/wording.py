"""How a text becomes a prompt: as it is, with a separator behind it, or as a request to a chat model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tw_env.tasks.task import Task

TEXT = "{text}"
"""Where the text goes in a template."""


@dataclass(frozen=True)
class Wording:
    """Templates of a task, with `{text}` where the source goes.

    An encoder-decoder reads the source as it is: its decoder begins on an empty page. A causal model goes on with what
    it reads, so something has to say where the source ends and what is wanted; a chat model wants to be asked.

    Attributes:
        causal: for models that continue a text. request: what a user would write to a chat model.
    """

    causal: str
    request: str


def fill(template: str, texts: Iterable[str]) -> list[str]:
    """The texts in the template.

    Raises:
        ValueError: the template has no place for a text.
    """
    if TEXT not in template:
        raise ValueError(f"Expected {TEXT} in the template, where the text goes; got {template!r}.")
    return [template.replace(TEXT, text) for text in texts]


def prompts_for(task: Task, encoder_decoder: bool, chat: bool = False) -> list[str]:
    """The task's prompts as models of a kind want them.

    Args:
        task: with a `wording`, or with prompts that are used as they are.
        encoder_decoder: the pair has an encoder. chat: the causal pair is asked through its tokenizer's chat template.
    """
    return worded(task.prompts, getattr(task, "wording", None), encoder_decoder, chat)


def worded(texts: Iterable[str], wording: Wording | None, encoder_decoder: bool, chat: bool = False) -> list[str]:
    """Texts as models of a kind want them; as they are without a wording."""
    if wording is None or encoder_decoder:
        return list(texts)
    return fill(wording.request if chat else wording.causal, texts)
