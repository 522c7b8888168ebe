"""A task of letters for the tiny pair, envs that keep their texts, and simple policies to play them with."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.tiny import tiny_pair
from tw_env.decoding.loading import Pair
from tw_env.game import Game
from tw_env.vector_env import AssistedDecodingVectorEnv

PROMPTS = ("a", "b", "c", "h", "a b c", "g f e d", "b b", "d a c h e f", "e", "c g")
POSITIONS = 20


class Letters:
    """Prompts of letters; quality is a number in [0, 1] that only prompt and text decide."""

    name = "letters"

    def __init__(self, prompts: Sequence[str] = PROMPTS, max_new_tokens: int = 8) -> None:
        self.prompts, self.max_new_tokens = list(prompts), max_new_tokens
        self.references = [["a"] for _ in prompts]

    def quality(self, index: int, text: str) -> float:
        return zlib.crc32(f"{index} {text}".encode()) % 1001 / 1000


@cache
def pair_of(**arguments: Any) -> Pair:
    """The tiny pair with these arguments, made once."""
    return tiny_pair(**({"positions": POSITIONS} | arguments))


def names_of(pair: Pair) -> dict[str, str]:
    """The arguments of an environment that name this pair."""
    student, teacher = pair.name.split(" < ")
    return {"student": student, "teacher": teacher, "device": "cpu"}


def quality_of(task: Letters, index: int, pair: Pair, tokens: list[int]) -> float:
    """What the task says of these tokens, end token left out."""
    return task.quality(index, pair.tokenizer.decode(tokens, skip_special_tokens=True))


class Watched(AssistedDecodingVectorEnv):
    """Keeps the text and writers that a row had before it was reset."""

    def _start(self, rows: NDArray[np.int64]) -> None:
        self.finals = {int(row): written(self.game, int(row)) for row in rows}
        super()._start(rows)


def written(game: Game, row: int) -> tuple[list[int], list[int]]:
    """Tokens of a row's text, and who wrote them."""
    length = game.texts.length[row]
    return game.texts.tokens[row, :length].tolist(), game.writer[row, :length].tolist()


Policy = Callable[[Watched, NDArray[np.float32]], NDArray[np.int64]]


def first_texts(env: Watched, policy: Policy, **reset: Any) -> tuple[list[tuple[int, ...]], NDArray[np.float64]]:
    """The text that each row writes first, and its return; `policy` maps env and observations to actions."""
    observations, _ = env.reset(**reset)
    texts: dict[int, tuple[int, ...]] = {}
    returns = np.zeros(env.num_envs)
    while len(texts) < env.num_envs:
        under_way = np.array([row not in texts for row in range(env.num_envs)])
        observations, rewards, terminated, _, _ = env.step(policy(env, observations))
        returns += np.where(under_way, rewards, 0.0)
        for row in np.flatnonzero(terminated & under_way):
            texts[int(row)] = tuple(env.finals[int(row)][0])
    return [texts[row] for row in range(env.num_envs)], returns


def feature(env: Watched, observations: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """(rows,) a feature of one number."""
    return observations[:, env.layout[name]][:, 0]


def draft(length: int, verify: int = 1) -> Policy:
    """SELF until `length` tokens are pending or the text would end, then action index `verify`."""

    def policy(env: Watched, observations: NDArray[np.float32]) -> NDArray[np.int64]:
        pending = np.rint(feature(env, observations, "pending") * env.game.cap)
        call = (pending >= length) | (feature(env, observations, "would_end") > 0)
        return np.where(call, verify, 0)

    return policy


def always(action: int) -> Policy:
    return lambda env, observations: np.full(env.num_envs, action)
