"""PPO-Lagrangian: stable-baselines3's PPO, unmodified, on a reward that holds the price of calls."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from agents.base import Agent
from agents.baselines.lagrangian import MovePrice, Priced
from agents.pcl.multiplier import Multiplier
from tw_env.actions import Action
from tw_env.adapters.sb3 import SB3VecEnv
from tw_env.observations import Layout
from tw_env.policies.policy import CONFIG, Policy, frame

WEIGHTS = "policy.safetensors"
CLIP = 10.0  # standardised observations beyond are cut

Log = Callable[[int, dict[str, float]], object]


@dataclass(frozen=True)
class PPOLagrangianConfig:
    """PPO's settings and the multiplier's."""

    steps: int = 1_500_000
    """Environment steps in all; about as many as constrained PCL takes in its 400 rounds."""
    rollout: int = 16
    """Steps of every row between updates."""
    batch: int = 2048
    """Transitions a gradient step."""
    epochs: int = 4
    """Passes over a rollout."""
    lr: float = 1e-3
    """Adam's step size; it falls to a tenth."""
    entropy: float = 0.003
    """Weight of the policy's entropy."""
    gae_lambda: float = 0.95
    """Of the advantage estimate; gamma is 1."""
    width: int = 128
    """Units of the two hidden layers of policy and value."""
    initial_rate: float = 0.1
    """P(call) of the untrained policy."""
    limits: tuple[float, ...] = (0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
    """Grid of the multiplier, in the observation's unit of the limit."""
    multiplier_step: float = 0.02
    """Move of lambda per unit of violation."""
    seed: int = 0
    """Seed of the environment, of play, of batches and of the initial weights."""


class PPOLagrangian(Agent):
    """Learns an actor for every rule at once.

    Example:
        >>> agent = PPOLagrangian(PPOLagrangianConfig(steps=100_000)).learn(env)  # doctest: +SKIP
        >>> agent.predict(observations)  # doctest: +SKIP
    """

    name = "ppo-lagrangian"

    def __init__(self, config: PPOLagrangianConfig | None = None) -> None:
        self.config = PPOLagrangianConfig() if config is None else config
        self.policy: Actor | None = None
        self.multiplier = Multiplier(np.array(self.config.limits), self.config.multiplier_step)

    def learn(self, env: Any, log: Log | None = None) -> PPOLagrangian:
        """Train on an `AssistedDecodingVectorEnv`.

        Args:
            log: called with (environment steps so far, numbers by name) after each rollout.
        """
        config, layout, actions = self.config, env.game.layout, env.game.spec.actions
        priced = Priced(SB3VecEnv(env), layout["limit"].start, self.multiplier)
        normalised = VecNormalize(priced, norm_obs=True, norm_reward=False, clip_obs=CLIP)
        with _own_random_numbers():
            model = PPO(
                "MlpPolicy", normalised, learning_rate=lambda left: config.lr * (0.1 + 0.9 * left),
                n_steps=config.rollout, batch_size=min(config.batch, config.rollout * env.num_envs),
                n_epochs=config.epochs, gamma=1.0, gae_lambda=config.gae_lambda, ent_coef=config.entropy,
                policy_kwargs=_architecture(config.width), seed=config.seed, device="cpu",
            )  # fmt: skip
            with torch.no_grad():  # as many calls as the rules allow, every kind alike
                odds = np.log(config.initial_rate / (1 - config.initial_rate) / (len(actions) - 1))
                actor = model.policy
                cast(torch.nn.Linear, actor.action_net).bias[1:] = float(odds)
            model.learn(config.steps, callback=MovePrice(priced, log))
        statistics = cast(RunningMeanStd, normalised.obs_rms)
        mean = statistics.mean.astype(np.float32)
        scale = np.sqrt(statistics.var + normalised.epsilon).astype(np.float32)
        self.policy = Actor(layout, actions, actor.eval(), mean, scale, config.width)
        return self

    @staticmethod
    def restore(folder: str | Path) -> Actor:
        """Read a saved policy.

        Raises:
            ValueError: a policy of another kind.
        """
        record = json.loads((Path(folder) / CONFIG).read_text())
        if record.get("kind") != Actor.kind:
            raise ValueError(f"Expected a policy of kind {Actor.kind!r} in {folder}, got {record.get('kind')!r}.")
        return Actor.restore(record, Path(folder))


class Actor(Policy):
    """The actor that stable-baselines3 trained, as a policy of the game: standardise, score, draw.

    Args:
        network: the actor-critic network. width: units of its hidden layers.
        mean, scale: (size,) what observations are shifted and divided by.
    """

    kind = "ppo_lagrangian"

    def __init__(
        self,
        layout: Layout,
        actions: tuple[Action, ...],
        network: ActorCriticPolicy,
        mean: NDArray[np.float32],
        scale: NDArray[np.float32],
        width: int,
    ) -> None:
        super().__init__(layout, actions)
        self.network, self.mean, self.scale, self.width = network, mean, scale, width

    @torch.inference_mode()
    def log_probabilities(
        self, observations: NDArray[np.float32], masks: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """(rows, actions) log-probabilities, -inf where a mask forbids."""
        shown = np.clip((observations - self.mean) / self.scale, -CLIP, CLIP).astype(np.float32)
        logits = self.network.get_distribution(torch.from_numpy(shown)).distribution.logits  # type: ignore[union-attr]
        if masks is not None:
            logits = logits.masked_fill(~torch.from_numpy(masks), -torch.inf)
        return logits.double().log_softmax(-1).numpy()

    def choose(
        self, observations: NDArray[np.float32], deterministic: bool, masks: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        logprobs = self.log_probabilities(observations, masks)
        if deterministic:
            return logprobs.argmax(axis=1)
        uniforms = self.generator.random((len(observations), 1))
        drawn = (np.exp(logprobs).cumsum(axis=1) <= uniforms).sum(axis=1)
        return np.minimum(drawn, len(self.actions) - 1)

    # ---- files -------------------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        return {"width": self.width}

    def save(self, folder: str | Path) -> None:
        """Write `policy.json` and the weights as safetensors."""
        super().save(folder)
        state = {f"network.{name}": value.contiguous() for name, value in self.network.state_dict().items()}
        state |= {"mean": torch.from_numpy(self.mean), "scale": torch.from_numpy(self.scale)}
        save_file(state, Path(folder) / WEIGHTS)

    @classmethod
    def restore(cls, record: dict[str, Any], folder: Path) -> Actor:
        layout, actions = frame(record)
        state = load_file(folder / WEIGHTS)
        box = Box(-CLIP, CLIP, (layout.size,), np.float32)
        with torch.random.fork_rng(devices=[]):
            network = ActorCriticPolicy(box, Discrete(len(actions)), lambda left: 0.0, **_architecture(record["width"]))
        network.load_state_dict({k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")})
        return cls(layout, actions, network.eval(), state["mean"].numpy(), state["scale"].numpy(), record["width"])


def _architecture(width: int) -> dict[str, Any]:
    return {"net_arch": [width, width], "activation_fn": torch.nn.SiLU}


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Keep stable-baselines3's seeding, which sets the generators of the whole process, from reaching the caller."""
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
