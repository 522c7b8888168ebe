"""The registered ids: Gymnasium's and SB3's checkers, seeds, single against batched play, arguments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils import env_checker
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FlattenObservation, RecordEpisodeStatistics, TimeLimit
from gymnasium.wrappers import vector as vector_wrappers
from stable_baselines3.common import env_checker as sb3_checker

import tw_env
from tests.letters import Letters, names_of, pair_of
from tw_env.env import AssistedDecodingEnv
from tw_env.testing import check_env, check_vector_env
from tw_env.vector_env import AssistedDecodingVectorEnv

# Every warning is an error (pyproject.toml), the checkers' included. Nothing here needs an exception.

WORDS = 40  # of the shipped tasks
CAP = 6
LATENCY = {"student_ms": 1.0, "teacher_ms": 7.0, "teacher_ms_per_token": 0.5}
GAMES = [
    pytest.param({}, id="greedy"),
    pytest.param({"remember": 0, "hidden": True}, id="greedy-not-remembered"),
    pytest.param({"reward": "quality", "rule": "at most 2 calls", "hard": True}, id="hard-rule"),
    pytest.param({"max_episode_steps": 3, "scoring": "lazy"}, id="truncated"),
    pytest.param({"decoding": "sampling", "rule": "sample"}, id="sampling"),
    pytest.param({"decoding": "sampling", "max_episode_steps": 3}, id="sampling-truncated"),
    pytest.param({"rule": "at most 30 ms per output", "latency": LATENCY, "prices": {"call": 0.25}}, id="latency"),
]


def tiny(**settings: Any) -> dict[str, Any]:
    """Settings of a game on a tiny random pair."""
    return {"task": Letters(["a", "b c", "d e f", "g"], CAP), **names_of(pair_of()), **settings}


@pytest.mark.parametrize("env_id", tw_env.IDS)
class TestShippedEnvironments:
    def test_gymnasiums_checker(self, env_id: str) -> None:
        env = gymnasium.make(env_id, limit=WORDS, render_mode="ansi")
        env_checker.check_env(env.unwrapped)

    def test_stable_baselines3s_checker(self, env_id: str) -> None:
        sb3_checker.check_env(gymnasium.make(env_id, limit=WORDS))

    def test_our_checker(self, env_id: str) -> None:
        check_env(env_id, limit=WORDS, rule="sample", reward="quality")

    def test_batched_is_single(self, env_id: str) -> None:
        check_vector_env(env_id, num_envs=2, steps=20, limit=WORDS, dtype="float64", remember=0)


@pytest.mark.gpu
@pytest.mark.parametrize("env_id", tw_env.IDS)
class TestOnTheGpu:
    def test_our_checker(self, env_id: str) -> None:
        check_env(env_id, limit=WORDS, device="cuda")

    @pytest.mark.parametrize("decoding", ["greedy", "sampling"])
    def test_batched_is_single(self, env_id: str, decoding: str) -> None:
        settings = {"limit": WORDS, "dtype": "float64", "decoding": decoding, "device": "cuda"}
        check_vector_env(env_id, num_envs=4, steps=60, **settings)


@pytest.mark.parametrize("settings", GAMES)
@pytest.mark.parametrize("env_id", ["tw_env/Text-v0", "tw_env/TextVerify-v0"])
class TestTinyGames:
    def test_lockstep_and_same_seed(self, env_id: str, settings: dict[str, Any]) -> None:
        check_env(env_id, **tiny(**settings))

    def test_batched_is_single(self, env_id: str, settings: dict[str, Any]) -> None:
        check_vector_env(env_id, steps=30, **tiny(**settings))


def test_same_seed_same_batched_run() -> None:
    runs = []
    for _ in range(2):
        env = gymnasium.make_vec("tw_env/TextVerify-v0", num_envs=3, **tiny(decoding="sampling"))
        env.action_space.seed(5)
        observations = [env.reset(seed=5)[0]]
        rewards = []
        for _ in range(25):
            observation, reward, *_ = env.step(env.action_space.sample())
            observations.append(observation)
            rewards.append(reward)
        runs.append((np.array(observations), np.array(rewards)))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])


def test_remembered_runs_repeat_whatever_is_played_between() -> None:
    """In single precision a prefix read in other pieces differs in its last bits; what is remembered must not move."""
    settings = {"limit": WORDS, "split": "dev"}
    env, other = (gymnasium.make(env_id, **settings) for env_id in tw_env.IDS[:2])
    first = returns_of(env)
    returns_of(other)
    assert returns_of(env) == first


def returns_of(env: gymnasium.Env[Any, Any]) -> list[float]:
    """Rewards of some episodes in which the last action of the game is played every third time."""
    rewards = []
    for prompt in range(WORDS // 2):
        env.reset(seed=0, options={"prompts": [prompt]})
        over, step = False, prompt
        while not over:
            _, reward, terminated, truncated, _ = env.step(np.int64((step % 3 == 0) * (env.action_space.n - 1)))
            rewards.append(float(reward))
            over, step = terminated or truncated, step + 1
    return rewards


def test_seeds_matter_and_resets_go_on() -> None:
    env = gymnasium.make_vec("tw_env/Text-v0", num_envs=8, **tiny())
    first = env.reset(seed=1)[1]["prompt"]
    second = env.reset()[1]["prompt"]
    assert (first != second).any(), "an unseeded reset must go on with the generators"
    np.testing.assert_array_equal(env.reset(seed=1)[1]["prompt"], first)
    np.testing.assert_array_equal(env.reset(seed=list(range(1, 9)))[1]["prompt"], first)
    with pytest.raises(ValueError, match="Expected 8 seeds"):
        env.reset(seed=[1, 2])


class TestMaking:
    def test_max_episode_steps(self) -> None:
        env = gymnasium.make("tw_env/TextVerify-v0", max_episode_steps=2, **tiny())
        assert env.spec is not None
        env.reset(seed=0)
        ends = []
        for _ in range(40):
            *_, terminated, truncated, _ = env.step(np.int64(0))
            ends.append((terminated, truncated))
            if terminated or truncated:
                env.reset()
        assert (False, True) in ends

    def test_vector_max_episode_steps(self) -> None:
        env = gymnasium.make_vec("tw_env/TextVerify-v0", num_envs=4, max_episode_steps=2, **tiny())
        env.reset(seed=0)
        lengths = np.zeros(4, int)
        for _ in range(20):
            *_, terminated, truncated, _ = env.step(np.zeros(4, np.int64))
            lengths += 1
            assert (lengths <= 2).all()
            assert not (terminated & truncated).any()
            lengths[terminated | truncated] = 0
        assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP

    def test_spec_makes_it_again(self) -> None:
        env = gymnasium.make("tw_env/Text-v0", **tiny(rule="at most 3 calls"))
        again = gymnasium.make(env.spec)
        np.testing.assert_array_equal(env.reset(seed=3)[0], again.reset(seed=3)[0])

    def test_actions(self) -> None:
        env = gymnasium.make("tw_env/TextVerify-v0", actions="SELF/VERIFY", **tiny())
        assert env.action_space == gymnasium.spaces.Discrete(2)

    def test_truncation_by_wrapper(self) -> None:
        env = TimeLimit(gymnasium.make("tw_env/Text-v0", **tiny()), max_episode_steps=1)
        env.reset(seed=0)
        *_, terminated, truncated, _ = env.step(np.int64(0))
        assert truncated or terminated

    @pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
    def test_unknown_argument(self, make: Any) -> None:
        with pytest.raises(TypeError, match="got temperature"):
            make("tw_env/Text-v0", temperature=2.0, **tiny())

    @pytest.mark.parametrize("kind", [AssistedDecodingEnv, AssistedDecodingVectorEnv])
    def test_unknown_render_mode(self, kind: Any) -> None:
        with pytest.raises(ValueError, match="render_mode None or 'ansi', got 'rgb_array'"):
            kind(render_mode="rgb_array", **tiny())


class TestPlay:
    def test_step_before_reset(self) -> None:
        env = gymnasium.make("tw_env/Text-v0", **tiny()).unwrapped
        with pytest.raises(RuntimeError, match="Expected reset"):
            env.step(np.int64(0))
        batch = gymnasium.make_vec("tw_env/Text-v0", num_envs=2, **tiny())
        with pytest.raises(ValueError, match="Expected reset"):
            batch.step(np.zeros(2, np.int64))

    @pytest.mark.parametrize("action", [2, -1, 0.5, None])
    def test_invalid_action(self, action: Any) -> None:
        env = gymnasium.make("tw_env/Text-v0", **tiny()).unwrapped
        env.reset(seed=0)
        with pytest.raises(ValueError, match=r"0 \(SELF\), 1 \(ASK\); got"):
            env.step(action)

    @pytest.mark.parametrize("actions", [[0, 2], [0], [0.0, 1.0], [[0], [1]]])
    def test_invalid_batched_actions(self, actions: Any) -> None:
        env = gymnasium.make_vec("tw_env/Text-v0", num_envs=2, **tiny())
        env.reset(seed=0)
        with pytest.raises(ValueError, match="Expected"):
            env.step(np.array(actions))

    def test_episode_is_over(self) -> None:
        env = gymnasium.make("tw_env/Text-v0", **tiny(max_new_tokens=1)).unwrapped
        env.reset(seed=0)
        assert env.step(np.int64(0))[2]
        with pytest.raises(RuntimeError, match="no episode is under way"):
            env.step(np.int64(0))


class TestResetOptions:
    def test_order_of_prompts_and_rules(self) -> None:
        env = gymnasium.make_vec("tw_env/Text-v0", num_envs=2, **tiny(max_new_tokens=1))
        options = {
            "prompts": [3, 1, 2, 0],
            "rules": ["at most 1 call", "never ask", "at most 2 calls", "never"],
        }
        _, infos = env.reset(seed=0, options=options)
        assert infos["prompt"].tolist() == [3, 1]
        assert infos["allowance"].tolist() == infos["allowed"].tolist() == [1.0, 0.0]
        *_, infos = env.step(np.zeros(2, np.int64))
        assert infos["prompt"].tolist() == [2, 0]
        assert infos["allowed"].tolist() == [2.0, 0.0]
        assert infos["final_info"]["prompt"].tolist() == [3, 1]

    def test_single(self) -> None:
        env = gymnasium.make("tw_env/Text-v0", **tiny(max_new_tokens=1))
        assert env.reset(seed=0, options={"prompts": [2, 3]})[1]["prompt"] == 2
        assert env.reset()[1]["prompt"] == 3
        assert env.reset(options={"prompts": [1], "rules": ["at most 2 calls"]})[1]["allowed"] == 2.0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"prompts": [4]}, "from 0 to 3, got 4"),
            ({"prompt": [1]}, "'prompts', 'rules', 'words' and 'afterwards', got prompt"),
            ({"prompts": [1, 2, 3], "rules": ["never", "at most 2 calls"]}, "each of the 3 prompts, got 2"),
        ],
    )
    def test_refused(self, options: dict[str, Any], message: str) -> None:
        env = gymnasium.make("tw_env/Text-v0", **tiny())
        with pytest.raises(ValueError, match=message):
            env.reset(seed=0, options=options)


class TestWrappers:
    def test_single(self) -> None:
        env = FlattenObservation(RecordEpisodeStatistics(gymnasium.make("tw_env/Text-v0", **tiny())))
        env.reset(seed=0)
        total, info = 0.0, {}
        while "episode" not in info:
            _, reward, *_, info = env.step(np.int64(1))
            total += float(reward)
        assert info["episode"]["r"] == pytest.approx(total)
        assert info["episode"]["l"] == info["tokens"] == info["calls"]

    def test_batched(self) -> None:
        base = gymnasium.make_vec("tw_env/TextVerify-v0", num_envs=3, **tiny())
        env = vector_wrappers.RecordEpisodeStatistics(base)
        env.reset(seed=0)
        totals, lengths, finished = np.zeros(3), np.zeros(3), 0
        rng = np.random.default_rng(0)
        for _ in range(60):
            _, rewards, terminated, truncated, infos = env.step(rng.integers(3, size=3))
            totals, lengths, done = totals + rewards, lengths + 1, terminated | truncated
            if done.any():
                np.testing.assert_allclose(infos["episode"]["r"][done], totals[done], atol=1e-9)
                np.testing.assert_array_equal(infos["episode"]["l"][done], lengths[done])
            totals[done], lengths[done], finished = 0.0, 0.0, finished + done.sum()
        assert finished >= 3
        assert env.episode_count == finished

    def test_dict_infos(self) -> None:
        base = gymnasium.make_vec("tw_env/Text-v0", num_envs=2, **tiny())
        env = vector_wrappers.DictInfoToList(base)
        _, infos = env.reset(seed=0)
        assert [info["cost"] for info in infos] == [0.0, 0.0]
