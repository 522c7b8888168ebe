"""Texts with a mark on every token for its writer, and a row of the game: what is left, what the last call changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TextIO

from tw_env.actions import Writer
from tw_env.game import Game

_RESET = "\033[0m"
_COLOURS = {Writer.STUDENT: "\033[33m", Writer.ACCEPTED: "\033[32m", Writer.TEACHER: "\033[36m"}
_PENDING = "\033[33;4m"
_BRACKETS = {Writer.STUDENT: ("", ""), Writer.ACCEPTED: ("(", ")"), Writer.TEACHER: ("[", "]")}  # without colours


def mark(piece: str, writer: Writer, colour: bool = True, pending: bool = False) -> str:
    """A token's text with its writer's colour or, without colours, in its writer's brackets, white space outside.

    Args:
        pending: a student's token that may still be taken back; underlined.
    """
    if colour:
        return f"{_PENDING if pending else _COLOURS[writer]}{piece}{_RESET}"
    body = piece.strip()
    if not body:
        return piece
    before, _, after = piece.partition(body)
    left, right = _BRACKETS[writer]
    return f"{before}{left}{body}{right}{after}"


def legend(colour: bool = True) -> str:
    """What each mark means."""
    return " ".join(mark(writer.name.lower(), writer, colour) for writer in Writer)


def wants_colour(stream: TextIO) -> bool:
    """Whether a stream should get colours: a terminal, unless the environment sets NO_COLOR (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and stream.isatty()


class Pieces:
    """Turns a text's tokens, one after the other, into what each adds to it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._before = ""

    def add(self, token: int) -> str:
        """What the next token adds."""
        self._tokens.append(token)
        before, self._before = self._before, self._tokenizer.decode(self._tokens)
        return self._before[len(before) :] if self._before.startswith(before) else self._tokenizer.decode([token])


def pieces(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """Each token as the text that it adds, so that joining the pieces gives the decoded whole."""
    text = Pieces(tokenizer)
    return [text.add(token) for token in tokens]


def marked(tokenizer: Any, tokens: Sequence[int], writers: Sequence[int], colour: bool = True) -> str:
    """A final text, every token with its writer's mark."""
    shown = zip(pieces(tokenizer, tokens), writers, strict=True)
    return "".join(mark(piece, Writer(writer), colour) for piece, writer in shown)


def render(game: Game, tokenizer: Any, prompts: Sequence[str], row: int) -> str:
    """Three lines: the prompt, the text with one colour a writer (pending tokens underlined), the account."""
    length, settled = int(game.texts.length[row]), int(game.settled[row])
    written = pieces(tokenizer, game.texts.tokens[row, :length].tolist())
    text = ""
    for place, piece in enumerate(written):
        writer = Writer(int(game.writer[row, place]))
        pending = writer == Writer.STUDENT and place >= settled and not game.ended[row]
        text += mark(piece, writer, pending=pending)
    budget, dropped = game.budget, int(game.dropped[row])
    spent, allowed = budget.spent[row], budget.allowed[row]
    account = f"{budget.constraints[row]} | spent {spent:.4g} of {allowed:.4g} allowed"
    if settled == length and length:  # the last step was a call
        kept = f"dropped {dropped} token{'s' * (dropped > 1)}" if dropped else "kept all pending tokens"
        account += f" | the last call {kept} and wrote {written[-1].strip()}"
    if game.ended[row]:
        account += f" | quality {game.quality[row]:.3f}"
    return f"{prompts[int(game.prompt[row])]}\n{text or '(nothing written yet)'}   [{legend()}]\n{account}"
