"""Ratios of the game's speed against a bare forward pass and against simpler designs, on one thread.

    python -m scripts.speed

Everything is measured in one process, the variants in turn, so that a busy machine slows all of them alike: by process
CPU time on a processor, by the clock on a GPU. The median over rounds is reported.
"""

from __future__ import annotations

import copy
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

import tw_env
from agents.rollout import play_prompts
from scripts.command import run
from tw_env.decoding.loading import load_pair, register_pair, resolve_device
from tw_env.decoding.tree import RememberedTexts
from tw_env.policies import speculative
from tw_env.settings import encode_prompts
from tw_env.tasks.pronounce import STUDENT, TEACHER, Pronounce
from tw_env.vector_env import AssistedDecodingVectorEnv

WARM_UP = (
    4  # steps before the clock starts, since the variants take turns and drive each other's data out of the caches
)
GAME = f"{tw_env.__name__}/PronounceVerify-v0"


@dataclass
class Options:
    """Measure the game's speed and write a report."""

    out: Path = Path("results/speed.json")
    """Where the report goes."""
    rows: int = 64
    """Rows of the batched game."""
    rounds: int = 25
    """How often each variant is measured; the median counts."""
    steps: int = 16
    """Steps (tokens) of each measurement."""
    prompts: int = 200
    """Prompts of the steps with resets; they repeat, as in training, so their keys and values are remembered."""
    words: int = 2000
    """Prompts of the pass that compares remembered prefixes with decoding anew."""
    device: str = "cpu"
    """auto, cpu or cuda; the published ratios are a processor's."""


class OneLength:
    """Spellings of one length, with room for many tokens, so that steps without resets can be timed."""

    name = "one length"
    max_new_tokens = 40

    def __init__(self, prompts: list[str]) -> None:
        self.prompts, self.references = prompts, [["-"]] * len(prompts)

    def quality(self, index: int, text: str) -> float:
        return 0.0


def endless_pair(device: str) -> dict[str, str]:
    """The names of a copy of the shipped pair that takes padding, which it never writes, for the end of a text."""
    pair = load_pair(str(STUDENT), str(TEACHER), device)
    tokenizer = copy.deepcopy(pair.tokenizer)
    tokenizer.eos_token = tokenizer.pad_token
    models = [copy.deepcopy(model) for model in (pair.student, pair.teacher)]
    for model in models:
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.pad_token_id
    student, teacher = register_pair("memory:endless", models[0], models[1], tokenizer).name.split(" < ")
    return {"student": student, "teacher": teacher}


