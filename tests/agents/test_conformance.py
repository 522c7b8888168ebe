"""Every kind of agent passes the check that is offered to other people's agents, and the guide's example does, too."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.base import Agent
from agents.baselines.actor_critic import ActorCritic, ActorCriticConfig
from agents.baselines.calibration import CalibrationConfig, calibrate
from agents.baselines.dqn_lagrangian import DQNLagrangian, DQNLagrangianConfig
from agents.baselines.heuristic import Heuristic
from agents.baselines.ppo_lagrangian import PPOLagrangian, PPOLagrangianConfig
from agents.baselines.router import Router, RouterConfig
from agents.conformance import check_agent
from agents.pcl import PCL, PCLConfig
from tests.agents.small import small_game

CUTS = CalibrationConfig(limits=(0.1, 0.5), prompts=40, rounds=4)
SMALL = PCLConfig(iterations=2, episodes=32, updates=2, batch=32, prompts=8, width=16, initial_rate=0.5)
MAKERS: dict[str, Callable[[int], Agent]] = {
    "heuristic": lambda seed: Heuristic("surprise_at_end", config=CUTS),
    "router": lambda seed: Router(RouterConfig(seed=seed, calibration=CUTS, epochs=1, members=1, prompts=60)),
    "pcl": lambda seed: PCL(replace(SMALL, seed=seed)),
    "pcl-values": lambda seed: PCL(replace(SMALL, siblings=0, seed=seed)),
    "actor-critic": lambda seed: ActorCritic(ActorCriticConfig(replace(SMALL, seed=seed))),
    "ppo-lagrangian": lambda seed: PPOLagrangian(PPOLagrangianConfig(steps=600, width=16, seed=seed)),
    "dqn-lagrangian": lambda seed: DQNLagrangian(DQNLagrangianConfig(steps=600, width=16, seed=seed)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_agents_conform(name: str) -> None:
    def learn(agent: Any, env: Any) -> Agent:
        agent.learn(env)
        if name not in ("heuristic", "router"):
            calibrate(agent.policy, env, CUTS)
        return agent

    check_agent(MAKERS[name], lambda: small_game(rows=8), learn)


class Forgetful(Heuristic):
    """Loses its cuts when it is saved."""

    def save(self, folder: str | Path) -> None:
        kept, self.learned().cut = self.learned().cut, type(self.learned().cut)()  # type: ignore[attr-defined]
        super().save(folder)
        self.learned().cut = kept  # type: ignore[attr-defined]


def test_an_agent_that_plays_otherwise_after_loading_is_found_out() -> None:
    with pytest.raises(AssertionError, match="save and load"):
        check_agent(lambda seed: Forgetful("surprise_at_end", config=CUTS), lambda: small_game(rows=8))


def test_the_guides_example_conforms() -> None:
    guide = (Path(__file__).parents[2] / "agents" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    names: dict[str, Any] = {"__name__": "agents.baselines.hopeful"}
    exec(compile(code, "agents/README.md", "exec"), names)
    check_agent(names["Hopeful"], lambda: small_game(rows=128))
