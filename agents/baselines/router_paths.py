"""What routers learn from: texts that the student finishes alone, and what one more call would change and gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from agents.baselines.oracles import Oracle
from agents.rollout import check_autoreset
from tw_env.actions import Action
from tw_env.game import Game

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

Plan = tuple[int, tuple[int, ...]]  # a prompt, and the places of the teacher's calls in their order
FREE = "as often as you like"
ASKS, VERIFICATIONS = 2, 8  # most calls on a path; each place may be asked at, so ASK has many paths a prompt


@dataclass
class Paths:
    """Final texts of a greedy game, each with the states along it, one after the other.

    Attributes:
        states: (states, size) observations at the places of each text, as they were seen when the text was written.
        starts: (paths + 1,) where each path begins, and the number of states.
        open: (states,) whether this is a place to decide at, and one that no shorter path holds: behind the last call,
            and where the text would end if the call is `VERIFY`.
        changes: (states,) whether a call there would change the text.
        gain: (states,) quality that the call adds if the student goes on alone; 0 where it changes nothing.
        prompt: (paths,) index of the prompt.
    """

    states: NDArray[np.float32]
    starts: IntArray
    open: BoolArray
    changes: BoolArray
    gain: FloatArray
    prompt: IntArray

    def __len__(self) -> int:
        return len(self.prompt)

    def padded(self, paths: IntArray) -> IntArray:
        """(n, longest) numbers of these paths' states; -1 behind the end."""
        lengths = np.diff(self.starts)[paths]
        places = np.arange(int(lengths.max(initial=0)))
        return np.where(places < lengths[:, None], self.starts[paths][:, None] + places, -1)


_paths: WeakKeyDictionary[Game, dict[tuple[Action, int], Paths]] = WeakKeyDictionary()


def paths_of(env: Any, call: Action, prompts: int | None = None) -> Paths:
    """The paths of this environment's first `prompts` prompts (None: all); routers of one environment share them.

    Every path starts from one on which the student writes alone. A path that a call would change is played once more
    with that call, its quality compared, and so on until no call changes anything or the path has had its most calls.

    Args:
        env: an `AssistedDecodingVectorEnv` of greedy decoding with SAME_STEP autoreset.
        call: what is asked for: `ASK` at any place, or `VERIFY` where the text would end. Earlier it can't gain more,
            and less is known.

    Raises:
        ValueError: sampling, a call that the game lacks, or another autoreset mode.
    """
    check_autoreset(env)
    count = len(env.task.prompts) if prompts is None else min(prompts, len(env.task.prompts))
    known = _paths.setdefault(env.game, {})
    if (call, count) not in known:
        known[call, count] = _collect(env, call, count)
    return known[call, count]


def _collect(env: Any, call: Action, prompts: int) -> Paths:
    oracle = Oracle(env, call)
    most = VERIFICATIONS if call == Action.VERIFY else ASKS
    plans: list[Plan] = [(prompt, ()) for prompt in range(prompts)]
    played: dict[Plan, _Path] = {}
    while plans:
        played.update(zip(plans, _play(env, oracle, plans), strict=True))
        plans = [
            (prompt, (*calls, int(place)))
            for prompt, calls in plans
            if len(calls) < most
            for place in np.flatnonzero(played[prompt, calls].changes)
        ]
    return _join({plan: path for plan, path in played.items() if len(plan[1]) < most}, played)


# ---- playing plans ---------------------------------------------------------------------------------------------


@dataclass
class _Path:
    """One text: what was seen and would change at each place, and how good the text is."""

    states: NDArray[np.float32]  # (places, size)
    changes: BoolArray  # (places,)
    open: BoolArray  # (places,)
    quality: float


def _play(env: Any, oracle: Oracle, plans: Sequence[Plan]) -> list[_Path]:
    """Play each plan once, the student alone after its last call."""
    layout, rows, cap = env.layout, env.num_envs, env.game.cap
    call = oracle.actions.index(oracle.call)
    seen = np.zeros((rows, cap, layout.size), np.float32)
    changes = np.zeros((rows, cap), bool)
    number, following, everyone = np.arange(rows), rows, np.arange(rows)  # plans; from the last on, fillers
    made, behind = np.zeros(rows, np.int64), np.zeros(rows, np.int64)  # calls so far; first place behind the last one
    done: dict[int, _Path] = {}
    observations, _ = env.reset(seed=0, options={"prompts": [prompt for prompt, _ in plans], "rules": FREE})
    while len(done) < len(plans):
        place = env.game.texts.length.copy()
        seen[everyone, place] = observations
        changes[everyone, place] = oracle.predict(observations)[0] > 0
        calls = np.array([_due(plans, *row) for row in zip(number, made, place, strict=True)])
        observations, _, terminated, truncated, infos = env.step(np.where(calls, call, 0))
        ended = terminated | truncated
        length = np.where(ended, infos["final_info"]["tokens"], infos["tokens"]) if ended.any() else infos["tokens"]
        made += calls
        behind = np.where(calls, length, behind)
        for row in np.flatnonzero(ended):
            if number[row] < len(plans):
                places = np.arange(length[row])
                states = seen[row, places].copy()
                free = places >= behind[row]
                if oracle.call == Action.VERIFY:
                    free &= states[:, layout["would_end"].start] > 0
                quality = float(infos["final_info"]["quality"][row])
                done[int(number[row])] = _Path(states, changes[row, places] & free, free, quality)
            number[row], following = following, following + 1
            made[row] = behind[row] = 0
    return [done[index] for index in range(len(plans))]


def _due(plans: Sequence[Plan], number: int, made: int, place: int) -> bool:
    """Whether a plan wants its next call at this place."""
    if number >= len(plans):
        return False
    calls = plans[number][1]
    return made < len(calls) and calls[made] == place


def _join(paths: dict[Plan, _Path], played: dict[Plan, _Path]) -> Paths:
    """Put the paths behind one another, with the gains that the paths with one more call show."""
    gains = []
    for (prompt, calls), path in paths.items():
        gain = np.zeros(len(path.states))
        for place in np.flatnonzero(path.changes):
            gain[place] = played[prompt, (*calls, int(place))].quality - path.quality
        gains.append(gain)

    def whole(pick: Callable[[_Path], NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([pick(path) for path in paths.values()])

    return Paths(
        states=whole(lambda path: path.states),
        starts=np.cumsum([0, *(len(path.states) for path in paths.values())]),
        open=whole(lambda path: path.open),
        changes=whole(lambda path: path.changes),
        gain=np.concatenate(gains),
        prompt=np.array([prompt for prompt, _ in paths]),
    )
