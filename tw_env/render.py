"""A row of the game as coloured text: who wrote what, what is left, what the last call changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tw_env.actions import Writer
from tw_env.game import Game

_RESET = "\033[0m"
_COLOURS = {Writer.STUDENT: "\033[33m", Writer.ACCEPTED: "\033[32m", Writer.TEACHER: "\033[36m"}
_PENDING = "\033[33;4m"
LEGEND = " ".join(f"{colour}{writer.name.lower()}{_RESET}" for writer, colour in _COLOURS.items())


def pieces(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """Each token as the text that it adds, so that joining the pieces gives the decoded whole."""
    shown, before = [], ""
    for end in range(1, len(tokens) + 1):
        whole = tokenizer.decode(tokens[:end])
        grown = whole.startswith(before)
        shown.append(whole[len(before) :] if grown else tokenizer.decode(tokens[end - 1 : end]))
        before = whole
    return shown


def render(game: Game, tokenizer: Any, prompts: Sequence[str], row: int) -> str:
    """Three lines: the prompt, the text with one colour a writer (pending tokens underlined), the account."""
    length, settled = int(game.texts.length[row]), int(game.settled[row])
    written = pieces(tokenizer, game.texts.tokens[row, :length].tolist())
    text = ""
    for place, piece in enumerate(written):
        writer = Writer(int(game.writer[row, place]))
        pending = writer == Writer.STUDENT and place >= settled and not game.ended[row]
        text += f"{_PENDING if pending else _COLOURS[writer]}{piece}{_RESET}"
    budget, dropped = game.budget, int(game.dropped[row])
    spent, allowed = budget.spent[row], budget.allowed[row]
    account = f"{budget.constraints[row]} | spent {spent:.4g} of {allowed:.4g} allowed"
    if settled == length and length:  # the last step was a call
        kept = f"dropped {dropped} token{'s' * (dropped > 1)}" if dropped else "kept all pending tokens"
        account += f" | the last call {kept} and wrote {written[-1].strip()}"
    if game.ended[row]:
        account += f" | quality {game.quality[row]:.3f}"
    return f"{prompts[int(game.prompt[row])]}\n{text or '(nothing written yet)'}   [{LEGEND}]\n{account}"
