"""Routers learn where a call helps, follow what VERIFY takes back, keep their rule and survive a file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.baselines.calibration import CalibrationConfig
from agents.baselines.episode_network import CHANGE, GAIN, Ensemble
from agents.baselines.router import Router, RouterConfig, fit
from agents.baselines.router_paths import Paths, paths_of
from agents.baselines.router_policy import RouterPolicy, Target, columns
from agents.evaluation import play
from tests.agents.small import PROMPTS, small_game
from tw_env.actions import Action
from tw_env.policies import random_calls, student_alone
from tw_env.rules import Constraint, Quantity

ALL = np.arange(len(PROMPTS))
SOME = 150  # prompts that are learned from
CUTS = CalibrationConfig(limits=(0.1, 0.3), prompts=len(PROMPTS), rounds=5)
QUICK = CalibrationConfig(limits=(0.2,), prompts=60, rounds=2)
EPISODE = RouterConfig(episode=True, target=Target.GAIN, prompts=SOME, members=2, epochs=2, width=16, calibration=CUTS)
GAMES = [("SELF/ASK", Action.ASK), ("SELF/VERIFY", Action.VERIFY)]


@cache
def game(actions: str = "SELF/VERIFY") -> Any:
    return small_game(rows=64, actions=actions, hidden=True)


@cache
def learned(actions: str = "SELF/VERIFY") -> RouterPolicy:
    policy = Router(EPISODE).learn(game(actions)).policy
    assert policy is not None
    return policy


def ranking(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the curve: how often a true label scores above a false one."""
    return float((scores[labels][:, None] > scores[~labels]).mean())


# ---- what is learned from ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("actions", "call"), GAMES)
def test_gains_are_those_of_playing_the_call(actions: str, call: Action) -> None:
    env = game(actions)
    paths = paths_of(env, call, SOME)
    alone = play(env, student_alone(env.layout, env.game.spec.actions), ALL[:SOME], "never").outcomes.quality
    first = np.unique(paths.prompt, return_index=True)[1]  # the paths without any call come first
    assert np.array_equal(paths.prompt[first], ALL[:SOME])
    generator = np.random.default_rng(0)
    for path in generator.choice(first, 10, replace=False):
        places = np.flatnonzero(paths.open[paths.starts[path] : paths.starts[path + 1]])
        place = int(generator.choice(places))
        number = paths.starts[path] + place
        env.reset(seed=0, options={"prompts": [int(paths.prompt[path])], "rules": "as often as you like"})
        done, step = False, 0
        while not done:
            _, _, terminated, _, infos = env.step(np.full(env.num_envs, int(step == place)))
            done, step = bool(terminated[0]), step + 1
        quality = float(infos["final_info"]["quality"][0])
        assert quality - alone[paths.prompt[path]] == pytest.approx(paths.gain[number])
        assert paths.changes[number] or quality == alone[paths.prompt[path]]


@pytest.mark.parametrize(("actions", "call"), GAMES)
def test_one_decides_behind_the_last_call_and_with_verify_at_the_end(actions: str, call: Action) -> None:
    env = game(actions)
    paths = paths_of(env, call, SOME)
    assert not paths.changes[~paths.open].any()
    assert (paths.gain[~paths.changes] == 0).all()
    if call == Action.VERIFY:
        ends = np.isin(np.arange(len(paths.open)), paths.starts[1:] - 1)
        assert ends[paths.open].all()
        without_call = np.unique(paths.prompt, return_index=True)[1]
        assert paths.open[paths.starts[1:] - 1][without_call].all()  # later the teacher's token may end the text
    position = paths.states[:, env.layout["position"].start] * env.game.cap
    places = np.arange(len(position)) - np.repeat(paths.starts[:-1], np.diff(paths.starts))
    assert np.allclose(position, places)  # of the final text: what was taken back is gone


def test_routers_of_one_environment_share_the_paths() -> None:
    assert paths_of(game(), Action.VERIFY, SOME) is paths_of(game(), Action.VERIFY, SOME)
    assert len(np.unique(paths_of(game(), Action.VERIFY, 50).prompt)) == 50


# ---- learning ----------------------------------------------------------------------------------------------------


def halves(paths: Paths) -> tuple[Paths, np.ndarray]:
    """Paths that are learned from (only some prompts are open there), and the open states of the other prompts."""
    of_state = np.repeat(paths.prompt, np.diff(paths.starts))
    learn = of_state % 4 > 0
    shown = Paths(paths.states, paths.starts, paths.open & learn, paths.changes, paths.gain, paths.prompt)
    return shown, np.flatnonzero(paths.open & ~learn)


@torch.inference_mode()
def outputs(network: Ensemble, paths: Paths, read: np.ndarray) -> np.ndarray:
    """(states, 2) of every state, each with those before it on its path."""
    states = torch.from_numpy(paths.states[:, read])
    bounds = zip(paths.starts[:-1], paths.starts[1:], strict=True)
    parts = [torch.stack([m(states[None, a:b])[0] for m in network.networks]).mean(0) for a, b in bounds]
    return torch.cat(parts).numpy()


@pytest.mark.parametrize("episode", [False, True])
def test_disagreement_is_ranked_on_prompts_never_seen(episode: bool) -> None:
    env = game("SELF/ASK")
    paths, read = paths_of(env, Action.ASK, SOME), columns(env.layout)
    shown, held = halves(paths)
    config = RouterConfig(episode=episode, members=1, epochs=15, batch=32, width=32)
    scores = outputs(fit(shown, read, config), paths, read)
    assert ranking(scores[held, CHANGE], paths.changes[held]) > 0.7


