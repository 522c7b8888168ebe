"""The batched game under any play, beside the slow reference: every token, number and mask must agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils import seeding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.letters import POSITIONS, PROMPTS, Letters, Watched, names_of, pair_of, quality_of, written
from tests.reference import Episode, Models, Outcome, Spec
from tests.tiny import END
from tw_env.actions import Action, Writer, parse_actions
from tw_env.decoding.loading import Pair
from tw_env.rules import Constraint, Quantity
from tw_env.vector_env import AssistedDecodingVectorEnv

LATENCY = {
    "student_ms": 1.5, "teacher_ms": 7.0, "teacher_ms_per_token": 0.25, "student_prompt_ms": 2.5,
    "teacher_prompt_ms": 4.5,
}  # fmt: skip
PRICES = {"call": 0.4, "read": 0.03, "written": 0.2}
EXACT = 2e-5  # what float32 logits leave of a sum of rewards; costs are compared as they are


@dataclass(frozen=True)
class Play:
    """A game and what is played in it, in steps of one action index a row."""

    arguments: dict[str, Any]
    moves: list[list[int]]
    seed: int = 0
    pair: dict[str, Any] = field(default_factory=dict)
    prompts: tuple[str, ...] = PROMPTS
    seen: Counter[str] = field(default_factory=Counter)  # how often an event came up


@cache
def models_of(pair: Pair) -> Models:
    return Models(pair.student, pair.teacher, pair.vocabulary)


class Rival:
    """The reference's side of a vector env: one episode a row, from an equally seeded generator."""

    def __init__(self, play: Play, env: Watched) -> None:
        self.pair, self.task, self.env, rule = pair_of(**play.pair), env.task, env, play.arguments["rule"]
        self.models = models_of(self.pair)
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
        index = self.prompt[row] = int(generator.random() * len(self.task.prompts))
        rule = self.rules[int(generator.integers(len(self.rules)))] if len(self.rules) > 1 else self.rules[0]

        ids = self.pair.tokenizer(self.task.prompts[index]).input_ids
        quality = partial(quality_of, self.task, index, self.pair)
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


def compare(play: Play, place: dict[str, str] | None = None) -> None:
    """Play all moves in the batched game and in the reference; `place` names the same pair elsewhere."""
    task = Letters(play.prompts, play.arguments["max_new_tokens"])
    names = place or names_of(pair_of(**play.pair))
    env = Watched(len(play.moves[0]), task=task, latency=LATENCY, prices=PRICES, **names, **play.arguments)
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
            play.seen.update(events(episode, outcome))
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


def events(episode: Episode, outcome: Outcome) -> list[str]:
    """What this step is an example of."""
    last = episode.text[-1]
    found = {
        "truncated": outcome.truncated,
        "take-back": episode.last_kept < 1,
        "teacher ends": outcome.terminated and last.writer == Writer.TEACHER and last.token == END,
        "student ends": outcome.terminated and last.writer == Writer.STUDENT and last.token == END,
        "cap": outcome.terminated and last.token != END,
        "empty": outcome.terminated and len(episode.text) == 1 and last.token == END,
        "accepted": any(token.writer == Writer.ACCEPTED for token in episode.text),
        "masked": not episode.can_call(),
    }
    return [name for name, happened in found.items() if happened]


HARD = st.sampled_from([False, False, False, True])
LIMITS = {
    Quantity.CALLS_PER_TOKEN: [0.3, 0.1, 0.5, 1.0, 0.0, float("inf")],
    Quantity.CALLS: [3, 1, float("inf"), 0],
    Quantity.LATENCY_MS: [60.0, 25.0, float("inf"), 5.0],
    Quantity.PRICE: [2.0, 0.7, float("inf"), 0.0],
}
RULES = st.one_of(
    [st.builds(Constraint, st.just(each), st.sampled_from(limits), HARD) for each, limits in LIMITS.items()]
)
GREEDY_REWARDS = [None, "quality", "regret", {"quality": 0.7, "regret": 0.3}]
SAMPLING_REWARDS = [None, "quality", "kl", "expected_kl", {"quality": 2.0, "kl": 0.5, "expected_kl": 0.25}]


@st.composite
def plays(draw: st.DrawFn, decoding: str) -> Play:
    rows = draw(st.integers(1, 4))
    actions = draw(st.sampled_from(["SELF/ASK/VERIFY", "SELF/VERIFY", "SELF/ASK"]))
    cap = draw(st.sampled_from([8, 1, 2, 5, 7]))
    arguments: dict[str, Any] = {
        "decoding": decoding,
        "actions": actions,
        "max_new_tokens": cap,
        "accept": draw(st.sampled_from(["exact", "exact", "exact", "probability:0.1", "distance:1.5"])),
        "reward": draw(st.sampled_from(GREEDY_REWARDS if decoding == "greedy" else SAMPLING_REWARDS)),
        "scoring": draw(st.sampled_from(["auto", "eager", "lazy"])),
        "rule": draw(st.one_of(RULES, st.lists(RULES, min_size=2, max_size=4))),
        "hard": draw(HARD),
        "max_episode_steps": draw(st.sampled_from([None, None, None, 1, 3, 6])),
        "hidden": draw(st.booleans()),
        "top_k": draw(st.sampled_from([2, 5, 13])),
    }
    if decoding == "greedy":
        arguments["remember"] = draw(st.sampled_from([0, 1000, 2 * rows * (cap + 1)]))
    longest = " ".join("abcdefgh"[i % 8] for i in range(POSITIONS - cap))
    action = st.integers(0, actions.count("/"))
    if draw(st.booleans()):  # long drafts between calls
        action = st.one_of(st.just(0), st.just(0), action)
    steps = draw(st.sampled_from([16, 4, 32]))
    return Play(
        arguments=arguments,
        moves=draw(st.lists(st.lists(action, min_size=rows, max_size=rows), min_size=steps, max_size=steps)),
        seed=draw(st.integers(0, 9)),
        pair={"pad_is_end": draw(st.booleans()), "seed": draw(st.integers(0, 3))},
        prompts=(*PROMPTS, longest),
    )


