"""Proximal policy optimisation of a gate by stable-baselines3, unmodified; what its variants here share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.logger import Logger

from agents.baselines.lagrangian import MovePrice, Priced
from agents.baselines.sb3_gate import architecture, call_odds, fitted, gate_of, own_random_numbers, untrained_gate
from tw_env.actions import Action
from tw_env.policies import Gate


@dataclass(frozen=True)
class PPOConfig:
    """PPO's settings."""

    steps: int = 1_000_000
    """Environment steps in all, of all rows together; about as many as constrained PCL takes."""
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
    seed: int = 0
    """Seed of the environment, of play, of batches and of the initial weights."""


def learn_ppo(
    algorithm: Any,
    env: VectorEnv,
    priced: Priced,
    actions: tuple[Action, ...],
    config: PPOConfig,
    callback: MovePrice,
) -> Gate:
    """Train and take the actor out.

    Args:
        algorithm: the class `PPO`, or sb3-contrib's `MaskablePPO`.
        env: the environment itself. priced: what the algorithm sees of it.
    """
    standardise = fitted(
        env, untrained_gate(priced.layout, actions, config.width, config.initial_rate, config.seed), config.seed
    )
    with own_random_numbers():
        model = algorithm(
            "MlpPolicy", priced, learning_rate=lambda left: config.lr * (0.1 + 0.9 * left), n_steps=config.rollout,
            batch_size=min(config.batch, config.rollout * env.num_envs), n_epochs=config.epochs, gamma=1.0,
            gae_lambda=config.gae_lambda, ent_coef=config.entropy,
            policy_kwargs=architecture(standardise, config.width), seed=config.seed, device="cpu",
        )  # fmt: skip
        model.set_logger(Logger(None, []))  # its own would leave a folder behind
        head = cast(torch.nn.Linear, model.policy.action_net)
        with torch.no_grad():  # as many calls as the rules allow, every kind alike
            head.bias[1:] = call_odds(config.initial_rate, len(actions))
        model.learn(config.steps, callback=callback)
    return gate_of(priced.layout, actions, standardise, model.policy.mlp_extractor.policy_net, head)
