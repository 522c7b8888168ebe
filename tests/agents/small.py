"""A small game for tests of agents: the tiny pair, a few hundred prompts, and a latency table."""

from __future__ import annotations

from itertools import product
from typing import Any

from agents.recording import Recorded
from tests.letters import Letters, names_of, pair_of
from tw_env.costs import LatencyTable
from tw_env.vector_env import AssistedDecodingVectorEnv

PROMPTS = tuple(" ".join(letters) for size in (1, 2, 3) for letters in product("abcdef", repeat=size))
TABLE = LatencyTable(student_ms=1.0, teacher_ms=10.0, teacher_ms_per_token=0.5)


def small_game(rows: int = 32, actions: str = "SELF/ASK/VERIFY", **settings: Any) -> Recorded:
    """258 prompts of the letters task, reward "quality", every rule."""
    chosen = {"reward": "quality", "rule": "sample", "latency": TABLE, **names_of(pair_of()), **settings}
    return Recorded(AssistedDecodingVectorEnv(rows, task=Letters(PROMPTS), actions=actions, **chosen))
