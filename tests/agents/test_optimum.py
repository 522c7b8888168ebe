"""The optimum: its search finds what trying every action string finds, and its plan is the best under a rule."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from agents.baselines.allotment import allot, weight
from agents.baselines.optimum import Optimum
from agents.baselines.oracles import Oracle
from agents.baselines.reach import Point, Reach, search
from agents.evaluation import FREE, NEVER, play
from tests.agents.small import PROMPTS as MANY
from tests.agents.small import small_game
from tests.letters import PROMPTS, Letters, names_of, pair_of
from tw_env.rules import Constraint, Quantity
from tw_env.vector_env import AssistedDecodingVectorEnv

ALL = np.arange(len(MANY))
TRIED = (*PROMPTS, "f", "a d", "d b c")  # in the last three it pays to have a token confirmed that would be refused


def per_token(limit: float, hard: bool = False) -> Constraint:
    return Constraint(Quantity.CALLS_PER_TOKEN, limit, hard)


# ---- what is reachable -----------------------------------------------------------------------------------------


def game_of(rows: int, actions: str, cap: int, **settings: Any) -> AssistedDecodingVectorEnv:
    return AssistedDecodingVectorEnv(
        rows, task=Letters(TRIED, cap), actions=actions, reward="quality", rule="as often as you like",
        **names_of(pair_of()), **settings,
    )  # fmt: skip


def outcomes_of_all_strings(env: AssistedDecodingVectorEnv, prompt: int, steps: int) -> set[tuple[int, int, float]]:
    """(calls, tokens, quality) of every action string on one prompt, one string a row."""
    strings = np.array(list(product(range(len(env.game.spec.actions)), repeat=steps)))  # (rows, steps)
    env.reset(seed=0, options={"prompts": [prompt] * env.num_envs})
    open_rows, outcomes = np.ones(env.num_envs, bool), set()
    for column in strings.T:
        _, _, terminated, truncated, infos = env.step(column)
        assert not truncated.any()
        for row in np.flatnonzero(terminated & open_rows):
            last = {name: infos["final_info"][name][row] for name in ("calls", "tokens", "quality")}
            outcomes.add((int(last["calls"]), int(last["tokens"]), round(float(last["quality"]), 9)))
        open_rows &= ~terminated
    assert not open_rows.any(), "these strings are too short"
    return outcomes


def best_of(outcomes: set[tuple[int, int, float]]) -> set[tuple[int, int, float]]:
    """Those that no other one equals or beats in everything."""
    return {
        one for one in outcomes
        if not any(o != one and o[0] <= one[0] and o[1] >= one[1] and o[2] >= one[2] for o in outcomes)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("actions", "cap", "steps", "accept"),
    [
        ("SELF/ASK", 7, 7, "exact"),
        ("SELF/VERIFY", 4, 10, "exact"),
        ("SELF/VERIFY", 4, 10, "distance:1"),
        ("SELF/VERIFY", 4, 10, "probability:0.3"),
        ("SELF/VERIFY", 4, 10, "probability:0.8"),
        ("SELF/ASK/VERIFY", 3, 6, "exact"),
        ("SELF/ASK/VERIFY", 3, 6, "distance:1"),
    ],
)
def test_the_search_finds_what_all_action_strings_find(actions: str, cap: int, steps: int, accept: str) -> None:
    rows = len(actions.split("/")) ** steps
    env = game_of(rows, actions, cap, accept=accept)
    found = search(env, range(len(TRIED)), most_calls=cap, rows=3)
    several = 0
    for prompt, reach in enumerate(found):
        points = {(point.calls, point.tokens, round(point.quality, 9)) for point in reach.points}
        assert len(points) == len(reach.points)
        assert points == best_of(outcomes_of_all_strings(env, prompt, steps))
        assert not reach.cut
        several += len(points) > 1
    assert several >= 3


def test_the_number_of_rows_changes_nothing_and_a_bound_on_calls_is_owned_up_to() -> None:
    env = game_of(4, "SELF/ASK", 8)
    prompts = [7, 2, 2, 0, 4]
    one, many = (search(env, prompts, most_calls=8, rows=rows) for rows in (1, 40))
    assert [reach.points for reach in one] == [reach.points for reach in many]
    assert one[1] == one[2]
    few = search(env, prompts, most_calls=1)
    for whole, part in zip(one, few, strict=True):
        assert max(point.calls for point in part.points) <= 1
        assert part.cut == (part.texts < whole.texts)
    assert any(part.cut for part in few)


@pytest.mark.parametrize("remember", [0, 100])
def test_it_needs_no_remembered_prefixes_of_the_game(remember: int) -> None:
    plain, other = game_of(4, "SELF/ASK", 8), game_of(4, "SELF/ASK", 8, remember=remember)
    assert [r.points for r in search(other, range(10))] == [r.points for r in search(plain, range(10))]


def test_progress_counts_every_prompt_once() -> None:
    told: list[int] = []
    search(game_of(4, "SELF/ASK", 8), range(10), rows=3, progress=told.append)
    assert sum(told) == 10


# ---- the choice over all prompts -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rule", [per_token(0.1), per_token(0.3), Constraint(Quantity.CALLS, 1.0)])
def test_no_other_choice_of_points_is_better_by_more_than_one_step(seed: int, rule: Constraint) -> None:
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(5):
        reach = Reach()
        for calls in range(4):
            reach.add(Point(calls, int(generator.integers(3, 9)), float(generator.random()), tuple(range(calls))))
        found.append(reach)
    plan = allot(found, rule)
    best = max(
        sum(point.quality for point in choice)
        for choice in product(*(reach.points for reach in found))
        if sum(weight(point, rule) for point in choice) <= 1e-9
    )
    steps = [b.quality - a.quality for reach in found for a in reach.points for b in reach.points]
    assert sum(weight(point, rule) for point in plan.chosen) <= 1e-9
    assert plan.quality == pytest.approx(np.mean([point.quality for point in plan.chosen]))
    assert best / 5 <= plan.bound + 1e-9
    assert best - max(steps) < 5 * plan.quality <= best + 1e-9


def test_without_a_limit_the_best_text_is_taken_with_the_fewest_calls() -> None:
    reach = Reach([Point(0, 5, 0.2, ()), Point(1, 5, 0.9, (2,)), Point(2, 7, 0.9, (1, 2))])
    assert allot([reach], FREE).chosen == [reach.points[1]]
    assert allot([reach], NEVER, most_calls=0).chosen == [reach.points[0]]


def test_rules_on_time_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected a rule on calls or calls per token"):
        allot([Reach([Point(0, 5, 0.2, ())])], Constraint(Quantity.LATENCY_MS, 5.0))


# ---- the policy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", ["SELF/ASK", "SELF/VERIFY", "SELF/ASK/VERIFY"])
def test_the_game_pays_and_counts_what_was_planned(actions: str) -> None:
    env = small_game(actions=actions)
    optimum = Optimum(env, most_calls=8)
    assert optimum.exact == 1.0
    before = 0.0
    for rule in (NEVER, per_token(0.02), per_token(0.1), Constraint(Quantity.CALLS, 1), per_token(0.2), FREE):
        plan, outcomes = optimum.allotment(rule), play(env, optimum, ALL, rule).outcomes
        assert outcomes.calls.tolist() == [point.calls for point in plan.chosen]
        assert outcomes.tokens.tolist() == [point.tokens for point in plan.chosen]
        assert outcomes.quality.mean() == pytest.approx(plan.quality)
        assert outcomes.spent.sum() <= outcomes.allowed.sum() + 1e-6
        assert plan.quality <= plan.bound <= plan.quality + 1 / len(ALL)
        assert optimum.bound(rule) == plan.bound
        if rule.quantity == Quantity.CALLS_PER_TOKEN:
            assert plan.quality >= before
            before = plan.quality
    asks = play(env, Oracle(env), ALL, FREE).outcomes
    assert before > asks.quality.mean(), "the references, not the teacher, are the measure"
    assert outcomes.calls.sum() < asks.calls.sum() or actions == "SELF/VERIFY"


def test_under_a_hard_rule_no_output_spends_more_than_it_can_afford() -> None:
    env = small_game()
    optimum = Optimum(env, most_calls=8)
    rule = per_token(0.25, hard=True)  # at most 2 calls at a cap of 8
    outcomes = play(env, optimum, ALL, rule).outcomes
    assert outcomes.calls.max() == 2
    assert outcomes.quality.mean() == pytest.approx(optimum.allotment(rule).quality)


def test_a_search_that_was_cut_bounds_the_optimum_from_both_sides() -> None:
    env = small_game(actions="SELF/ASK")
    whole, part = Optimum(env, most_calls=8), Optimum(env, most_calls=1)
    assert part.exact < 1
    for limit in (0.1, 0.2, 0.4):
        assert part.allotment(per_token(limit)).quality <= whole.allotment(per_token(limit)).quality
        assert whole.bound(per_token(limit)) <= part.bound(per_token(limit)) + 1e-9


def test_rows_under_different_rules_follow_their_own_plans_and_unplanned_prompts_are_left_alone() -> None:
    env = small_game()
    optimum = Optimum(env, ALL[::2])
    rules = [FREE if index % 3 else per_token(0.05) for index in ALL]
    outcomes = play(env, optimum, ALL, rules).outcomes  # type: ignore[arg-type]
    free = {int(p): point.calls for p, point in zip(optimum.prompts, optimum.allotment(FREE).chosen, strict=True)}
    tight = dict(zip(optimum.prompts, (p.calls for p in optimum.allotment(rules[0]).chosen), strict=True))  # type: ignore[arg-type]
    expected = [(free if index % 3 else tight).get(int(index), 0) for index in ALL]
    assert outcomes.calls.tolist() == expected


def test_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected greedy decoding"):
        Optimum(small_game(decoding="sampling"))
