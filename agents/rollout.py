"""Playing a vector environment: whole episodes for learning, and every prompt once for judging."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

OF_EPISODES = ("quality", "calls", "tokens", "spent", "allowed", "prompt")
SUMS = "sums/"  # before their names in a file


class Predicts(Protocol):
    """Anything with stable-baselines3's `predict`: policies and agents."""

    def predict(
        self,
        observation: NDArray[np.float32],
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[Any, Any]:
        """Actions for observations (rows, size), and a state to hand back."""
        ...


@dataclass
class Episodes:
    """Finished episodes, their steps one after the other.

    Attributes:
        observations: (steps, size). actions, rewards, costs, allowances: (steps,). masks: (steps, actions).
        starts: (episodes + 1,) where each episode begins, and the number of steps.
        last: (episodes, size) the observation after the last step. cut: (episodes,) true if truncated, so that `last`
            has a value of its own.
        before: (episodes,) what was allowed at the reset.
        sums: per-episode arrays from the last info: quality, calls, tokens, spent, allowed, prompt, where given.
    """

    observations: NDArray[np.float32]
    actions: IntArray
    rewards: FloatArray
    costs: FloatArray
    allowances: FloatArray
    masks: NDArray[np.bool_]
    starts: IntArray
    last: NDArray[np.float32]
    cut: NDArray[np.bool_]
    before: FloatArray
    sums: dict[str, FloatArray]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def steps(self) -> int:
        return int(self.starts[-1])

    @property
    def of_step(self) -> IntArray:
        """(steps,) the episode that each step belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def total(self, values: FloatArray) -> FloatArray:
        """(episodes,) sums over each episode's steps."""
        return np.add.reduceat(values, self.starts[:-1]) if len(self) else np.zeros(0)

    @property
    def violation(self) -> FloatArray:
        """(episodes,) spent - allowed; the constraint is that its expectation is at most 0."""
        return self.total(self.costs - self.allowances) - self.before

    def take(self, chosen: IntArray) -> Episodes:
        """These episodes, in this order."""
        lengths = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        steps = np.repeat(self.starts[chosen] - starts[:-1], lengths) + np.arange(starts[-1])
        per_step = ("observations", "actions", "rewards", "costs", "allowances", "masks")
        return Episodes(
            **{name: getattr(self, name)[steps] for name in per_step},
            starts=starts,
            last=self.last[chosen],
            cut=self.cut[chosen],
            before=self.before[chosen],
            sums={name: values[chosen] for name, values in self.sums.items()},
        )

    @staticmethod
    def join(parts: Sequence[Episodes]) -> Episodes:
        """One after the other."""
        offsets = np.cumsum([0, *(part.steps for part in parts)])
        starts = [part.starts[:-1] + offset for part, offset in zip(parts, offsets[:-1], strict=True)]
        arrays = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Episodes)
                  if f.name not in ("starts", "sums")}  # fmt: skip
        sums = {name: np.concatenate([part.sums[name] for part in parts]) for name in parts[0].sums}
        return Episodes(**arrays, starts=np.concatenate([*starts, offsets[-1:]]), sums=sums)

    def save(self, path: Path) -> None:
        """Write all arrays into one compressed `.npz` file, which `load` reads without pickle."""
        arrays: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sums"}
        arrays |= {SUMS + name: values for name, values in self.sums.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @staticmethod
    def load(path: Path) -> Episodes:
        """What `save` wrote.

        Raises:
            ValueError: arrays are missing.
        """
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        sums = {name.removeprefix(SUMS): arrays.pop(name) for name in list(arrays) if name.startswith(SUMS)}
        missing = sorted({f.name for f in fields(Episodes)} - {"sums"} - set(arrays))
        if missing:
            raise ValueError(
                f"Expected episodes written by Episodes.save, got {path} without {', '.join(missing)}. Write them anew."
            )
        return Episodes(**arrays, sums=sums)


def check_autoreset(env: VectorEnv) -> None:
    """Raises ValueError unless finished rows are reset within the step."""
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.SAME_STEP:
        raise ValueError(
            f"Expected a vector environment with autoreset mode SAME_STEP (a finished episode's last cost stands in "
            f"infos['final_info']), got {mode}. Make it with autoreset_mode=AutoresetMode.SAME_STEP."
        )


def final(infos: dict[str, Any], name: str, done: NDArray[np.bool_]) -> FloatArray:
    """(rows,) a number from the last info where an episode is done, from the current one elsewhere.

    Gymnasium's batches of single environments mark by a mask `_name` which rows told the number, and hold 0 for others.

    Raises:
        KeyError: a row did not tell it.
        TypeError: it isn't a float; see the message.
    """
    values = np.zeros(len(done))
    for rows, told in ((~done, infos), (done, infos.get("final_info", {}))):
        if not rows.any():
            continue
        if name not in told or not np.broadcast_to(told.get("_" + name, True), done.shape)[rows].all():
            raise KeyError(
                f"Expected info[{name!r}] on every step of a constrained environment, 0.0 included; some rows told "
                f"only {sorted(key for key in told if not key.startswith('_'))}. Set it in a wrapper's step."
            )
        numbers = np.asarray(told[name])
        if numbers.dtype.kind != "f":  # a batch takes the type of its first row's number: after a 0, .3 becomes 0
            raise TypeError(
                f"Expected info[{name!r}] to be a float, got {numbers.dtype}; in a batch of environments fractions "
                f"would be lost. Set info[{name!r}] = float(...)."
            )
        values[rows] = numbers[rows]
    return values


class Collector:
    """Plays on and hands out finished episodes; unfinished ones go on in the next call."""

    def __init__(self, env: VectorEnv, seed: int) -> None:
        check_autoreset(env)
        self.env = env
        self.actions = int(env.single_action_space.n)  # type: ignore[attr-defined]
        self.restart(seed)

    def restart(self, seed: int, drop: int = 0, options: dict[str, Any] | None = None) -> None:
        """Drop unfinished episodes and seed the environment anew, as at every checkpoint.

        Args:
            drop: so many episodes that finish next are dropped. When all rows begin together, the first to finish are
                the short ones; after two episodes a row the rows are out of step, and what finishes is fair.
            options: of the environment's reset.
        """
        rows = self.env.num_envs
        observations, infos = self.env.reset(seed=seed, options=options)
        self.observations = np.array(observations, np.float32)
        self._mask = self._masks(infos)
        self._parts: list[dict[str, NDArray[Any]]] = []
        self._finished: dict[int, tuple[NDArray[np.float32], bool, dict[str, float]]] = {}
        self._episode = np.arange(rows)  # running number of the episode in each row
        allowed = np.asarray(infos.get("allowance", np.zeros(rows)), np.float64)
        self._before = dict(enumerate(allowed.tolist()))
        self._next, self._drop = rows, drop

    def _masks(self, infos: dict[str, Any]) -> NDArray[np.bool_]:
        if "action_mask" in infos:
            return np.asarray(infos["action_mask"]).astype(bool)
        return np.ones((self.env.num_envs, self.actions), bool)

    def collect(self, policy: Predicts, episodes: int) -> Episodes:
        """Play with sampled actions until so many more episodes are finished, at least."""
        while self._drop and len(self._finished) < self._drop:
            self._step(policy)
        if self._drop:
            self._hand_out()
            self._drop = 0
        while len(self._finished) < episodes:
            self._step(policy)
        return self._hand_out()

    def collect_first(self, policy: Predicts, episodes: int, steps: int | None = None) -> Episodes:
        """Play with sampled actions until the first so many episodes since the restart are finished, and no others.

        Args:
            steps: after so many those are handed out that are finished by then, at least one; None waits for all.
        """
        taken = 0
        while (done := sum(number in self._finished for number in range(episodes))) < episodes:
            if steps is not None and taken >= steps and done:
                break
            self._step(policy)
            taken += 1
        return self._hand_out(np.array([number for number in range(episodes) if number in self._finished]))

    def _step(self, policy: Predicts) -> None:
        actions, _ = policy.predict(self.observations, deterministic=False, action_masks=self._mask)
        actions = np.asarray(actions)
        after, rewards, terminated, truncated, infos = self.env.step(actions)
        done = terminated | truncated
        allows = "allowance" in infos or "allowance" in infos.get("final_info", {})
        self._parts.append({
            "observations": self.observations, "actions": actions, "rewards": np.asarray(rewards, np.float64),
            "costs": final(infos, "cost", done), "masks": self._mask, "episode": self._episode.copy(),
            "allowances": final(infos, "allowance", done) if allows else np.zeros(len(done)),
        })  # fmt: skip
        for row in np.flatnonzero(done):
            last = infos["final_info"]
            sums = {name: float(last[name][row]) for name in OF_EPISODES if name in last}
            observation = np.asarray(infos["final_obs"][row], np.float32)
            self._finished[int(self._episode[row])] = (observation, bool(truncated[row]), sums)
            self._before[self._next] = float(infos["allowance"][row]) if "allowance" in infos else 0.0
            self._episode[row] = self._next
            self._next += 1
        self.observations, self._mask = np.array(after, np.float32), self._masks(infos)

    def _hand_out(self, wanted: IntArray | None = None) -> Episodes:
        """The finished episodes, or those of them with these numbers, in the order in which they started."""
        flat = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        whole = np.isin(flat["episode"], list(self._finished) if wanted is None else wanted)
        self._parts = [{name: values[~whole] for name, values in flat.items()}]
        order = np.flatnonzero(whole)[np.argsort(flat["episode"][whole], kind="stable")]
        numbers, counts = np.unique(flat.pop("episode")[order], return_counts=True)
        ends = [self._finished.pop(number) for number in numbers.tolist()]
        return Episodes(
            **{name: values[order] for name, values in flat.items()},
            starts=np.concatenate([[0], np.cumsum(counts)]),
            last=np.stack([last for last, _, _ in ends]),
            cut=np.array([cut for _, cut, _ in ends]),
            before=np.array([self._before.pop(number) for number in numbers.tolist()]),
            sums={name: np.array([sums[name] for _, _, sums in ends]) for name in ends[0][2]},
        )


@dataclass
class Outcomes:
    """What came of every prompt, in the order in which they were given; arrays (prompts,)."""

    quality: FloatArray
    calls: FloatArray
    tokens: FloatArray
    spent: FloatArray
    allowed: FloatArray
    returns: FloatArray
    prompt: IntArray


def play_prompts(
    env: Any,
    policy: Predicts,
    prompts: Sequence[int] | IntArray,
    rules: Any,
    seed: int,
    deterministic: bool,
    progress: Callable[[int], object] | None = None,
    words: Sequence[str] | str | None = None,
) -> Outcomes:
    """Play every prompt exactly once.

    Args:
        env: an `AssistedDecodingVectorEnv`.
        prompts: indices of the task's prompts. rules: one rule for all, or one each.
        progress: called with the number of newly finished prompts.
        words: what a student that reads rules is told instead of the rules' own words, one for all or one each.
    """
    check_autoreset(env)
    if hasattr(policy, "seed"):
        policy.seed(seed)
    told = {} if words is None else {"words": words}
    options = {"prompts": prompts, "rules": rules, **told} | ({"afterwards": prompts[0]} if len(prompts) else {})
    observations, infos = env.reset(seed=seed, options=options)
    count, rows = len(prompts), env.num_envs
    number = np.arange(rows)  # which prompt each row plays; from `count` on, fillers
    results = {name: np.zeros(count) for name in (*OF_EPISODES, "returns")}
    returns, open_prompts, following, state = np.zeros(rows), count, rows, None
    while open_prompts:
        masks = np.asarray(infos["action_mask"]).astype(bool)
        actions, state = policy.predict(observations, state, deterministic=deterministic, action_masks=masks)
        observations, rewards, terminated, truncated, infos = env.step(np.asarray(actions))
        returns += rewards
        rows_done = np.flatnonzero(terminated | truncated)
        if not rows_done.size:
            continue
        real = rows_done[number[rows_done] < count]
        for name in OF_EPISODES:
            results[name][number[real]] = infos["final_info"][name][real]
        results["returns"][number[real]] = returns[real]
        returns[rows_done] = 0.0
        number[rows_done] = np.arange(following, following + len(rows_done))
        following += len(rows_done)
        open_prompts -= len(real)
        if progress is not None:
            progress(len(real))
    return Outcomes(**{k: v for k, v in results.items() if k != "prompt"}, prompt=results["prompt"].astype(int))
