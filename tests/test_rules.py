"""Rules in words: what is understood, what is refused and why, and that both hold under any wording."""

import contextlib
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.rules_refused import REFUSED
from tests.rules_understood import UNDERSTOOD
from tw_env.rules import HELD_OUT, RANGES, Constraint, Quantity, RuleError, paraphrases, parse, sample
from tw_env.rules.lexicon import PHRASES
from tw_env.rules.templates import ALWAYS, NEVER, PHRASINGS
from tw_env.tasks.pronounce import STUDENT


@pytest.mark.parametrize(("text", "quantity", "limit"), UNDERSTOOD)
def test_understood(text: str, quantity: str, limit: float) -> None:
    constraint = parse(text)
    assert (constraint.quantity, constraint.limit) == (quantity, limit)


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(RuleError) as error:
        parse(text)
    first, *listed = str(error.value).splitlines()
    assert f'"{text}"' in str(error.value)  # repeats the sentence
    assert reason in first
    assert any("at most 10% of the tokens" in line for line in listed)  # lists what is understood


@pytest.mark.parametrize(
    ("text", "hard"),
    [
        ("at most 3 times", False),
        ("never more than 3 times", False),
        ("strictly at most 3 times", True),
        ("hard limit: 10% of the tokens", True),
        ("under no circumstances more than 50 ms", True),
        ("at most 2 cents per text, no exceptions", True),
        ("strictly less than 3 calls", False),
        ("never", True),
        ("as often as you like", False),
    ],
)
def test_hard_needs_a_word_for_it(text: str, hard: bool) -> None:
    assert parse(text).hard is hard


def test_only_a_sentence_is_read() -> None:
    with pytest.raises(RuleError, match="Expected a rule as a sentence"):
        parse(0.1)  # type: ignore[arg-type]
    with pytest.raises(RuleError, match="at most 2000 characters"):
        parse("please " * 1000 + "ask at most twice")


# Constraints


@pytest.mark.parametrize(
    ("quantity", "limit", "reason"),
    [
        ("memory", 3, "Expected a quantity"),
        (Quantity.CALLS, -1, "less than zero"),
        (Quantity.CALLS, 2.5, "whole numbers"),
        (Quantity.CALLS_PER_TOKEN, 1.01, "at most 100%"),
        (Quantity.LATENCY_MS, 0, "takes time"),
        (Quantity.PRICE, math.nan, "a number"),
    ],
)
def test_impossible_constraints(quantity: Quantity, limit: float, reason: str) -> None:
    with pytest.raises(RuleError, match=reason):
        Constraint(quantity, limit)


def test_zero_is_hard_and_no_limit_is_not() -> None:
    assert Constraint(Quantity.CALLS_PER_TOKEN, 0) == parse("never ask the teacher")
    assert not Constraint(Quantity.CALLS, math.inf, hard=True).hard


def _limits(quantity: Quantity) -> st.SearchStrategy[float]:
    if quantity is Quantity.CALLS:
        return st.one_of(st.integers(0, 10**9).map(float), st.just(math.inf))
    top = 1 if quantity is Quantity.CALLS_PER_TOKEN else None
    finite = st.floats(0, top, allow_nan=False, allow_infinity=False, exclude_min=quantity is Quantity.LATENCY_MS)
    return st.one_of(finite, st.just(math.inf))


constraints = st.sampled_from(Quantity).flatmap(lambda q: st.builds(Constraint, st.just(q), _limits(q), st.booleans()))


@given(constraints)
def test_canonical_sentence_is_read_back_exactly(constraint: Constraint) -> None:
    assert parse(constraint.text) == constraint
    assert str(constraint) == constraint.text


# Wording


@pytest.mark.parametrize(
    ("phrases", "canonical"),
    [
        (("please", "ask the teacher", "at most 3 times", "per output"), "at most 3 times"),
        (("you may ask", "for no more than 10%", "of the tokens"), "10%"),
        (("one call", "per 20 tokens", "at most", "please"), "5%"),
        (("every second token", "at most", "you may ask"), "50%"),
        (("use", "less than half a second", "for each text"), "500 ms"),
        (("spend", "up to 2 cents", "per answer", "strictly"), "strictly 2 cents"),
        (("never", "more than twice", "please"), "twice"),
        (("ask", "as often as you like", "please"), "as often as you like"),
    ],
)
def test_order_of_phrases_does_not_matter(phrases: tuple[str, ...], canonical: str) -> None:
    for order in itertools.permutations(phrases):
        text = " ".join(order)
        if "never" in phrases and order.index("never") > order.index("more than twice"):
            text = text.replace("never", "you must never ask")
        assert parse(text) == parse(canonical), text


@given(st.sampled_from([text for text, _, _ in UNDERSTOOD]), st.data())
def test_case_and_space_do_not_matter(text: str, data: st.DataObject) -> None:
    changed = "".join(letter.upper() if data.draw(st.booleans()) else letter for letter in text)
    assert parse("  " + changed.replace(" ", " \n ") + " ") == parse(text)


JOINING = ("of", "in", "per", "every", "a", "an")  # before a number, as in "3 of 7"
# A limit stands before "as often as you like", and "hundred" makes one number of two.
NUMBERED = [text for text, _, limit in UNDERSTOOD if 0 < limit < math.inf and not re.search("hundred|dozen|half", text)]


