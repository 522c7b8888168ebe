"""Networks see at play what they saw in training: take-backs and resets included, and a row by itself."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.agents.small import small_game
from tw_env.policies import EpisodeNetwork, Gate, ObservationNetwork, load
from tw_env.policies.networks import steps_before


def test_the_step_before_wrote_the_token_before() -> None:
    positions = np.array([0, 1, 2, 1, 2, 0, 1])  # three tokens, one call that leaves one of them, then another episode
    starts = np.array([0, 5, 7])
    assert steps_before(positions, starts).tolist() == [-1, 0, 1, 0, 3, -1, 5]


def gate_of(env: object) -> Gate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = EpisodeNetwork(env.layout.size, 3, width=8).eval()  # type: ignore[attr-defined]
    return Gate(env.layout, env.game.spec.actions, network, temperature=0.5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", [0, 1])
def test_play_and_training_agree(seed: int) -> None:
    env = small_game(rows=4)
    gate, generator = gate_of(env), np.random.default_rng(seed)
    observations, _ = env.reset(seed=seed)
    seen: list[list[np.ndarray]] = [[] for _ in range(4)]
    said: list[list[np.ndarray]] = [[] for _ in range(4)]
    whole = []
    for _ in range(40):
        logprobs = gate.log_probabilities(observations)
        for row in range(4):
            seen[row].append(observations[row])
            said[row].append(logprobs[row])
        observations, _, terminated, truncated, _ = env.step(generator.choice(3, p=[0.5, 0.2, 0.3], size=4))
        for row in np.flatnonzero(terminated | truncated):
            whole.append((np.stack(seen[row]), np.stack(said[row])))
            seen[row], said[row] = [], []
    states = np.concatenate([states for states, _ in whole])
    starts = np.concatenate([[0], np.cumsum([len(states) for states, _ in whole])])
    positions = np.rint(states[:, env.layout["position"].start] * env.layout.cap).astype(np.int64)
    assert (np.diff(positions) < 1).any()  # some calls took tokens back, or a row began anew
    assert isinstance(gate.network, EpisodeNetwork)
    with torch.no_grad():
        outputs = gate.network.along(torch.from_numpy(states), starts, steps_before(positions, starts))
    wanted = (outputs / 0.5).double().log_softmax(-1).numpy()
    np.testing.assert_allclose(np.concatenate([said for _, said in whole]), wanted, atol=1e-5)


def test_a_row_or_two_are_read_alike_without_torch_as_the_weights_are_now() -> None:
    network = ObservationNetwork(7, 4, width=16).eval()
    observations = torch.randn(2, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [300.0]])
    network.standardise.fit(torch.randn(50, 7, generator=torch.Generator().manual_seed(1)))
    other = copy.deepcopy(network)

    def check(one: ObservationNetwork) -> None:
        wanted = one(observations).detach().numpy()
        np.testing.assert_allclose(one.of_few(observations.numpy()), wanted, rtol=1e-5, atol=1e-5)

    check(network)
    torch.optim.SGD(network.parameters(), 0.1).zero_grad()
    network(observations).sum().backward()
    torch.optim.SGD(network.parameters(), 0.1).step()
    check(network)
    check(other)
    learnt = copy.deepcopy(network)
    check(learnt)
    learnt.load_state_dict(other.state_dict())
    check(learnt)


def test_such_a_gate_is_saved_and_two_games_can_be_played_in_turn(tmp_path: Path) -> None:
    first, second = small_game(rows=4), small_game(rows=4)
    gate = gate_of(first)
    gate.save(tmp_path)
    again = load(tmp_path)
    (ours, _), (theirs, _) = first.reset(seed=0), second.reset(seed=5)
    state = alone = other = None
    for _ in range(15):
        actions, state = gate.predict(ours, state, deterministic=True)
        repeated, alone = again.predict(ours, alone, deterministic=True)
        np.testing.assert_array_equal(actions, repeated)
        moved, other = again.predict(theirs, other, deterministic=True)
        ours, theirs = first.step(actions)[0], second.step(moved)[0]


def test_a_state_of_other_rows_is_refused() -> None:
    env = small_game(rows=4)
    gate = gate_of(env)
    observations, _ = env.reset(seed=0)
    _, state = gate.predict(observations)
    with pytest.raises(ValueError, match="4 rows"):
        gate.predict(observations[:2], state)
