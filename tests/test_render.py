"""The text that `render_mode="ansi"` draws: who wrote what, the budget, what the last call changed."""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.letters import Letters, names_of, pair_of
from tw_env.actions import Action, Writer
from tw_env.env import AssistedDecodingEnv
from tw_env.render import pieces

YELLOW, UNDERLINED, GREEN, CYAN = "33", "33;4", "32", "36"
COLOUR = {Writer.STUDENT: YELLOW, Writer.ACCEPTED: GREEN, Writer.TEACHER: CYAN}
SELF, ASK, VERIFY = Action.SELF, Action.ASK, Action.VERIFY


def env_with(prompt: str, seed: int = 0, **more: Any) -> AssistedDecodingEnv:
    settings = {"actions": "SELF/ASK/VERIFY", "rule": "at most 3 calls", **names_of(pair_of(seed=seed))}
    env = AssistedDecodingEnv(render_mode="ansi", task=Letters([prompt], 8), **(settings | more))
    env.reset(seed=0)
    return env


def drawn(env: AssistedDecodingEnv) -> tuple[str, list[tuple[str, str]], str]:
    """Prompt, (colour, piece) of every token, account."""
    picture = env.render()
    assert picture is not None
    prompt, middle, account = picture.split("\n")
    text, legend = middle.split("   [")
    assert re.sub(r"\x1b\[[\d;]+m", "", legend) == "student accepted teacher]"
    return prompt, re.findall(r"\x1b\[([\d;]+)m(.*?)\x1b\[0m", text), account


def first_game(*actions: Action, wanted: Any) -> AssistedDecodingEnv:
    """A game in which these actions don't end the text and `wanted` holds of it, out of many small ones."""
    for seed in range(4):
        for prompt in ("a", "b", "c d", "e", "f g h", "d d", "g a"):
            env = env_with(prompt, seed)
            over = [env.step(np.int64(action))[2] for action in actions if not env.game.ended[0]]
            if not any(over[:-1]) and wanted(env, over[-1]):
                return env
    raise AssertionError(f"Expected a tiny game that fits {actions}.")


def test_before_the_first_token() -> None:
    prompt, tokens, account = drawn(env_with("c d"))
    assert (prompt, tokens) == ("c d", [])
    assert account.endswith("| spent 0 of 3 allowed")


def test_pending_tokens_are_underlined() -> None:
    env = first_game(SELF, SELF, wanted=lambda env, over: not over)
    _, tokens, account = drawn(env)
    assert [colour for colour, _ in tokens] == [UNDERLINED, UNDERLINED]
    assert "last call" not in account


def test_accepted_and_teachers_tokens() -> None:
    env = first_game(SELF, VERIFY, wanted=lambda env, over: not over and not env.game.dropped[0])
    _, tokens, account = drawn(env)
    assert [colour for colour, _ in tokens] == [GREEN, CYAN]
    assert "spent 1 of 3 allowed" in account
    assert account.endswith(f"the last call kept all pending tokens and wrote {tokens[-1][1].strip()}")


def test_dropped_tokens_are_told() -> None:
    env = first_game(SELF, SELF, VERIFY, wanted=lambda env, over: not over and env.game.dropped[0] == 2)
    _, tokens, account = drawn(env)
    assert [colour for colour, _ in tokens] == [CYAN]
    assert account.endswith(f"the last call dropped 2 tokens and wrote {tokens[0][1].strip()}")


def test_asked_tokens_leave_the_students() -> None:
    env = first_game(SELF, ASK, SELF, wanted=lambda env, over: not over)
    assert [colour for colour, _ in drawn(env)[1]] == [YELLOW, CYAN, UNDERLINED]


def test_final_text_shows_quality_and_nothing_pending() -> None:
    env = first_game(SELF, SELF, SELF, wanted=lambda env, over: over)
    _, tokens, account = drawn(env)
    assert {colour for colour, _ in tokens} == {YELLOW}
    assert account.endswith(f"quality {env.game.quality[0]:.3f}")


@pytest.mark.parametrize("decoding", ["greedy", "sampling"])
def test_any_play_shows_its_writers_and_its_text(decoding: str) -> None:
    env = env_with("d a c", decoding=decoding)
    rng = np.random.default_rng(0)
    for _ in range(60):
        *_, terminated, truncated, info = env.step(rng.integers(3))
        _, tokens, account = drawn(env)
        written = env.game.texts.tokens[0, : info["tokens"]].tolist()
        assert "".join(piece for _, piece in tokens) == env.pair.tokenizer.decode(written)
        writers = env.game.writer[0, : info["tokens"]]
        assert [colour.removesuffix(";4") for colour, _ in tokens] == [COLOUR[Writer(w)] for w in writers]
        assert f"spent {info['spent']:.4g} of 3 allowed" in account
        if terminated or truncated:
            env.reset()


def test_batched_draws_row_0_and_nothing_without_a_mode() -> None:
    settings = {"task": Letters(["a"]), "rule": "never", **names_of(pair_of())}
    env = gymnasium.make_vec("tw_env/Text-v0", num_envs=2, render_mode="ansi", **settings)
    env.reset(seed=0)
    frames = env.render()
    assert frames is not None
    assert len(frames) == 1
    assert "spent 0 of 0 allowed" in frames[0]
    assert gymnasium.make_vec("tw_env/Text-v0", num_envs=2, **settings).render() is None
    assert AssistedDecodingEnv(**settings).render() is None


def test_pieces_join_to_the_whole() -> None:
    class Merging:
        """Two tokens that decode to something else together, as byte pieces of one character do."""

        def decode(self, tokens: list[int]) -> str:
            return "é" if tokens == [1, 2] else "?" * len(tokens)

    assert pieces(pair_of().tokenizer, []) == []
    assert pieces(Merging(), [1, 2]) == ["?", "?"]
    assert "".join(pieces(pair_of().tokenizer, [2, 3, 4])) == pair_of().tokenizer.decode([2, 3, 4])