@given(st.sampled_from(NUMBERED), st.sampled_from(["7", "7.25", "777%", "seventeen", "7 ms", "$7"]), st.data())
@settings(max_examples=300)
def test_no_second_number_is_overlooked(text: str, number: str, data: st.DataObject) -> None:
    words = text.split()
    places = [place for place in range(len(words) + 1) if place == 0 or words[place - 1] not in JOINING]
    place = data.draw(st.sampled_from(places))
    with pytest.raises(RuleError):
        parse(" ".join([*words[:place], number, *words[place:]]))


@given(
    st.sampled_from([text for text, _, _ in UNDERSTOOD]),
    st.sampled_from(["memory", "student", "zebra", "§", "at least"]),
)
def test_no_foreign_word_is_overlooked(text: str, word: str) -> None:
    for extended in (f"{text} {word}", f"{word} {text}"):
        with pytest.raises(RuleError):
            parse(extended)


_FRAGMENTS = [" ".join(words) for words in PHRASES] + "3 10% 0.1 one ten a tenth half 50 ms $ - , . : 1/3 7th".split()


@given(st.one_of(st.text(), st.lists(st.sampled_from(_FRAGMENTS), max_size=8).map(" ".join)))
@settings(max_examples=300)
def test_any_text_is_a_constraint_or_a_rule_error(text: str) -> None:
    try:
        constraint = parse(text)
    except RuleError:
        return
    assert parse(str(constraint)) == constraint


@given(st.text("0123456789.,e+-/%½ ", max_size=12), st.sampled_from(["%", " calls", " ms", " cents", " of the tokens"]))
@settings(max_examples=200)
def test_any_number_is_a_constraint_or_a_rule_error(number: str, unit: str) -> None:
    text = f"ask for at most {number}{unit}"
    with contextlib.suppress(RuleError):
        assert parse(str(parse(text))) == parse(text)


# Templates


def test_samples_stay_in_range_and_repeat_with_the_seed() -> None:
    quantities = tuple(Quantity)
    drawn = [sample(rng, quantities) for rng in [np.random.default_rng(3)] for _ in range(2000)]
    again = [sample(rng, quantities) for rng in [np.random.default_rng(3)] for _ in range(2000)]
    assert drawn == again
    assert {one.quantity for one in drawn} == set(Quantity)
    extremes = [one for one in drawn if one.limit == 0 or math.isinf(one.limit)]
    assert 0.05 < len(extremes) / len(drawn) < 0.13
    for one in drawn:
        low, high = RANGES[one.quantity]
        assert low <= one.limit <= high or one in extremes
    assert {sample(np.random.default_rng(seed)).quantity for seed in range(20)} == {Quantity.CALLS_PER_TOKEN}


@given(st.integers(0, 10**6))
def test_paraphrases_of_samples_are_read_back(seed: int) -> None:
    constraint = sample(np.random.default_rng(seed), tuple(Quantity))
    for sentence in paraphrases(constraint):
        assert parse(sentence) == constraint, sentence


@given(st.floats(0, 1), st.booleans())
def test_every_share_has_a_dozen_phrasings(share: float, hard: bool) -> None:
    constraint = Constraint(Quantity.CALLS_PER_TOKEN, share, hard)
    sentences = paraphrases(constraint)
    assert len(set(sentences)) >= 12
    assert all(parse(sentence) == constraint for sentence in sentences)


@pytest.mark.parametrize("tokens", [2, 3, 7, 10, 20, 64])
def test_one_in_so_many_tokens_has_its_own_phrasings(tokens: int) -> None:
    constraint = Constraint(Quantity.CALLS_PER_TOKEN, 1 / tokens)
    sentences = paraphrases(constraint)
    assert f"one call per {tokens} tokens" in sentences
    assert ("every third token at most" in sentences) == (tokens == 3)
    assert all(parse(sentence) == constraint for sentence in sentences)


def test_held_out_phrasings_are_apart_and_use_words_that_are_trained() -> None:
    every = [template for templates in [*PHRASINGS.values(), NEVER, ALWAYS] for template in templates]
    assert len(every) == len(set(every))
    assert set(HELD_OUT) < set(every)
    trained = [template for template in every if template not in HELD_OUT]
    assert set(" ".join(HELD_OUT).split()) <= set(" ".join(trained).split())
    constraint = Constraint(Quantity.CALLS_PER_TOKEN, 0.1)
    held_out, rest = paraphrases(constraint, held_out=True), paraphrases(constraint, held_out=False)
    assert held_out
    assert rest
    assert not set(held_out) & set(rest)
    assert sorted(held_out + rest) == sorted(paraphrases(constraint))


def test_the_shipped_tokenizer_knows_every_word_of_the_templates() -> None:
    rng = np.random.default_rng(0)
    drawn = [sample(rng, tuple(Quantity), extreme=0.2) for _ in range(300)]
    drawn += [Constraint(Quantity.CALLS_PER_TOKEN, 1 / tokens) for tokens in range(1, 101)]
    words = {word for constraint in drawn for sentence in paraphrases(constraint) for word in sentence.split()}
    tokenizer = Tokenizer.from_file(str(STUDENT / "tokenizer.json"))
    assert [word for word in sorted(words) if "<unk>" in tokenizer.encode(word).tokens] == []
