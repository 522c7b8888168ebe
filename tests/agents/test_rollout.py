"""Collected episodes: whole, in order, with the sums that the environment told; replay keeps the newest."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agents.pcl.replay import Replay
from agents.rollout import Collector, Episodes, check_autoreset
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
