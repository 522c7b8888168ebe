"""Rewards from names and weights, what each term pays, and which decoding it fits."""

import numpy as np
import pytest

from tw_env.rewards import TERMS, Reward, parse_reward

SCORE, BEST, SURPRISE, KL = (np.array([x]) for x in (-2.0, -0.5, 1.2, 0.3))


@pytest.mark.parametrize(
    ("weights", "own", "accepted"),
    [
        ({"quality": 1.0}, 0.0, 0.0),
        ({"regret": 1.0}, -1.5, -1.5),
        ({"kl": 1.0}, -0.8, 0.0),
        ({"expected_kl": 1.0}, -0.3, 0.0),
        ({"kl": 0.5, "expected_kl": 2.0, "quality": 3.0}, -1.0, 0.0),
    ],
)
def test_what_a_token_is_worth(weights: dict[str, float], own: float, accepted: float) -> None:
    reward = Reward(weights)
    np.testing.assert_allclose(reward.of_tokens(SCORE, BEST, SURPRISE, KL), own)
    np.testing.assert_allclose(reward.of_accepted(SCORE, BEST), accepted)
    assert reward.scored == (set(weights) != {"quality"})


def test_defaults_follow_the_decoding() -> None:
    assert parse_reward(None, "greedy").weights == {"regret": 1.0}
    assert parse_reward(None, "sampling").weights == {"kl": 1.0}


@pytest.mark.parametrize("decoding", ["greedy", "sampling"])
@pytest.mark.parametrize("term", list(TERMS))
def test_terms_that_do_not_fit_are_refused_with_one_that_does(term: str, decoding: str) -> None:
    if decoding in TERMS[term]:
        assert parse_reward(term, decoding).weights == {term: 1.0}
        return
    instead = "regret" if decoding == "greedy" else "kl"
    with pytest.raises(ValueError, match=f"'{term}' does not fit {decoding} decoding.*'{instead}'"):
        parse_reward({"quality": 1.0, term: 0.1}, decoding)


@pytest.mark.parametrize("reward", ["bleu", {}, {"quality": 0.0}, {"quality": float("nan")}])
def test_what_is_no_reward_is_refused(reward: object) -> None:
    with pytest.raises(ValueError, match=r"Expected a .*, got"):
        parse_reward(reward, "greedy")  # type: ignore[arg-type]
