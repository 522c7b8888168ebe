"""What a gate may do: call only at the end where it is told so, and trade what actions earn for what they spend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.agents.small import small_game
from tw_env.policies import Gate, ObservationNetwork, load
from tw_env.policies.cuts import CutTable
from tw_env.policies.gate import FEW
from tw_env.rules import Constraint, Quantity


def random_network(size: int, outputs: int) -> ObservationNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ObservationNetwork(size, outputs, width=8).eval()


def test_a_gate_that_calls_at_the_end_calls_nowhere_else() -> None:
    env = small_game(rows=16)
    actions = env.game.spec.actions
    gate = Gate(env.layout, actions, random_network(env.layout.size, 3), 1.0, CutTable(default=-1e8), at_end=True)
    for deterministic in (True, False):
        called = 0
        observations, _ = env.reset(seed=0)
        for _ in range(30):
            chosen, _ = gate.predict(observations, deterministic=deterministic)
            at_end = observations[:, env.layout["would_end"].start] > 0
            assert not np.asarray(chosen)[~at_end].any()
            called += int(np.count_nonzero(chosen))
            observations = env.step(np.asarray(chosen))[0]
        assert called > 10


def test_the_price_of_the_rows_limit_is_what_spending_costs(tmp_path: Path) -> None:
    env = small_game(rows=3)
    network = random_network(env.layout.size, 6)
    grid = np.array([0.1, 0.4]), np.array([2.0, 1.0])
    gate = Gate(env.layout, env.game.spec.actions, network, 0.5, prices=grid)
    rules = [Constraint(Quantity.CALLS_PER_TOKEN, limit) for limit in (0.05, 0.2, 0.9)]
    observations, _ = env.reset(seed=0, options={"prompts": [3, 4, 5], "rules": rules})
    with torch.no_grad():
        outputs = network(torch.from_numpy(observations)).numpy()
    prices = np.array([2.0, 1.5, 1.0])[:, None]  # clipped to the grid's ends; half way on the logarithm of the limit
    wanted = torch.from_numpy((outputs[:, :3] - prices * outputs[:, 3:]) / 0.5).log_softmax(-1).numpy()
    np.testing.assert_allclose(gate.log_probabilities(observations), wanted, atol=1e-5)
    gate.save(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, Gate)
    np.testing.assert_allclose(again.log_probabilities(observations), wanted, atol=1e-5)


def test_the_network_runs_only_where_there_is_a_choice() -> None:
    env = small_game(rows=16)
    actions = env.game.spec.actions
    network = random_network(env.layout.size, 3)
    read = []
    network.register_forward_hook(lambda module, given, output: read.append(len(given[0])))
    gate = Gate(env.layout, actions, network, 0.5, at_end=True)
    observations, _ = env.reset(seed=0)
    some = 0
    for _ in range(30):
        chooses = observations[:, env.layout["would_end"].start] > 0
        read.clear()
        logprobs = gate.log_probabilities(observations)
        assert read == ([int(chooses.sum())] if chooses.sum() > FEW else []), "a row or two are read without torch"
        assert np.array_equal(logprobs[~chooses], np.tile([0.0, -np.inf, -np.inf], (int((~chooses).sum()), 1)))
        with torch.no_grad():
            whole = (network(torch.from_numpy(observations)) / 0.5).log_softmax(-1).numpy()
        np.testing.assert_allclose(logprobs[chooses], whole[chooses], atol=1e-5)
        some += int(chooses.sum())
        observations = env.step(np.asarray(gate.predict(observations)[0]))[0]
    assert some > 10
