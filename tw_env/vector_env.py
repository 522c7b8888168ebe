"""The game as a Gymnasium `VectorEnv`; its docstring is the card of the decision process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from tw_env.game import Game, Step
from tw_env.observations import GameLayout
from tw_env.render import render
from tw_env.rules import Constraint
from tw_env.settings import Settings, build

Infos = dict[str, Any]


class AssistedDecodingVectorEnv(VectorEnv):
    """A student writes text, and a policy decides at every token whether the teacher should help.

    ## Description
    One episode writes one output for one prompt. At each step the policy sees what the student would write next, and
    chooses who writes it. A rule, such as "ask the teacher for at most 10% of the tokens", limits the teacher's help.

    ## Action space
    `Discrete(2)`, or `Discrete(3)` in the ids that end in `Verify`; `actions=` chooses the set.

    | action | what happens |
    |---|---|
    | `SELF` | the student writes the token that it showed |
    | `ASK` | the teacher reads the unread tokens and writes the next one; pending tokens stay for good |
    | `VERIFY` | the teacher reads the unread tokens, keeps the longest accepted prefix of the pending ones, writes on |

    `ASK` and `VERIFY` cost one teacher call each. `VERIFY` drops what the teacher does not accept and all behind it;
    then the teacher writes the next token itself. With nothing pending it is `ASK`.

    *Pending* tokens were written by the student and not yet read by the teacher. The end token is never pending: where
    the student would end, `SELF` ends the episode, `ASK` and `VERIFY` let the teacher decide. With a hard rule, a call
    that can't be afforded is played as `SELF`; `info["action_mask"]` and `action_masks()` say so beforehand.

    ## Observation space
    A flat float32 `Box`; `env.layout["entropy"]` is the slice of a feature, `env.layout.features` tells sizes, bounds
    and units of all of them.

    ## Transitions
    Greedy decoding is deterministic. In sampling, every random choice takes numbers from the row's own generator by
    inverse CDF; acceptance and the teacher's token follow the rejection rule of speculative sampling (Leviathan et al.
    2023, arXiv 2211.17192), the student's proposal at the place of the call included, so that a text is distributed as
    the teacher's if and only if no student token reaches the end, or an `ASK`, unverified.

    ## Reward
    The return is the score of the final text: `reward=` "quality", "regret", "kl", "expected_kl" or a weighted sum, see
    `tw_env.rewards.Reward`. Tokens are paid when they are settled (the teacher has read them and they stay, or the text
    ends), so nothing is ever taken back; in SELF/ASK with eager scoring, at once. Use gamma = 1.

    ## Cost
    `info["cost"]` is what the step spent and `info["allowance"]` what it added to what is allowed, in the unit of the
    row's rule; `info["spent"]` and `info["allowed"]` are the episode's sums. The constraint is
    E[spent - allowed] <= 0. At a reset, `cost` is 0 and `allowance` what an absolute rule allows.

    ## Starting state
    A prompt of the split, drawn at random, and a rule. `reset(options={"prompts": indices, "rules": rules})` sets the
    order of the coming episodes instead.

    ## Episode end
    Terminated at the end token or at the cap on new tokens. Truncated only by `max_episode_steps`.

    ## Autoreset
    `SAME_STEP`: a finished row is reset within the step. Its last observation and info stand in `infos["final_obs"]`
    and `infos["final_info"]`; `infos["cost"]` is then already that of the reset.

    ## Infos
    `cost`, `allowance`, `spent`, `allowed`, `calls` (so far), `tokens` (written), `prompt` (index), `quality` (of the
    final text, 0 before), `action_mask`; `latency_ms` and `price` (so far) where a table or prices are given.

    ## Arguments
    `num_envs`, `render_mode` (None or "ansi", which draws row 0) and everything in `tw_env.settings.Settings`.

    ## Versions
    - v0: first version.

    Raises:
        ValueError, TypeError: a setting that is unknown, out of range, or doesn't fit another.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4, "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int = 1, render_mode: str | None = None, **settings: Any) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"Expected render_mode None or 'ansi', got {render_mode!r}.")
        self.settings = Settings.of(settings)
        self.num_envs, self.render_mode = num_envs, render_mode
        self._setup = build(num_envs, self.settings)
        self.single_observation_space = self.layout.space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = Discrete(len(self.game.spec.actions))
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._everyone = np.arange(num_envs)
        self._all_true = np.ones(num_envs, bool)

    @property
    def game(self) -> Game:
        """The rows' state, for oracles and for rendering."""
        return self._setup.game

    @property
    def layout(self) -> GameLayout:
        """Names and slices of the observation."""
        return self._setup.game.layout

    @property
    def task(self) -> Any:
        """Prompts, references and metric."""
        return self._setup.task

    @property
    def pair(self) -> Any:
        """The two models and their tokenizer."""
        return self._setup.pair

    @property
    def rules(self) -> list[Constraint]:
        """The rule of each row's current episode."""
        return list(self.game.budget.constraints)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Infos]:
        """Start all rows anew.

        Args:
            seed: row i is seeded with seed + i, or with its own of a sequence. None goes on with the generators.
            options: see `tw_env.schedule.Schedule.follow`.
        """
        if seed is not None or not self.game.generators:
            if isinstance(seed, int | np.integer):
                seed = [int(seed) + row for row in range(self.num_envs)]
            if seed is not None and len(seed) != self.num_envs:
                raise ValueError(f"Expected {self.num_envs} seeds, one a row, got {len(seed)}.")
            seeds = [None] * self.num_envs if seed is None else [int(one) for one in seed]
            self.game.generators = [seeding.np_random(one)[0] for one in seeds]
        self._setup.schedule.follow(options)
        self._start(self._everyone)
        self.game.look()
        return self.game.observe(), self._infos(
            np.zeros(self.num_envs), self.game.budget.allowed.copy(), self._all_true
        )

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Infos]:
        """Play one action a row.

        Raises:
            ValueError: not one whole number of the action space for every row, or no reset before.
        """
        if not self.game.generators:
            raise ValueError("Expected reset() before the first step().")
        step = self.game.step(self._check(actions))
        done = step.terminated | step.truncated
        if not done.any():
            self.game.look()
            return (
                self.game.observe(), step.reward, step.terminated, step.truncated,
                self._infos(step.cost, step.allowance, self._all_true),
            )  # fmt: skip
        final = self._finals(step, done)
        self._start(np.flatnonzero(done))
        self.game.look()
        cost, allowance = np.where(done, 0.0, step.cost), np.where(done, self.game.budget.allowed, step.allowance)
        infos = self._infos(cost, allowance, self._all_true) | final
        return self.game.observe(), step.reward, step.terminated, step.truncated, infos

    def _check(self, actions: NDArray[np.int64]) -> NDArray[np.int64]:
        chosen = np.asarray(actions)
        count = len(self.game.spec.actions)
        if chosen.shape != (self.num_envs,) or chosen.dtype.kind not in "iu":
            raise ValueError(
                f"Expected {self.num_envs} whole numbers, one action a row; got {chosen.dtype} of shape {chosen.shape}."
            )
        chosen = chosen.astype(np.int64, copy=False)
        if chosen.view(np.uint64).max() >= count:  # a negative one is huge here
            names = ", ".join(f"{i} ({a.name})" for i, a in enumerate(self.game.spec.actions))
            raise ValueError(f"Expected actions out of {names}; got {chosen[(chosen < 0) | (chosen >= count)][0]}.")
        return chosen

    def _start(self, rows: NDArray[np.int64]) -> None:
        starts = self._setup.schedule.next([self.game.generators[row] for row in rows])
        self.game.reset(rows, *starts)

    def _finals(self, step: Step, done: NDArray[np.bool_]) -> Infos:
        """Last observations and infos of the rows that finish in this step, before they are reset."""
        final_obs = np.full(self.num_envs, None, object)
        over, cut = np.flatnonzero(step.terminated), np.flatnonzero(step.truncated)
        for row, observation in zip(over.tolist(), self.game.observe_final(over), strict=True):
            final_obs[row] = observation
        if cut.size:
            self.game.look(cut)
            observations = self.game.observe()
            for row in cut.tolist():
                final_obs[row] = observations[row]
        final_info = self._infos(step.cost, step.allowance, done)
        return {"final_obs": final_obs, "_final_obs": done, "final_info": final_info, "_final_info": done}

    def _infos(self, cost: NDArray[np.float64], allowance: NDArray[np.float64], where: NDArray[np.bool_]) -> Infos:
        """The infos of all rows, valid `where` it says so."""
        game = self.game
        infos: Infos = {
            "cost": cost,
            "allowance": allowance,
            "spent": game.budget.spent.copy(),
            "allowed": game.budget.allowed.copy(),
            "calls": game.budget.calls.copy(),
            "tokens": game.texts.length.copy(),
            "prompt": game.prompt.copy(),
            "quality": game.quality.copy(),
            "action_mask": game.action_mask(),
        }
        if game.spec.costs.latency is not None:
            infos["latency_ms"] = game.budget.milliseconds.copy()
        if game.spec.costs.prices is not None:
            infos["price"] = game.budget.money.copy()
        for name in tuple(infos):
            infos["_" + name] = where
        return infos

    def action_masks(self) -> NDArray[np.bool_]:
        """(rows, actions) which actions can be afforded, as sb3-contrib's MaskablePPO asks for them."""
        return self.game.action_mask().astype(bool)

    def render(self) -> tuple[str, ...] | None:
        """What row 0 looks like (`render_mode="ansi"`)."""
        if self.render_mode is None:
            return None
        return (render(self.game, self.pair.tokenizer, self.task.prompts, 0),)