def spent_ms(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of process CPU time; on a GPU, of the clock until everything asked of it is done."""
    if device.type != "cuda":
        start = time.process_time()
        run()
        return 1e3 * (time.process_time() - start)
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def bare_forward(env: AssistedDecodingVectorEnv, steps: int) -> Callable[[], float]:
    """Milliseconds a token of the student's own batched forward with head: one length, no game."""
    model, rows = env.pair.student, env.num_envs
    prompts = encode_prompts(env.task, env.pair, env.game.cap)
    prompt = torch.tensor([prompts[0]], device=model.device).expand(rows, -1).contiguous()

    @torch.inference_mode()
    def measure() -> float:
        cache = DynamicCache(config=model.config)
        logits = model(prompt, past_key_values=cache, use_cache=True).logits
        token = logits[:, -1:].argmax(-1)

        def timed(steps: int = steps) -> None:
            for _ in range(steps):
                model(token, past_key_values=cache, use_cache=True)

        timed(WARM_UP)
        return spent_ms(timed, model.device) / steps

    return measure


def game_step(env: AssistedDecodingVectorEnv, steps: int, restart: bool) -> Callable[[], float]:
    """Milliseconds of an all-SELF step; with `restart`, from fresh episodes that must not end meanwhile."""
    nobody = np.zeros(env.num_envs, np.int64)
    env.reset(seed=0)
    ended = 0

    def measure() -> float:
        nonlocal ended
        if restart:
            env.reset()
        for _ in range(WARM_UP):
            ended += int(env.step(nobody)[2].sum())

        def timed() -> None:
            nonlocal ended
            for _ in range(steps):
                ended += int(env.step(nobody)[2].sum())

        spent = spent_ms(timed, env.pair.student.device) / steps
        if restart and ended:
            raise RuntimeError(f"Expected steps without resets, but {ended} texts ended: measure fewer steps.")
        return spent

    return measure


def one_by_one(env: AssistedDecodingVectorEnv, cached: bool) -> Callable[[], float]:
    """Milliseconds a token for all rows when each row is an environment of its own, with or without a cache.

    Whole episodes are written, from reading the prompt to the end token, so each pays for its prompt once.
    """
    model, rows, ends, cap = env.pair.student, env.num_envs, set(env.pair.end_tokens), env.game.cap
    prompts = cycle(encode_prompts(env.task, env.pair, cap))

    @torch.inference_mode()
    def decode(prompt: Sequence[int]) -> int:
        cache, ids = DynamicCache(config=model.config), torch.tensor([list(prompt)], device=model.device)
        unread, written = ids, 0
        while written < cap:
            logits = model(unread, past_key_values=cache, use_cache=True).logits if cached else model(ids).logits
            unread = logits[:, -1:].argmax(-1)
            written += 1
            if int(unread) in ends:
                break
            ids = torch.cat([ids, unread], dim=1)
        return written

    def measure() -> float:
        chosen = list(islice(prompts, max(rows // 8, 1)))  # an eighth of the rows tells the time of all
        tokens = 0

        def timed() -> None:
            nonlocal tokens
            tokens = sum(decode(prompt) for prompt in chosen)

        spent = spent_ms(timed, model.device)
        return spent / tokens * rows

    return measure


def second_pass(rows: int, words: int, device: str) -> dict[str, float]:
    """A second pass over the same prompts with remembered prefixes against decoding anew; the returns must agree."""
    cost: dict[str, float] = {}
    returns: dict[str, np.ndarray] = {}
    memory = 0.0
    for name, remember in (("remembered", 1_000_000), ("anew", 0)):
        env = tw_env.make_vec(
            GAME, num_envs=rows, limit=words, reward="regret", scoring="lazy", remember=remember, device=device
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
    """Milliseconds and returns of playing every prompt once: four tokens of draft, then VERIFY."""
    policy = speculative(env.layout, env.game.spec.actions, draft=4)
    results: list[np.ndarray] = []
    prompts = np.arange(len(env.task.prompts))

    def timed() -> None:
        results.append(play_prompts(env, policy, prompts, "as often as you like", 0, True).returns)

    return spent_ms(timed, env.pair.student.device), results[0]


def _see_all(env: AssistedDecodingVectorEnv) -> None:
    count = len(env.task.prompts)
    for first in range(0, count, env.num_envs):
        env.reset(options={"prompts": np.arange(first, first + env.num_envs) % count})


def measure(options: Options) -> dict[str, float | int | str]:
    """All figures by name."""
    torch.set_num_threads(1)
    device = str(resolve_device(options.device))
    common: dict[str, Any] = {"num_envs": options.rows, "actions": "SELF/VERIFY", "remember": 0, "device": device}
    words = Pronounce(split="policy").prompts
    length = int(np.median([len(word) for word in words]))
    alike = OneLength([word for word in words if len(word) == length][:500])
    make = tw_env.make_vec
    steady = make(GAME, task=alike, reward="quality", **{**common, **endless_pair(device)})
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
        "per_env_cache_ms": one_by_one(playing, cached=True),
        "reforward_ms": one_by_one(playing, cached=False),
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
        **second_pass(options.rows, options.words, device),
        **ms,
        "device": device,
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
    run(main, Options, __doc__)
