"""What every agent offers: learn, predict, save, load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

from tw_env.policies import Policy, load


class Agent(ABC):
    """Learns or calibrates a policy on an environment, and plays it.

    Attributes:
        name: what results are filed under.
        policy: what plays; None before `learn` or `load`.
    """

    name = "agent"
    policy: Policy | None = None

    @abstractmethod
    def learn(self, env: Any) -> Self:
        """Learn on an environment with SAME_STEP autoreset; agents add arguments of their own."""

    def predict(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """As stable-baselines3's; see `tw_env.policies.Policy.predict`.

        Raises:
            RuntimeError: nothing was learned or loaded.
        """
        return self.learned().predict(*args, **kwargs)

    def seed(self, seed: int) -> None:
        """Restart the random numbers of play."""
        self.learned().seed(seed)

    def save(self, folder: str | Path) -> None:
        """Write the policy: JSON, and weights as safetensors."""
        self.learned().save(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """An agent that plays a policy that `save` wrote, or one that is shipped."""
        agent = cls()
        agent.policy = cls.restore(folder)
        return agent

    @staticmethod
    def restore(folder: str | Path) -> Policy:
        """Read the policy; agents whose policies are not part of `tw_env` read their own."""
        return load(folder)

    def learned(self) -> Policy:
        """The policy.

        Raises:
            RuntimeError: nothing was learned or loaded.
        """
        if self.policy is None:
            raise RuntimeError(f"Expected learn() or load() before the agent {self.name!r} plays or is saved.")
        return self.policy
