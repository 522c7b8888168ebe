"""The batched game under any play, beside the slow reference: every token, number and mask must agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
from gymnasium.utils import seeding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reference import Episode, Models, Outcome, Spec
from tests.worlds import POSITIONS, Letters, world
from tw_env.actions import Action, parse_actions
from tw_env.rules import Constraint, Quantity
from tw_env.vector_env import AssistedDecodingVectorEnv

LATENCY = {"student_ms": 1.5, "teacher_ms": 7.0, "teacher_ms_per_token": 0.25}
PRICES = {"call": 0.4, "read": 0.03, "written": 0.2}
PROMPTS = ("a", "b", "c", "h", "a b c", "g f e d", "b b", "d a c h e f", "e", "c g")
EXACT = 2e-5  # what float32 logits leave of a sum of rewards; costs are compared as they are


@dataclass(frozen=True)
class Play:
    """A game and what is played in it, in steps of one action index a row."""

    arguments: dict[str, Any]
    moves: list[list[int]]
    seed: int = 0
    pad_is_end: bool = True
    model_seed: int = 1
    prompts: tuple[str, ...] = PROMPTS
    seen: dict[str, int] = field(default_factory=dict)  # how often a test saw an event


class Watched(AssistedDecodingVectorEnv):
    """Keeps the text and writers that a row had before it was reset."""

    def _start(self, rows: np.ndarray) -> None:
        game = self.game
        self.finals = {int(row): written(game, int(row)) for row in rows}
        super()._start(rows)


def written(game: Any, row: int) -> tuple[list[int], list[int]]:
    length = game.texts.length[row]
    return game.texts.tokens[row, :length].tolist(), game.writer[row, :length].tolist()


@cache
def models(seed: int, pad_is_end: bool) -> tuple[Models, Any]:
    """Both models for the reference, loaded apart from the game's."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    names = world(seed=seed, pad_is_end=pad_is_end)
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(name, dtype=torch.float64).eval() for name in (names.student, names.teacher)
    )
    return Models(student, teacher, len(names.words)), AutoTokenizer.from_pretrained(names.student)


