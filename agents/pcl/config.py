"""Settings of constrained PCL."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from agents.limits import SHARES, Limited
from tw_env.rules import Quantity


@dataclass(frozen=True)
class PCLConfig:
    """How the gate is trained."""

    iterations: int = 200
    """Rounds of play, multiplier move and updates."""
    episodes: int = 512
    """On-policy episodes a round."""
    updates: int = 10
    """Gradient steps a round."""
    batch: int = 256
    """Episodes a gradient step."""
    replayed: float = 0.5
    """Share of each batch that comes from replay (off-policy), once there is any."""
    demonstrated: float = 0.25
    """Share of each batch that comes from demonstrations, if there are any."""
    capacity: int = 20_000
    """Episodes kept for replay."""
    siblings: int | None = None
    """Episodes of each prompt under one rule. Their whole-path residuals share V of the first state, which is their
    mean then and no network; every path is told anew under other limits. 0 for V_R and V_C as networks; None takes 8
    in a greedy game whose rules are soft limits on one quantity, 0 elsewhere."""
    prompts: int = 64
    """With siblings: prompts a gradient step. (`batch`, `replayed`, `demonstrated`, `capacity`, `value_lr`,
    `path_lengths` and `lag` are for V as networks.)"""
    fresh: float = 0.5
    """With siblings: share of a gradient step's prompts that were played last; the others are any."""
    paths: int = 8
    """With siblings: distinct paths kept of each prompt."""
    path_lengths: tuple[int, ...] = (0,)
    """Segment lengths d of the residuals, several at once; 0 goes to the episode's end."""
    alpha: float = 0.02
    """Entropy weight at the start, in the reward's unit."""
    alpha_final: float = 0.003
    """Entropy weight at the end; it falls geometrically."""
    gate_lr: float = 1e-3
    """Adam's step size for the gate; it falls to a tenth."""
    value_lr: float = 2e-3
    """Adam's step size for V_R and V_C; it falls to a tenth."""
    clip: float = 1.0
    """Largest gradient norm, for gate and values apart: the gate's gradient is smaller by about alpha."""
    width: int = 64
    """Units of the hidden layers."""
    whole_text: bool = False
    """Whether the gate reads all states of the text (a recurrent network) instead of the last one."""
    at_end: bool | None = None
    """Whether the gate calls only where the text would end. None: in games with VERIFY, where one call then settles all
    that was written; elsewhere every token is one more decision whose noise may call in vain. But not where rules limit
    time: what such a call drops is written again."""
    dropout: float = 0.0
    """With siblings: share of inputs and of the last layer's units left out in training the gate."""
    initial_rate: float = 0.1
    """P(any action but the first) of the untrained gate; in the game P(call), near what the rules allow."""
    limits: tuple[float, ...] = (0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
    """Grid of the multiplier, in the observation's unit of the limit; under rules on something else than a share of the
    tokens it is those rules."""
    limit: float | None = None
    """The limit on E[sum of costs] in environments whose observations name no rule."""
    multiplier_step: float = 0.02
    """Move of lambda per unit of violation (integral gain). Under limits on something else than a share of the tokens a
    tenth of it, since what a text spends beyond such a limit goes with its length."""
    multiplier_least: float = 0.03
    """Least lambda of a limited rule: where a limit hardly binds, wasted calls would cost nothing otherwise."""
    multiplier_largest: float = 5.0
    """Largest lambda."""
    multiplier_proportional: float = 0.0
    """PID: proportional gain."""
    multiplier_derivative: float = 0.0
    """PID: gain on the violation's rise."""
    averaging: float = 0.999
    """Decay of the averaged gate weights; the average is what is learned, since a cut picks out the gate's noise."""
    lag: float = 0.95
    """Decay of the averaged V at the far end of off-policy segments in stochastic environments."""
    stochastic: bool | None = None
    """Whether actions lead to random states; None asks the environment (sampling does, greedy decoding doesn't)."""
    bootstrap: bool | None = None
    """Whether a truncated episode goes on in the values behind it. None: in the game, where truncation is a guard; not
    elsewhere, where return and limit are of episodes as they are played (without discount, values of an endless
    episode would be infinite)."""
    checkpoint_every: int = 50
    """Rounds between checkpoints; unfinished episodes are dropped there, so that resuming changes nothing."""
    seed: int = 0
    """Seed of the environment, of play, of batches and of the initial weights."""

    @classmethod
    def general(cls, limit: float, actions: int, **settings: Any) -> PCLConfig:
        """For environments other than this project's game: all actions alike at first, any lambda from 0, and residuals
        of single steps, whose noise is that of one transition; in a deterministic environment, set `stochastic=False`
        and `path_lengths=(0,)`, which learns faster.

        Set `alpha`, `alpha_final` and `multiplier_step` to the scale of the rewards.

        Args:
            limit: on the expected cost of an episode. actions: how many there are.
        """
        given = {
            "initial_rate": (actions - 1) / actions, "multiplier_least": 0.0, "multiplier_largest": math.inf,
            "path_lengths": (1,),
        }  # fmt: skip
        return cls(limit=limit, **{**given, **settings})

    def settled(
        self, in_game: bool, sampling: bool, verifies: bool = False, limited: Limited | None = SHARES
    ) -> PCLConfig:
        """With a value for what the environment decides.

        Args:
            in_game: whether it is this project's game. sampling: whether its actions lead to random states.
            verifies: whether VERIFY is among them. limited: what its rules limit, if all are soft and on one quantity,
                so that a path can be told anew under others.
        """
        repeats = in_game and not sampling and limited is not None
        siblings = (8 if repeats else 0) if self.siblings is None else self.siblings
        if siblings == 1 or (siblings and not repeats):
            raise ValueError(
                "Expected siblings=0, or at least 2 in a greedy game of this project whose rules are soft limits on "
                f"one quantity (a path can't be told anew elsewhere); got {siblings}."
            )
        if not in_game and (self.whole_text or self.at_end):
            raise ValueError("Expected whole_text and at_end to be left alone outside this project's game, got True.")
        timed = limited is not None and limited.quantity == Quantity.LATENCY_MS
        return replace(
            self,
            siblings=siblings,
            at_end=(verifies and siblings > 0 and not timed) if self.at_end is None else self.at_end,
            bootstrap=in_game if self.bootstrap is None else self.bootstrap,
            stochastic=sampling if self.stochastic is None else self.stochastic,
        )

    def alpha_at(self, iteration: int) -> float:
        """The entropy weight of a round."""
        return self.alpha * (self.alpha_final / self.alpha) ** (iteration / max(self.iterations, 1))
