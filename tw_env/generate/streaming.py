"""A streamer that marks every token by its writer; transformers' own are told nothing of writers."""

from __future__ import annotations

from typing import Any, TextIO

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from tw_env.actions import Writer
from tw_env.render import Pieces, mark


class MarkedStreamer(BaseStreamer):
    """Prints a text while it is written, as `tw_env.render.marked` shows the whole of it; prompts are left out.

    `assisted` tells a streamer that has `put_written` each new token by it, instead of by `put`.

    Args:
        tokenizer: the student's. colour: colours by writer, else brackets. file: where to; None for standard output.
    """

    def __init__(self, tokenizer: Any, colour: bool = True, file: TextIO | None = None) -> None:
        self._tokenizer, self._colour, self._file = tokenizer, colour, file
        self._pieces = Pieces(tokenizer)

    def put(self, value: Tensor) -> None:
        """The prompt, which isn't printed."""

    def put_written(self, token: int, writer: Writer) -> None:
        """A token that no VERIFY can take back any more, and who wrote or accepted it."""
        print(mark(self._pieces.add(token), writer, self._colour), end="", file=self._file, flush=True)

    def end(self) -> None:
        """The text is over; the next one begins anew."""
        print(file=self._file)
        self._pieces = Pieces(self._tokenizer)
