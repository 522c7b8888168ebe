"""The SB3 adapter: the same numbers as the environment's, and algorithms that train on it as they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from tests.letters import Letters, names_of, pair_of
from tw_env.adapters.sb3 import SB3VecEnv

ROWS = 4
ID = "tw_env/TextVerify-v0"


def settings(**more: Any) -> dict[str, Any]:
    return {
        "task": Letters(["a", "b c", "d e f"], 6),
        "rule": "at most 2 calls",
        **names_of(pair_of()),
        **more,
    }


def adapted(rows: int = ROWS, **more: Any) -> SB3VecEnv:
    return SB3VecEnv(gymnasium.make_vec(ID, num_envs=rows, **settings(**more)))


class Keep(BaseCallback):
    """Collects what the algorithm saw."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: list[Any] = []
        self.rewards: list[Any] = []
        self.costs: list[list[float]] = []
        self.finished: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        self.actions.append(np.array(self.locals["actions"]))
        self.rewards.append(np.array(self.locals["rewards"]))
        self.costs.append([info["cost"] for info in self.locals["infos"]])
        self.finished += [info for info in self.locals["infos"] if "episode" in info]
        return True


@pytest.mark.parametrize("more", [{}, {"max_episode_steps": 3}, {"decoding": "sampling"}])
def test_same_numbers_as_the_environment(more: dict[str, Any]) -> None:
    envs, plain = adapted(**more), gymnasium.make_vec(ID, num_envs=ROWS, **settings(**more))
    envs.seed(3)
    observations, (expected, infos) = envs.reset(), plain.reset(seed=3)
    np.testing.assert_array_equal(observations, expected)
    assert [info["allowance"] for info in envs.reset_infos] == infos["allowance"].tolist()
    rng = np.random.default_rng(0)
    finished = cut = 0
    for _ in range(40):
        actions = rng.integers(3, size=ROWS)
        observations, rewards, dones, rows = envs.step(actions)
        expected, reward, terminated, truncated, infos = plain.step(actions)
        np.testing.assert_array_equal(observations, expected)
        np.testing.assert_allclose(rewards, reward, rtol=1e-6)
        np.testing.assert_array_equal(dones, terminated | truncated)
        for row, info in enumerate(rows):
            source = infos["final_info"] if dones[row] else infos
            for name in ("cost", "allowance", "spent", "allowed", "calls", "tokens", "prompt", "quality"):
                assert info[name] == source[name][row]
            np.testing.assert_array_equal(info["action_mask"], source["action_mask"][row])
            assert info["TimeLimit.truncated"] is bool(truncated[row])
            assert ("terminal_observation" in info) == dones[row]
            if dones[row]:
                np.testing.assert_array_equal(info["terminal_observation"], infos["final_obs"][row])
                assert envs.reset_infos[row]["spent"] == infos["spent"][row] == 0.0
        finished, cut = finished + dones.sum(), cut + truncated.sum()
    assert finished > 5
    assert (cut > 0) == ("max_episode_steps" in more)


def test_infos_are_plain() -> None:
    envs = adapted(decoding="sampling")
    envs.reset()
    for _ in range(20):
        *_, rows = envs.step(np.zeros(ROWS, np.int64))
        for info in rows:
            assert not any(key.startswith(("_", "final_")) for key in info)
            for key, value in info.items():
                expected = np.ndarray if key in ("action_mask", "terminal_observation") else (float, int, bool)
                assert isinstance(value, expected), key
                assert type(value).__module__ in ("builtins", "numpy"), key