class Rival:
    """The reference's side of a vector env: one episode a row, from an equally seeded generator."""

    def __init__(self, play: Play, env: Watched) -> None:
        self.models, self.tokenizer = models(play.model_seed, play.pad_is_end)
        self.task, self.env, rule = env.task, env, play.arguments["rule"]
        self.rules = rule if isinstance(rule, list) else [rule]
        arguments, actions = play.arguments, parse_actions(play.arguments["actions"])
        sampling = arguments["decoding"] == "sampling"
        verify, cap = Action.VERIFY in actions, arguments["max_new_tokens"]
        weights = arguments["reward"] or ("kl" if sampling else "regret")
        weights = {weights: 1.0} if isinstance(weights, str) else weights
        form, _, value = arguments["accept"].partition(":")
        self.spec = Spec(
            actions=actions,
            end_tokens=frozenset({0}),
            cap=cap,
            max_steps=arguments["max_episode_steps"] or (cap * (cap + 3) // 2 if verify else cap),
            sampling=sampling,
            accept=(form, float(value or 0)),
            weights=weights,
            paid_at_once=not verify and arguments["scoring"] != "lazy",
            hard=arguments["hard"],
            latency=LATENCY,
            prices=PRICES,
            top_k=arguments["top_k"],
            hidden=arguments["hidden"],
        )
        self.generators = [seeding.np_random(play.seed + row)[0] for row in range(env.num_envs)]
        self.prompt = [0] * env.num_envs
        self.episodes = [self.begin(row) for row in range(env.num_envs)]

    def begin(self, row: int) -> Episode:
        generator = self.generators[row]
        index = self.prompt[row] = int(generator.integers(len(self.task.prompts)))
        rule = self.rules[int(generator.integers(len(self.rules)))] if len(self.rules) > 1 else self.rules[0]

        def quality(tokens: list[int]) -> float:
            return self.task.quality(index, self.tokenizer.decode(tokens, skip_special_tokens=True))

        ids = self.tokenizer(self.task.prompts[index]).input_ids
        return Episode(self.models, self.spec, ids, rule, generator, quality)


def same_text(episode: Episode, text: tuple[list[int], list[int]]) -> None:
    assert [token.token for token in episode.text] == text[0]
    assert [int(token.writer) for token in episode.text] == text[1]


def same_observation(env: Watched, episode: Episode, observation: np.ndarray) -> None:
    shown = episode.observe()
    assert set(shown) == {feature.name for feature in env.layout.features}
    for name, values in shown.items():
        np.testing.assert_allclose(observation[env.layout[name]], values, atol=1e-4, err_msg=name)


def same_info(rival: Rival, row: int, infos: dict[str, Any], outcome: Outcome | None) -> None:
    """`outcome` is None at a reset."""
    episode = rival.episodes[row]
    expected = episode.info() | {"prompt": rival.prompt[row]}
    expected["cost"] = 0.0 if outcome is None else outcome.cost
    expected["allowance"] = episode.allowed if outcome is None else outcome.allowance
    for name, value in expected.items():
        assert infos[name][row] == pytest.approx(value, abs=1e-9), name
        assert infos["_" + name][row]
    assert infos["action_mask"][row].tolist() == episode.mask()


def same_row(rival: Rival, row: int, observation: np.ndarray, infos: dict[str, Any], outcome: Outcome | None) -> None:
    env, episode = rival.env, rival.episodes[row]
    same_text(episode, written(env.game, row))
    assert env.rules[row] == episode.rule
    texts, length = env.game.texts, len(episode.text)
    assert texts.proposal[row, length] == episode.proposal
    surprise = -rival.models.student(episode.context)[episode.proposal]
    assert texts.surprise[row, length] == pytest.approx(surprise, abs=2e-6)
    if env.game.spec.eager:
        teacher = rival.models.teacher(episode.context)
        assert texts.score[row, length] == pytest.approx(teacher[episode.proposal], abs=2e-6)
        assert texts.best_logprob[row, length] == pytest.approx(max(teacher), abs=2e-6)
    same_info(rival, row, infos, outcome)
    same_observation(env, episode, observation)


def compare(play: Play) -> None:
    """Play all moves in the batched game and in the reference."""
    names = world(seed=play.model_seed, pad_is_end=play.pad_is_end)
    task = Letters(list(play.prompts), play.arguments["max_new_tokens"])
    env = Watched(
        len(play.moves[0]), task=task, student=names.student, teacher=names.teacher, dtype="float64", device="cpu",
        latency=LATENCY, prices=PRICES, **play.arguments,
    )  # fmt: skip
    observations, infos = env.reset(seed=play.seed)
    rival = Rival(play, env)
    for row in range(env.num_envs):
        same_row(rival, row, observations[row], infos, None)
    for actions in play.moves:
        observations, rewards, terminated, truncated, infos = env.step(np.array(actions))
        assert env.observation_space.contains(observations)
        for row, action in enumerate(actions):
            episode = rival.episodes[row]
            outcome = episode.step(action)
            count_events(play.seen, episode, outcome)
            assert rewards[row] == pytest.approx(outcome.reward, abs=EXACT)
            assert (terminated[row], truncated[row]) == (outcome.terminated, outcome.truncated)
            if outcome.terminated or outcome.truncated:
                assert infos["_final_obs"][row]
                assert infos["_final_info"][row]
                same_text(episode, env.finals[row])
                same_observation(env, episode, infos["final_obs"][row])
                assert env.single_observation_space.contains(infos["final_obs"][row])
                same_info(rival, row, infos["final_info"], outcome)
                rival.episodes[row] = rival.begin(row)
                outcome = None
            same_row(rival, row, observations[row], infos, outcome)


def count_events(seen: dict[str, int], episode: Episode, outcome: Outcome) -> None:
    events = {
        "terminated": outcome.terminated,
        "truncated": outcome.truncated,
        "take-back": episode.last_kept < 1,
        "teacher ends": outcome.terminated and episode.text[-1].writer == 2 and episode.text[-1].token == 0,
        "cap": outcome.terminated and episode.text[-1].token != 0,
        "empty": outcome.terminated and len(episode.text) == 1 and episode.text[-1].token == 0,
        "accepted": any(token.writer == 1 for token in episode.text),
        "masked": not episode.can_call(),
    }
    for name, happened in events.items():
        seen[name] = seen.get(name, 0) + bool(happened)


RULES = st.one_of(
    st.builds(Constraint, st.just(Quantity.CALLS), st.sampled_from([0, 1, 3, float("inf")]), st.booleans()),
    st.builds(
        Constraint, st.just(Quantity.CALLS_PER_TOKEN), st.sampled_from([0, 0.1, 0.3, 0.5, 1, float("inf")]), st.booleans()
    ),
    st.builds(Constraint, st.just(Quantity.LATENCY_MS), st.sampled_from([5.0, 25.0, 60.0, float("inf")]), st.booleans()),
    st.builds(Constraint, st.just(Quantity.PRICE), st.sampled_from([0, 0.5, 2.0, float("inf")]), st.booleans()),
)
GREEDY_REWARDS = [None, "quality", "regret", {"quality": 0.7, "regret": 0.3}]
SAMPLING_REWARDS = [None, "quality", "kl", "expected_kl", {"quality": 2.0, "kl": 0.5, "expected_kl": 0.25}]


@st.composite
def plays(draw: st.DrawFn, decoding: str) -> Play:
    rows = draw(st.integers(1, 4))
    actions = draw(st.sampled_from(["SELF/ASK", "SELF/VERIFY", "SELF/ASK/VERIFY", "SELF/ASK/VERIFY"]))
    cap = draw(st.integers(1, 8))
    arguments: dict[str, Any] = {
        "decoding": decoding,
        "actions": actions,
        "max_new_tokens": cap,
        "accept": draw(st.sampled_from(["exact", "exact", "exact", "probability:0.1", "distance:1.5"])),
        "reward": draw(st.sampled_from(GREEDY_REWARDS if decoding == "greedy" else SAMPLING_REWARDS)),
        "scoring": draw(st.sampled_from(["auto", "eager", "lazy"])),
        "rule": draw(st.one_of(RULES, st.lists(RULES, min_size=2, max_size=4))),
        "hard": draw(st.booleans()),
        "max_episode_steps": draw(st.sampled_from([None, None, 1, 3, 6])),
        "hidden": draw(st.booleans()),
        "top_k": draw(st.sampled_from([2, 5, 13])),
    }
    if decoding == "greedy":
        arguments["remember"] = draw(st.sampled_from([0, 1000, 2 * rows * (cap + 1)]))
    longest = " ".join("abcdefgh"[i % 8] for i in range(POSITIONS - cap))
    action = st.integers(0, actions.count("/"))
    calls_are_rare = draw(st.booleans())
    action = st.one_of(st.just(0), st.just(0), action) if calls_are_rare else action
    return Play(
        arguments=arguments,
        moves=draw(st.lists(st.lists(action, min_size=rows, max_size=rows), min_size=4, max_size=24)),
        seed=draw(st.integers(0, 9)),
        pad_is_end=draw(st.booleans()),
        model_seed=draw(st.sampled_from([0, 1, 2])),
        prompts=(*PROMPTS, longest),
    )


thorough = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@thorough
@given(plays("greedy"))
def test_greedy_play_equals_the_reference(play: Play) -> None:
    compare(play)


@thorough
@given(plays("sampling"))
def test_sampled_play_equals_the_reference(play: Play) -> None:
    compare(play)
