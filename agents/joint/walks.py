"""Texts that a student in training samples in the game, its asking included, with what the teacher said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorWrapper
from numpy.typing import NDArray
from torch import Tensor

from agents.joint.reading import Ids, Texts, join, steps_of
from agents.rollout import Outcomes, play_prompts
from tw_env.actions import Action
from tw_env.decoding.reading import rule_reader
from tw_env.policies import AskToken
from tw_env.rules import Constraint, Quantity
from tw_env.vector_env import AssistedDecodingVectorEnv


@dataclass(frozen=True)
class Walks:
    """Episodes of SELF/ASK in sampling: every step wrote one token, the student's or the teacher's.

    Attributes:
        texts: behind the student's whole prompts, rules included.
        asked: (steps,) whether the teacher wrote the token.
        teacher: (steps,) log p_T of the student's tokens, read once, when they were written; 0 for the teacher's own.
        limits: (walks,) calls per token that the rule allows; infinite without a limit.
    """

    texts: Texts
    asked: Tensor
    teacher: Tensor
    limits: Tensor

    def __len__(self) -> int:
        return len(self.limits)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Walks:
        """The walks at these places, in this order."""
        steps = steps_of(self.texts, rows)
        chosen = torch.as_tensor(np.asarray(rows, np.int64))
        return Walks(self.texts.take(rows), self.asked[steps], self.teacher[steps], self.limits[chosen])

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        prompts, outputs = (list(map(list, ids)) for ids in (self.texts.prompts, self.texts.outputs))
        tensors = {"asked": self.asked, "teacher": self.teacher, "limits": self.limits}
        return {"prompts": prompts, "outputs": outputs, **tensors}

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Walks:
        """What `state` kept, on the host."""
        tensors = (state[name].cpu() for name in ("asked", "teacher", "limits"))
        return cls(Texts(state["prompts"], state["outputs"]), *tensors)


def joined(parts: Sequence[Walks]) -> Walks:
    """All walks of several parts, in order."""
    return Walks(
        join([part.texts for part in parts]),
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("asked", "teacher", "limits")),
    )


class Walker(VectorWrapper):
    """A SELF/ASK game in sampling that notes every token of every episode; it plays exactly as before.

    Attributes:
        found: by the episode's number (row, then order of starting): its tokens, who asked, and log p_T.
    """

    env: AssistedDecodingVectorEnv

    def __init__(self, env: AssistedDecodingVectorEnv) -> None:
        spec = env.game.spec
        if spec.actions != (Action.SELF, Action.ASK) or not spec.sampling or not spec.eager:
            raise ValueError(
                "Expected a game of SELF/ASK in sampling whose teacher scores every token (decoding='sampling', "
                "reward='kl'), got another."
            )
        super().__init__(env)
        self.found: dict[int, list[tuple[int, bool, float]]] = {}

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's; episodes are numbered from 0 again."""
        self._number, self._following = np.arange(self.num_envs), self.num_envs
        self.found = {}
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: NDArray[np.int64]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's."""
        game = self.env.game
        score = game.texts.score[np.arange(self.num_envs), game.texts.length].copy()  # of what the student proposes
        out = self.env.step(actions)
        asked = actions == 1
        steps = zip(
            self._number.tolist(), game.written.tolist(), asked.tolist(), np.where(asked, 0.0, score).tolist(),
            strict=True,
        )  # fmt: skip
        for number, *step in steps:
            self.found.setdefault(number, []).append((step[0], step[1], step[2]))
        rows = np.flatnonzero(out[2] | out[3])
        self._number[rows] = np.arange(self._following, self._following + len(rows))
        self._following += len(rows)
        return out


def walk(
    env: AssistedDecodingVectorEnv,
    prompts: Sequence[int] | NDArray[np.int64],
    encoded: Sequence[Ids],
    limits: NDArray[np.float64],
    words: Sequence[str],
    seed: int,
) -> tuple[Walks, Outcomes]:
    """Let the student play these prompts once under rules in words, asking with the probability that it gives to it.

    Args:
        env: whose student has ask tokens and reads rules; its weights may have changed since the last call.
        prompts: indices of the environment's task. encoded: their token ids. limits, words: (prompts,) each one's rule.

    Raises:
        ValueError: an environment with other actions, greedy decoding, or without the reward `kl`.
    """
    walker, reader = Walker(env), rule_reader(env.pair)
    if reader is None:
        raise ValueError("Expected a student that reads rules, got one that doesn't: see agents.joint.student.")
    env.game.texts.forget_prompts()
    policy = AskToken(env.layout, env.game.spec.actions)
    constraints = np.array([Constraint(Quantity.CALLS_PER_TOKEN, limit) for limit in limits.tolist()], object)
    outcomes = play_prompts(walker, policy, list(prompts), constraints, seed, deterministic=False, words=list(words))
    read: list[Ids] = [reader.before(said, ids) for said, ids in zip(words, encoded, strict=True)]
    found = [walker.found[number] for number in range(len(read))]
    _, asked, teacher = zip(*(step for steps in found for step in steps), strict=True)
    texts = Texts(read, [[token for token, _, _ in steps] for steps in found])
    told = torch.tensor(limits, dtype=torch.float32)
    return Walks(texts, torch.tensor(asked), torch.tensor(teacher, dtype=torch.float32), told), outcomes
