"""Learning from logged play alone: the file, the estimate of what a gate spends, and what is learned without play."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agents.baselines.calibration import CalibrationConfig
from agents.baselines.heuristic import Heuristic
from agents.cmdp import CMDP, TabularVectorEnv
from agents.evaluation import play as evaluate
from agents.pcl import PCLConfig
from agents.pcl.logged import LoggedPlay, log_behaviour, logged
from agents.pcl.offline import CostCritic, OfflineConfig, cut_offline, learn_offline
from agents.rollout import Collector, Episodes
from tests.agents.small import PROMPTS, small_game
from tw_env.rules import Constraint, Quantity

PROBLEM = CMDP.random(seed=0)


class Uniform:
    """Takes all actions of the table alike."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def predict(self, observation: np.ndarray, *args: object, **kwargs: object) -> tuple[np.ndarray, None]:
        return self.rng.integers(3, size=len(observation)), None


@pytest.fixture(scope="module")
def table() -> LoggedPlay:
    """Play of the table by a policy that takes all actions alike."""
    env = TabularVectorEnv(PROBLEM, 64)
    return logged(env, Collector(env, 0).collect(Uniform(), 3000))


def test_logged_play_comes_back_from_its_file_in_every_bit(tmp_path: Path) -> None:
    env = small_game(rule="sample")
    play = log_behaviour(env, 120, seed=0)
    assert len(play.episodes) == 120
    play.save(tmp_path / "log")
    again = LoggedPlay.load(tmp_path / "log")
    for name, values in vars(play.episodes).items():
        other = getattr(again.episodes, name)
        if name == "sums":
            assert all(np.array_equal(values[key], other[key]) for key in values)
            assert set(values) == set(other)
        else:
            assert np.array_equal(values, other), name
    assert (again.layout.record(), again.actions, again.sampling) == (
        play.layout.record(),
        env.game.spec.actions,
        False,
    )
    with pytest.raises(FileNotFoundError, match=r"LoggedPlay\.save"):
        LoggedPlay.load(tmp_path)


def test_a_file_without_all_arrays_is_refused(tmp_path: Path, table: LoggedPlay) -> None:
    table.save(tmp_path)
    assert LoggedPlay.load(tmp_path).actions == (0, 1, 2)
    with (tmp_path / "episodes.npz").open("wb") as file:
        np.savez(file, actions=table.episodes.actions)
    with pytest.raises(ValueError, match="without allowances, before, costs"):
        LoggedPlay.load(tmp_path)


def test_the_critic_tells_what_another_policy_would_spend(table: LoggedPlay) -> None:
    torch.set_num_threads(1)
    target = np.random.default_rng(1).dirichlet([0.3, 0.5, 2.0], size=6)
    config = OfflineConfig(pcl=PCLConfig(width=32, lag=0.9), critic_lr=5e-3)
    critic = CostCritic(6, 3, config, seed=0)
    rng = np.random.default_rng(2)

    def policy_at(episodes: Episodes) -> tuple[torch.Tensor, torch.Tensor]:
        states = episodes.observations.argmax(1)
        return torch.from_numpy(episodes.observations), torch.from_numpy(target[states]).float()

    for _ in range(1500):
        batch = table.episodes.take(rng.integers(3000, size=128))
        critic.update(batch, *policy_at(batch))
    states = np.eye(6, dtype=np.float32)
    spent = critic.values(torch.from_numpy(states), torch.from_numpy(target).float()).numpy()
    assert PROBLEM.start @ spent == pytest.approx(PROBLEM.evaluate(target)[1], rel=0.06)
    behaviour = PROBLEM.evaluate(np.full((6, 3), 1 / 3))[1]
    assert abs(behaviour - PROBLEM.evaluate(target)[1]) > 0.1 * behaviour, "the log alone would tell another number"


@pytest.mark.slow
def test_offline_comes_close_to_the_constrained_optimum_of_a_table(table: LoggedPlay) -> None:
    limit = 0.5 * PROBLEM.optimum().cost
    config = PCLConfig.general(
        limit, 3, iterations=80, episodes=256, updates=4, batch=128, alpha=0.1, alpha_final=0.03, gate_lr=5e-3,
        value_lr=5e-3, width=32, multiplier_step=0.05, averaging=0.99, lag=0.9,
    )  # fmt: skip
    agent = learn_offline(table, OfflineConfig(pcl=config, warm_up=200, critic_lr=5e-3))
    assert agent.policy is not None
    value, cost = PROBLEM.evaluate(np.exp(agent.policy.log_probabilities(np.eye(6, dtype=np.float32))))
    print(f"limit {limit:.3f}, cost {cost:.3f}, return {value:.3f}, optimum {PROBLEM.optimum(limit).value:.3f}")
    assert cost == pytest.approx(limit, rel=0.15)
    assert value > 0.95 * PROBLEM.optimum(cost).value


def test_in_the_game_gate_and_cuts_come_from_the_log_alone_and_keep_their_limits() -> None:
    env = small_game(rows=64, actions="SELF/VERIFY", rule="sample", reward="regret")  # what is checked costs no regret
    play = log_behaviour(env, 8 * len(PROMPTS), seed=0)
    pcl = PCLConfig(
        iterations=30, episodes=128, updates=4, width=32, gate_lr=5e-3, averaging=0.9, alpha=0.1,
        limits=(0.05, 0.2, 0.5)
    )  # fmt: skip
    config = OfflineConfig(pcl=pcl, limits=(0.1, 0.2, 0.3))
    seen: list[dict[str, float]] = []
    agent = learn_offline(play, config, log=lambda _, numbers: seen.append(numbers))
    assert len(seen) == 30
    assert {"violation", "covered", "loss/siblings", "lambda/0.2", "violation/0.2"} <= set(seen[-1])
    assert len(cut_offline(agent, play, config).cuts["calls_per_token"]) == 3
    by_lot = Heuristic("random_at_end", config=CalibrationConfig(limits=config.limits, prompts=len(PROMPTS))).learn(env)
    better = []
    for limit in config.limits:
        rule = Constraint(Quantity.CALLS_PER_TOKEN, limit)
        ours, theirs = (evaluate(env, one, np.arange(len(PROMPTS)), rule).outcomes for one in (agent, by_lot))
        assert 0.8 * limit < ours.calls.sum() / ours.tokens.sum() <= limit + 0.01
        better.append(ours.returns.mean() - theirs.returns.mean())
    assert min(better) > 0
    again = learn_offline(play, config)
    assert all(torch.equal(*pair) for pair in zip(
        agent.learner.averaged.parameters(), again.learner.averaged.parameters(), strict=True
    ))  # fmt: skip


def test_without_verify_a_critic_is_not_needed_either_and_whole_texts_are_refused() -> None:
    env = small_game(rows=64, actions="SELF/ASK", rule="sample")
    play = log_behaviour(env, 8 * 60, seed=0)
    assert len(play.episodes) == 480
    assert len(np.unique(play.episodes.sums["prompt"])) == 60
    pcl = PCLConfig(iterations=2, episodes=32, updates=1, prompts=16, width=16)
    agent = learn_offline(play, OfflineConfig(pcl=pcl))
    assert agent.learner.config.siblings
    with pytest.raises(ValueError, match="Expected whole_text=False"):
        learn_offline(play, OfflineConfig(pcl=PCLConfig(whole_text=True)))