def test_the_gain_is_predicted_better_than_by_a_constant() -> None:
    """Here a call gains where the text is short: a quality that the states tell."""
    env = game()
    paths, read = paths_of(env, Action.VERIFY, SOME), columns(env.layout)
    length = np.repeat(np.diff(paths.starts), np.diff(paths.starts))
    known = Paths(
        paths.states, paths.starts, paths.open, paths.changes,
        np.where(paths.open, 1.0 * (length < np.median(length)), 0.0), paths.prompt,
    )  # fmt: skip
    shown, held = halves(known)
    config = RouterConfig(episode=True, members=1, epochs=15, batch=32, width=32)
    predicted = outputs(fit(shown, read, config), known, read)[held, GAIN]
    constant = known.gain[held].mean()
    assert ((predicted - known.gain[held]) ** 2).mean() < 0.5 * ((constant - known.gain[held]) ** 2).mean()


def test_the_same_seed_gives_the_same_network_and_leaves_the_global_one_alone() -> None:
    env = game()
    paths, read = paths_of(env, Action.VERIFY, SOME), columns(env.layout)
    config = RouterConfig(episode=True, members=1, epochs=1, width=8)
    before = torch.get_rng_state()
    one, two = (fit(paths, read, config).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)


# ---- play --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", ["SELF/ASK", "SELF/VERIFY", "SELF/ASK/VERIFY"])
def test_scores_are_those_of_reading_the_current_text_anew(actions: str) -> None:
    """Random calls take tokens back and end episodes; the memory must always be that of the text as it stands."""
    env, trained = game(actions), learned("SELF/VERIFY")
    router = RouterPolicy(
        env.layout, env.game.spec.actions, trained.network, Target.GAIN, trained.cut, env.game.spec.actions[-1]
    )
    plays = random_calls(env.layout, env.game.spec.actions, 0.3)
    observations, _ = env.reset(seed=3, options={"prompts": ALL, "rules": "as often as you like"})
    memory = router._fresh(env.num_envs)
    texts: list[list[np.ndarray]] = [[] for _ in range(env.num_envs)]
    taken_back = compared = 0
    for _ in range(25):
        followed = router.follow(observations, memory)
        for row, place in enumerate(env.game.texts.length):
            taken_back += int(0 < place < len(texts[row]))
            texts[row] = [*texts[row][:place], observations[row]]
            if followed[row] > -1e6 and row < 16:
                text = np.stack(texts[row])[None][..., columns(env.layout)]
                with torch.inference_mode():
                    anew = np.mean([m(torch.from_numpy(text))[0, -1, GAIN].item() for m in router.network.networks])
                assert followed[row] == pytest.approx(anew, abs=1e-5)
                compared += 1
        observations = env.step(np.asarray(plays.predict(observations)[0]))[0]
    assert compared > 20
    assert taken_back > 10 or actions == "SELF/ASK"


@pytest.mark.parametrize("actions", ["SELF/ASK", "SELF/VERIFY"])
def test_it_keeps_its_limits_and_uses_them(actions: str) -> None:
    env, policy = game(actions), learned(actions)
    spent = []
    for limit in CUTS.limits:
        outcomes = play(env, policy, ALL, Constraint(Quantity.CALLS_PER_TOKEN, limit)).outcomes
        spent.append(outcomes.calls.sum() / outcomes.tokens.sum())
    assert spent[0] < spent[1]
    assert all(0.5 * limit < now <= limit + 1e-9 for now, limit in zip(spent, CUTS.limits, strict=True))
    assert play(env, policy, ALL, "never").outcomes.calls.sum() == 0


@pytest.mark.parametrize("episode", [False, True])
def test_a_saved_router_plays_the_same(episode: bool, tmp_path: Path) -> None:
    agent = Router(RouterConfig(episode=episode, prompts=SOME, members=2, epochs=1, width=8, calibration=QUICK))
    agent.learn(game()).save(tmp_path)
    again = Router.load(tmp_path)
    rule = "ask the teacher for at most 20% of the tokens"
    one, two = (play(game(), policy.learned(), ALL, rule).outcomes for policy in (agent, again))
    assert np.array_equal(one.calls, two.calls)
    assert np.array_equal(one.quality, two.quality)
    assert again.policy is not None
    assert again.policy.target == Target.DISAGREEMENT


def test_names_tell_what_is_seen_and_predicted() -> None:
    names = [Router(RouterConfig(episode=e, target=t)).name for e in (False, True) for t in Target]
    assert names == ["router", "router-gain", "router-episode", "information-limit"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    sampling: Any = small_game(decoding="sampling")
    with pytest.raises(ValueError, match="Expected greedy decoding"):
        Router(EPISODE).learn(sampling)
    with pytest.raises(ValueError, match="Expected observations of the 3 rows that the state is of, got 64"):
        learned().follow(game().reset(seed=0)[0], learned()._fresh(3))
    with pytest.raises(FileNotFoundError, match=r"Expected policy\.json"):
        Router.load(tmp_path)
    student_alone(game().layout, game().game.spec.actions).save(tmp_path)
    with pytest.raises(ValueError, match="Expected a policy of kind 'router'"):
        Router.load(tmp_path)
