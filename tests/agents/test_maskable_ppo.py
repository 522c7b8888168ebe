"""MaskablePPO under the hard rule: it uses what the mask leaves, and says which extra it needs."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.baselines.maskable_ppo import MaskablePPOAgent
from agents.baselines.ppo import PPOConfig
from agents.evaluation import play
from tests.agents.small import PROMPTS, small_game
from tests.bandit import Bandit

RULE = "at most 20% of the tokens"
CONFIG = PPOConfig(steps=12_000, rollout=16, batch=256, lr=3e-3, width=32, initial_rate=0.1)


def test_without_a_price_it_learns_to_spend_what_the_mask_leaves(tmp_path: Path) -> None:
    numbers: list[dict[str, float]] = []
    env = small_game(rows=64, hard=True, rule=RULE, reward="regret")  # the teacher's tokens cost no regret
    agent = MaskablePPOAgent(CONFIG).learn(env, log=lambda steps, seen: numbers.append(seen))
    assert numbers[-1]["return"] > 0.9 * numbers[0]["return"]  # regrets are negative
    played = play(env, agent, np.arange(len(PROMPTS)), RULE, deterministic=False).outcomes
    most = max(1, int(0.2 * env.layout.cap))
    assert played.calls.max() <= most
    assert played.calls.mean() > 0.4 * most
    agent.save(tmp_path)
    observations, _ = env.reset(seed=5)
    again = MaskablePPOAgent.load(tmp_path)
    assert np.array_equal(*(one.predict(observations, deterministic=True)[0] for one in (agent, again)))


def test_the_same_seed_gives_the_same_run() -> None:
    config = PPOConfig(steps=1024, rollout=8, batch=128, epochs=1, width=16)
    observations, _ = small_game().reset(seed=5)
    policies = [MaskablePPOAgent(config).learn(small_game(hard=True)).policy for _ in range(2)]
    assert np.array_equal(*(one.log_probabilities(observations) for one in policies if one is not None))


def test_environments_that_mask_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="hard=True"):
        MaskablePPOAgent(CONFIG).learn(small_game())
    with pytest.raises(ValueError, match="action_masks"):
        MaskablePPOAgent(CONFIG).learn(Bandit())


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "sb3_contrib":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"extra `contrib`.*\.\[contrib\]"):
        MaskablePPOAgent(CONFIG).learn(small_game(hard=True))