def test_agrees_with_sb3s_own_vectorisation() -> None:
    """Single environments in a DummyVecEnv see the same episodes."""
    one = adapted(rows=2)
    other = DummyVecEnv([lambda: gymnasium.make(ID, **settings()) for _ in range(2)])
    for envs in (one, other):
        envs.seed(11)
    np.testing.assert_allclose(one.reset(), other.reset(), atol=1e-5)
    rng = np.random.default_rng(1)
    for _ in range(40):
        actions = rng.integers(3, size=2)
        mine, theirs = one.step(actions), other.step(actions)
        for a, b in zip(mine[:3], theirs[:3], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        for a_info, b_info in zip(mine[3], theirs[3], strict=True):
            assert set(a_info) == set(b_info)
            assert a_info["spent"] == pytest.approx(b_info["spent"])
            assert a_info["TimeLimit.truncated"] == b_info["TimeLimit.truncated"]


def test_seeding_counts_once() -> None:
    envs = adapted(decoding="sampling")
    starts = []
    for seed in (1, None, 1):
        if seed is not None:
            envs.seed(seed)
        starts.append(envs.reset())
    np.testing.assert_array_equal(starts[0], starts[2])
    assert (starts[0] != starts[1]).any()


def test_options() -> None:
    envs = adapted(rows=2)
    envs.set_options({"prompts": [2, 1]})
    envs.reset()
    assert [info["prompt"] for info in envs.reset_infos] == [2, 1]
    envs.set_options([{"prompts": [2]}, {"prompts": [1]}])
    with pytest.raises(ValueError, match="Expected the same options for all rows"):
        envs.reset()


@pytest.mark.parametrize("algorithm", [PPO, DQN, MaskablePPO])
def test_trains_unmodified(algorithm: Any) -> None:
    torch.set_num_threads(1)
    envs = VecMonitor(adapted(hard=True), info_keywords=("spent", "allowed", "quality"))
    small = {"learning_starts": 40} if algorithm is DQN else {"n_steps": 32, "batch_size": 32, "n_epochs": 2}
    model = algorithm("MlpPolicy", envs, gamma=1.0, seed=0, device="cpu", **small)
    keep = Keep()
    model.learn(240, callback=keep)
    assert len(keep.finished) > 10
    for info in keep.finished:
        assert info["episode"]["spent"] == info["spent"] <= info["allowed"] == 2.0
    plain = gymnasium.make_vec(ID, num_envs=ROWS, **settings(hard=True))
    plain.reset(seed=0)
    for actions, rewards, costs in zip(keep.actions, keep.rewards, keep.costs, strict=True):
        _, reward, terminated, truncated, infos = plain.step(actions)
        np.testing.assert_allclose(rewards, reward, rtol=1e-5, atol=1e-6)
        done = terminated | truncated
        last = infos["final_info"]["cost"] if done.any() else infos["cost"]
        assert costs == np.where(done, last, infos["cost"]).tolist()


def test_maskable_ppo_finds_masks_and_keeps_them() -> None:
    envs = adapted(rule="never ask the teacher")
    assert is_masking_supported(envs)
    assert is_masking_supported(VecMonitor(envs))
    envs.reset()
    masks = get_action_masks(VecNormalize(envs))
    assert masks.tolist() == [[True, False, False]] * ROWS
    assert envs.env_method("action_masks", indices=[2])[0].tolist() == [True, False, False]
    assert envs.get_attr("action_masks", indices=1)[0]().tolist() == [True, False, False]
    keep = Keep()
    model = MaskablePPO("MlpPolicy", envs, n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(128, callback=keep)
    assert not np.array(keep.actions).any(), "only SELF is allowed"


def test_monitor_and_evaluation(tmp_path: Path) -> None:
    file = tmp_path / "log"
    envs = VecMonitor(adapted(reward="quality"), str(file), info_keywords=("spent", "quality"))
    model = PPO("MlpPolicy", envs, n_steps=16, batch_size=32, seed=0, device="cpu")
    returns, lengths = evaluate_policy(model, envs, n_eval_episodes=8, return_episode_rewards=True)
    envs.close()
    lines = (tmp_path / "log.monitor.csv").read_text().splitlines()
    assert lines[1] == "r,l,t,spent,quality"
    assert len(returns) == len(lengths) == 8
    for line in lines[2:]:
        total, _, _, _, quality = (float(cell) for cell in line.split(","))
        assert total == pytest.approx(quality, abs=1e-5)


def test_attributes() -> None:
    envs = SB3VecEnv(RecordEpisodeStatistics(gymnasium.make_vec(ID, num_envs=2, **settings())))
    assert envs.get_attr("layout")[0].size == envs.observation_space.shape[0]
    assert envs.env_is_wrapped(gymnasium.Wrapper) == [False, False]
    assert not envs.has_attr("nothing")
    with pytest.raises(AttributeError, match="'nothing'"):
        envs.env_method("nothing")
    with pytest.raises(ValueError, match="one value for each of 2 rows"):
        envs.env_method("close")
    with pytest.raises(AttributeError, match="made with the environment"):
        envs.set_attr("rule", "never")


def test_renders_what_the_environment_draws() -> None:
    envs = SB3VecEnv(gymnasium.make_vec(ID, num_envs=2, render_mode="ansi", **settings()))
    envs.reset()
    assert envs.render_mode == "ansi"
    assert "spent 0 of 2 allowed" in envs.render()[0]
    with pytest.raises(ValueError, match="Expected render mode 'ansi'"):
        envs.render(mode="human")


def test_any_same_step_environment() -> None:
    make = [lambda: gymnasium.make("CartPole-v1") for _ in range(2)]
    envs = SB3VecEnv(SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP))
    other = DummyVecEnv(make)
    for one in (envs, other):
        one.seed(0)
    np.testing.assert_array_equal(envs.reset(), other.reset())
    for _ in range(60):
        mine, theirs = envs.step(np.ones(2, np.int64)), other.step(np.ones(2, np.int64))
        np.testing.assert_array_equal(mine[0], theirs[0])
        for info, expected in zip(mine[3], theirs[3], strict=True):
            assert set(info) == set(expected)
    assert len(envs.get_attr("spec", indices=[0])) == 1


def test_refusals() -> None:
    with pytest.raises(TypeError, match="Expected a gymnasium VectorEnv, got TimeLimit"):
        SB3VecEnv(gymnasium.make("CartPole-v1"))  # type: ignore[arg-type]
    make = [lambda: gymnasium.make("CartPole-v1")]
    with pytest.raises(ValueError, match=r"SAME_STEP, got .*NEXT_STEP"):
        SB3VecEnv(SyncVectorEnv(make, autoreset_mode=AutoresetMode.NEXT_STEP))
    make = [lambda: gymnasium.make("Pendulum-v1")]
    with pytest.raises(ValueError, match="Expected Discrete actions, got Box"):
        SB3VecEnv(SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP))
