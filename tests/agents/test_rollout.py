"""Collected episodes: whole, in order, with the sums that the environment told; replay keeps the newest."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from agents.pcl.replay import Replay
from agents.rollout import Collector, Episodes, check_autoreset, final
from tests.agents.small import small_game
from tw_env.policies import random_calls


def collected(episodes: int = 60, rule: str = "sample", **settings: object) -> Episodes:
    env = small_game(rule=rule, **settings)
    policy = random_calls(env.layout, env.game.spec.actions, 0.3)
    return Collector(env, seed=1).collect(policy, episodes)


@pytest.mark.parametrize("rule", ["at most 20% of the tokens", "at most 2 calls", "sample"])
def test_steps_add_up_to_what_the_environment_told(rule: str) -> None:
    episodes = collected(rule=rule)
    assert len(episodes) >= 60
    assert episodes.total(episodes.rewards) == pytest.approx(episodes.sums["quality"])
    assert episodes.total(episodes.costs) == pytest.approx(episodes.sums["spent"])
    assert episodes.violation == pytest.approx(episodes.sums["spent"] - episodes.sums["allowed"])
    assert not episodes.cut.any()


class Lengths(VectorEnv):
    """Episodes whose length is drawn from 1 to 9 at their start; each step costs 1."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.single_observation_space = Box(0, 9, (1,), np.float32)
        self.single_action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: object = None):
        super().reset(seed=seed)
        self.left = self.np_random.integers(1, 10, size=self.num_envs)
        return self.left[:, None].astype(np.float32), {"cost": np.zeros(self.num_envs)}

    def step(self, actions: np.ndarray):
        self.left -= 1
        done, ones = self.left == 0, np.ones(self.num_envs)
        self.left[done] = self.np_random.integers(1, 10, size=done.sum())
        seen = self.left[:, None].astype(np.float32)
        infos = {"cost": ones, "final_info": {"cost": ones}, "final_obs": seen}
        return seen, np.zeros(self.num_envs), done, np.zeros(self.num_envs, bool), infos


class Left:
    """Always takes the first action."""

    def predict(self, observation: np.ndarray, *args: object, **kwargs: object) -> tuple[np.ndarray, None]:
        return np.zeros(len(observation), np.int64), None


def test_the_first_episodes_after_a_restart_are_no_shorter_than_others() -> None:
    collector, costs = Collector(Lengths(64), 0), []
    for seed in range(40):
        collector.restart(seed, drop=128)
        costs.append([collector.collect(Left(), 64).violation.mean() for _ in range(3)])
    assert np.mean(costs, axis=0) == pytest.approx([5.0, 5.0, 5.0], abs=0.25)
    collector.restart(0)
    assert collector.collect(Left(), 64).violation.mean() < 4.5  # what would come first otherwise


def test_each_episode_is_handed_out_once_and_whole() -> None:
    collector = Collector(Lengths(8), 0)
    parts = [collector.collect(Left(), 5) for _ in range(40)]
    for part in parts:
        assert 5 <= len(part) < 5 + 8
        assert np.diff(part.starts).tolist() == part.observations[part.starts[:-1], 0].tolist()  # tells the length


@pytest.mark.parametrize(("steps", "longest"), [(None, 9), (4, 4), (1, 1)])
def test_the_first_episodes_are_waited_for_as_long_as_is_wanted(steps: int | None, longest: int) -> None:
    collector = Collector(Lengths(64), 0)
    lengths = collector.observations[:, 0].astype(int)  # of the first episodes
    found = collector.collect_first(Left(), 64, steps)
    assert np.diff(found.starts).tolist() == [length for length in lengths if length <= longest]
    alone = next(one for one in (Collector(Lengths(1), seed) for seed in range(20)) if one.observations[0, 0] > 1)
    assert len(alone.collect_first(Left(), 1, 1)) == 1, "at least one is waited for"


def test_episodes_come_back_from_a_file(tmp_path: Path) -> None:
    episodes = collected()
    episodes.save(tmp_path / "deep" / "episodes.npz")
    again = Episodes.load(tmp_path / "deep" / "episodes.npz")
    assert again.violation == pytest.approx(episodes.violation, abs=0)
    assert np.array_equal(again.observations, episodes.observations)
    assert again.sums.keys() == episodes.sums.keys()


def test_numbers_of_the_last_step_are_read_from_final_infos_and_lost_ones_are_refused() -> None:
    done = np.array([True, False])
    infos = {"cost": np.array([0.0, 2.0]), "final_info": {"cost": np.array([3.0, 0.0])}}
    assert final(infos, "cost", done).tolist() == [3.0, 2.0]
    assert final({"final_info": {"cost": np.array([3.0, 4.0])}}, "cost", np.array([True, True])).tolist() == [3.0, 4.0]
    with pytest.raises(KeyError, match="some rows told only"):
        final(infos | {"_cost": np.array([True, False])}, "cost", done)
    with pytest.raises(KeyError, match=r"Expected info\['cost'\] on every step"):
        final({"final_info": {"cost": np.array([3.0, 0.0])}}, "cost", done)
    with pytest.raises(TypeError, match="fractions would be lost"):
        final({"cost": np.array([0, 2])}, "cost", np.array([False, False]))


def test_truncated_episodes_are_marked_and_have_a_last_observation() -> None:
    episodes = collected(max_episode_steps=2)
    assert episodes.cut.any()
    assert not episodes.cut.all()
    ended = small_game().layout["ended"].start
    assert np.array_equal(episodes.last[:, ended] == 0, episodes.cut)


def test_taking_and_joining_keep_whole_episodes() -> None:
    episodes = collected()
    order = np.array([5, 0, 5, len(episodes) - 1])
    taken = Episodes.join([episodes.take(order[:1]), episodes.take(order[1:])])
    assert np.diff(taken.starts).tolist() == np.diff(episodes.starts)[order].tolist()
    assert taken.total(taken.rewards) == pytest.approx(episodes.total(episodes.rewards)[order])
    assert taken.of_step.tolist() == np.repeat(np.arange(4), np.diff(taken.starts)).tolist()
    first = slice(episodes.starts[5], episodes.starts[6])
    assert np.array_equal(taken.observations[: taken.starts[1]], episodes.observations[first])


def test_replay_keeps_the_newest_episodes_and_draws_only_those() -> None:
    episodes = collected()
    replay = Replay(capacity=20)
    for start in range(0, 60, 10):
        replay.add(episodes.take(np.arange(start, start + 10)))
    assert len(replay) == 20
    drawn = replay.sample(np.random.default_rng(0), 200)
    assert len(drawn) == 200
    assert set(drawn.sums["prompt"]) == set(episodes.sums["prompt"][40:60])
    with pytest.raises(ValueError, match="at least one episode, got 0"):
        Replay(0)


def test_another_autoreset_mode_is_refused() -> None:
    envs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")], autoreset_mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(ValueError, match="Expected a vector environment with autoreset mode SAME_STEP"):
        check_autoreset(envs)