thorough = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@thorough
@given(plays("greedy"))
def test_greedy_play_equals_the_reference(play: Play) -> None:
    compare(play)


@thorough
@given(plays("sampling"))
def test_sampled_play_equals_the_reference(play: Play) -> None:
    compare(play)


PLAIN: dict[str, Any] = {
    "actions": "SELF/ASK/VERIFY",
    "max_new_tokens": 6,
    "accept": "exact",
    "reward": None,
    "scoring": "auto",
    "rule": Constraint(Quantity.CALLS_PER_TOKEN, 0.4),
    "hard": False,
    "max_episode_steps": 6,
    "hidden": True,
    "top_k": 5,
}


@pytest.mark.parametrize("decoding", ["greedy", "sampling"])
@pytest.mark.parametrize("accept", ["exact", "distance:1"])
def test_random_play_meets_every_event(decoding: str, accept: str) -> None:
    """The same comparison over long random play, which must have met all that can happen."""
    rules = [Constraint(Quantity.CALLS_PER_TOKEN, 0.4), Constraint(Quantity.CALLS, 2, True)]
    moves = np.random.default_rng(5).choice(3, size=(80, 3), p=[0.5, 0.1, 0.4])
    play = Play(PLAIN | {"decoding": decoding, "accept": accept, "rule": rules}, moves.tolist())
    compare(play)
    names = ("truncated", "take-back", "teacher ends", "student ends", "cap", "empty", "accepted", "masked")
    assert {name: play.seen[name] for name in names if not play.seen[name]} == {}


def test_two_games_share_a_memory_that_overflows() -> None:
    """What one env makes the shared tree forget, another must notice at any point of its round."""
    pair, rows, cap = pair_of(), 3, 8
    task = Letters(max_new_tokens=cap)
    shared: dict[str, Any] = names_of(pair) | {"task": task, "actions": "SELF/VERIFY", "scoring": "lazy"}
    tree = {"remember": 2 * rows * (cap + 1)}
    envs = [AssistedDecodingVectorEnv(rows, **shared, **more) for more in (tree, tree, {"remember": 0})]
    for env in envs:
        env.reset(seed=3 if env is not envs[1] else 8)
    other = np.random.default_rng(1)
    for actions in np.random.default_rng(0).choice(2, size=(80, rows), p=[0.8, 0.2]):
        remembered, plain = envs[0].step(actions), envs[2].step(actions)
        np.testing.assert_allclose(remembered[0], plain[0], atol=1e-4)
        np.testing.assert_allclose(remembered[1], plain[1], atol=1e-4)
        for _ in range(int(other.integers(4))):
            envs[1].step(other.choice(2, size=rows))
    assert envs[0].game.texts.memory.generation > 3


def test_a_game_survives_that_another_shrinks_the_memory() -> None:
    task = Letters(max_new_tokens=8)
    env = AssistedDecodingVectorEnv(2, **names_of(pair_of()), task=task, actions="SELF/VERIFY", remember=9_000)
    memory = env.game.texts.memory
    memory.add(6_000)  # the rows' nodes have high numbers now
    env.reset(seed=0, options={"prompts": [0, 1]})  # the student does not end at once
    memory.clear()  # as another game does when it needs room
    env.step(np.zeros(2, np.int64))
    assert not env.game.ended.any()
    assert memory.size < 10


@pytest.mark.gpu
@pytest.mark.parametrize("decoding", ["greedy", "sampling"])
def test_play_on_a_gpu_equals_the_reference(decoding: str, tmp_path: Path) -> None:
    pair = pair_of()
    for model, name in ((pair.student, "student"), (pair.teacher, "teacher")):
        model.save_pretrained(tmp_path / name)
        pair.tokenizer.save_pretrained(tmp_path / name)
    place = {"student": str(tmp_path / "student"), "teacher": str(tmp_path / "teacher"), "device": "cuda"}
    moves = np.random.default_rng(5).choice(3, size=(40, 4), p=[0.5, 0.1, 0.4])
    compare(Play(PLAIN | {"decoding": decoding}, moves.tolist()), place | {"dtype": "float64"})


def test_a_truncated_text_is_kept_as_it_stands() -> None:
    env = Watched(6, **names_of(pair_of()), task=Letters(), max_episode_steps=2)
    env.reset(seed=0, options={"prompts": np.arange(6)})
    over, seen = np.zeros(6, bool), 0
    for _ in range(2):
        _, _, terminated, truncated, _ = env.step(np.zeros(6, np.int64))
        for row in np.flatnonzero(truncated & ~over):
            assert env.game.final[row] == env.finals[row][0]
            seen += 1
        over |= terminated | truncated
    assert seen >= 3, "too few texts are still under way after two tokens"
