"""Ratios of the game's speed against a bare forward pass and against simpler designs, on one thread.

    python -m scripts.speed

Everything is measured in one process by process CPU time, the variants in turn, so that a busy machine slows all of
them alike. The median over rounds is reported.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro
from transformers import DynamicCache

import tw_env
from agents.rollout import play_prompts
from tw_env.decoding.tree import RememberedTexts
from tw_env.policies import speculative
from tw_env.tasks.pronounce import Pronounce
from tw_env.vector_env import AssistedDecodingVectorEnv

GAME = f"{tw_env.__name__}/PronounceVerify-v0"


@dataclass
class Options:
    """Measure the game's speed and write a report."""

    out: Path = Path("results/speed.json")
    """Where the report goes."""
    rows: int = 64
    """Rows of the batched game."""
    rounds: int = 15
    """How often each variant is measured; the median counts."""
    steps: int = 8
    """Steps (tokens) of each measurement."""
    prompts: int = 200
    """Prompts of the steps with resets; they repeat, as in training, so their keys and values are remembered."""
    words: int = 2000
    """Prompts of the pass that compares remembered prefixes with decoding anew."""


class Endless:
    """Spellings of one length whose text never ends, so that steps without resets can be timed."""

    name = "endless"
    max_new_tokens = 40

    def __init__(self, prompts: list[str]) -> None:
        self.prompts, self.references = prompts, [["-"]] * len(prompts)

    def quality(self, index: int, text: str) -> float:
        return 0.0


def cpu_ms(run: Callable[[], object]) -> float:
    """Milliseconds of process CPU time."""
    start = time.process_time()
    run()
    return 1e3 * (time.process_time() - start)


def bare_forward(env: AssistedDecodingVectorEnv, steps: int) -> Callable[[], float]:
    """Milliseconds a token of the student's own batched forward with head: one length, no game."""
    model, rows = env.pair.student, env.num_envs
    prompts = env._setup.schedule.prompts
    prompt = torch.tensor([prompts[0]]).expand(rows, -1).contiguous()

    @torch.inference_mode()
    def measure() -> float:
        cache = DynamicCache(config=model.config)
        logits = model(prompt, past_key_values=cache, use_cache=True).logits
        token = logits[:, -1:].argmax(-1)

        def run() -> None:
            for _ in range(steps):
                model(token, past_key_values=cache, use_cache=True)

        return cpu_ms(run) / steps

    return measure


def game_step(env: AssistedDecodingVectorEnv, steps: int, restart: bool) -> Callable[[], float]:
    """Milliseconds of an all-SELF step; with `restart`, from fresh episodes that never end."""
    nobody = np.zeros(env.num_envs, np.int64)
    env.reset(seed=0)

    def measure() -> float:
        if restart:
            env.reset()
            env.step(nobody)

        def run() -> None:
            for _ in range(steps):
                env.step(nobody)

        return cpu_ms(run) / steps

    return measure


def one_by_one(env: AssistedDecodingVectorEnv, steps: int, cached: bool) -> Callable[[], float]:
    """Milliseconds a token for all rows when each row is an environment of its own, with or without a cache."""
    model, rows = env.pair.student, env.num_envs
    prompts = env._setup.schedule.prompts

    @torch.inference_mode()
    def decode(prompt: Sequence[int]) -> None:
        cache, ids = DynamicCache(config=model.config), torch.tensor([list(prompt)])
        logits = model(ids, past_key_values=cache, use_cache=True).logits if cached else model(ids).logits
        for _ in range(steps):
            token = logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, token], dim=1)
            logits = model(token, past_key_values=cache, use_cache=True).logits if cached else model(ids).logits

    def measure() -> float:
        chosen = prompts[: max(rows // 8, 1)]  # an eighth of the rows tells the time of all
        return cpu_ms(lambda: [decode(prompt) for prompt in chosen]) / steps * rows / len(chosen)

    return measure


def second_pass(rows: int, words: int) -> dict[str, float]:
    """A second pass over the same prompts with remembered prefixes against decoding anew; the returns must agree."""
    cost: dict[str, float] = {}
    returns: dict[str, np.ndarray] = {}
    memory = 0.0
    for name, remember in (("remembered", 1_000_000), ("anew", 0)):
        env = tw_env.make_vec(
            GAME, num_envs=rows, limit=words, reward="regret", scoring="lazy", remember=remember, device="cpu"
        )
        for _ in range(2):
            cost[name], returns[name] = _draft_and_verify(env)
        if remember:
            assert isinstance(env.game.texts, RememberedTexts)
            memory = env.game.texts.memory.bytes / 2**20
    if not np.allclose(returns["remembered"], returns["anew"], atol=1e-3):
        raise RuntimeError("Expected the same returns with and without remembered prefixes, got different ones.")
    return {"tree_speedup": cost["anew"] / cost["remembered"], "tree_mebibytes": memory, "tree_prompts": words}


def _draft_and_verify(env: AssistedDecodingVectorEnv) -> tuple[float, np.ndarray]:
    """CPU milliseconds and returns of playing every prompt once: four tokens of draft, then VERIFY."""
    policy = speculative(env.layout, env.game.spec.actions, draft=4)
    results: list[np.ndarray] = []
    prompts = np.arange(len(env.task.prompts))
    spent = cpu_ms(lambda: results.append(play_prompts(env, policy, prompts, "as often as you like", 0, True).returns))
    return spent, results[0]


def _see_all(env: AssistedDecodingVectorEnv) -> None:
    count = len(env.task.prompts)
    for first in range(0, count, env.num_envs):
        env.reset(options={"prompts": np.arange(first, first + env.num_envs) % count})


def measure(options: Options) -> dict[str, float | int | str]:
    """All figures by name."""
    torch.set_num_threads(1)
    common: dict[str, Any] = {"num_envs": options.rows, "actions": "SELF/VERIFY", "remember": 0, "device": "cpu"}
    words = Pronounce(split="policy").prompts
    length = int(np.median([len(word) for word in words]))
    endless = Endless([word for word in words if len(word) == length][:500])
    make = tw_env.make_vec
    steady = make(GAME, task=endless, reward="quality", **common)
    steady.game._ends[:] = False
    repeated: dict[str, Any] = {**common, "limit": options.prompts}
    playing = make(GAME, reward="quality", **repeated)
    eager = make(GAME, reward="regret", scoring="eager", **repeated)
    lazy = make(GAME, reward="regret", scoring="lazy", **repeated)
    variants = {
        "forward_ms": bare_forward(steady, options.steps),
        "step_ms": game_step(steady, options.steps, restart=True),
        "step_with_resets_ms": game_step(playing, 3 * options.steps, restart=False),
        "step_scored_eager_ms": game_step(eager, 3 * options.steps, restart=False),
        "step_scored_lazy_ms": game_step(lazy, 3 * options.steps, restart=False),
        "per_env_cache_ms": one_by_one(steady, options.steps, cached=True),
        "reforward_ms": one_by_one(steady, options.steps, cached=False),
    }
    for variant in variants.values():
        variant()  # warm-up
    for env in (playing, eager, lazy):  # every prompt has been seen once
        _see_all(env)
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, variant in variants.items():
            samples[name].append(variant())
    ms = {name: median(values) for name, values in samples.items()}
    return {
        "rows": options.rows,
        "prompts": options.prompts,
        "threads": torch.get_num_threads(),
        "step_over_forward": ms["step_ms"] / ms["forward_ms"],
        "step_with_resets_over_forward": ms["step_with_resets_ms"] / ms["forward_ms"],
        "speedup_over_per_env_cache": ms["per_env_cache_ms"] / ms["step_with_resets_ms"],
        "speedup_over_reforward": ms["reforward_ms"] / ms["step_with_resets_ms"],
        **second_pass(options.rows, options.words),
        **ms,
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "command": "python -m scripts.speed",
    }


def main(options: Options) -> None:
    """Measure, print, write."""
    report = {k: round(v, 3) if isinstance(v, float) else v for k, v in measure(options).items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    for name, value in report.items():
        print(f"{name:32} {value}")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
