import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tw_env.tasks.metrics import METRICS, corpus, edit_distance, metric

WORDS = st.lists(st.sampled_from("abc"), max_size=6)
TEXTS = st.lists(st.sampled_from(["the", "cat", "sat", "é", "9"]), min_size=1, max_size=8).map(" ".join)


@pytest.mark.parametrize("name", METRICS)
@given(text=TEXTS | st.just(""), references=st.lists(TEXTS, min_size=1, max_size=3))
def test_scores_stay_in_the_unit_interval_and_more_references_never_hurt(name, text, references):
    score = metric(name)
    value = score(text, references)
    assert isinstance(value, float)
    assert 0.0 <= value <= 1.0
    if name != "bleu":  # BLEU pools the references' n-grams and takes the closest length
        assert score(text, [*references, "something else"]) >= value


@pytest.mark.parametrize("name", METRICS)
def test_a_reference_scores_one_and_an_empty_or_foreign_text_zero(name):
    score = metric(name)
    assert score("the cat sat on a mat", ["a dog", "the cat sat on a mat"]) == pytest.approx(1.0)
    assert score("", ["the cat sat"]) == 0.0
    assert score("xyz", ["the cat sat on"]) == pytest.approx(0.0)


def test_values_worked_out_by_hand():
    assert metric("edit")("a b x d", ["a b c d", "q"]) == pytest.approx(0.75)
    assert metric("edit")("a a a a a", ["b"]) == 0.0  # five edits on one token, floored
    assert metric("edit")("a b", ["a b c", "a b x y z"]) == pytest.approx(2 / 3)  # the closest reference counts
    assert metric("exact")(" HH  AH ", ["HH AH"]) == 1.0
    assert metric("exact")("hh ah", ["HH AH"]) == 0.0
    # LCS "the sat" of 3 and 4 words: precision 2/3, recall 2/4
    assert metric("rougeL")("the dog sat", ["the old cat sat"]) == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    # chrF of "ab" against "abc": unigrams 2/2 and 2/3, bigrams 1/1 and 1/2, averaged over both orders, beta 2
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    assert metric("chrf")("ab", ["abc"]) == pytest.approx(5 * precision * recall / (4 * precision + recall))
    # all n-grams match, so sentence BLEU is the brevity penalty alone
    assert metric("bleu")("the cat sat on", ["the cat sat on the"]) == pytest.approx(2.718281828459045 ** (1 - 5 / 4))


@given(left=WORDS, right=WORDS, middle=WORDS)
def test_edit_distance_is_a_metric(left, right, middle):
    distance = edit_distance(left, right)
    assert (distance == 0) == (left == right)
    assert distance == edit_distance(right, left)
    assert abs(len(left) - len(right)) <= distance <= max(len(left), len(right))
    assert distance <= edit_distance(left, middle) + edit_distance(middle, right)


def test_names_are_read_generously_and_scorers_are_built_once():
    assert metric("ROUGE-L") is metric("rougeL") is metric("rouge_l")
    assert metric("chrF") is metric("chrf")


def test_unknown_metric_lists_the_known_ones():
    for call in (lambda: metric("meteor"), lambda: corpus("meteor", ["a"], [["a"]])):
        with pytest.raises(ValueError, match=r"one of chrf, bleu, rouge1, rouge2, rougeL, exact, edit, got 'meteor'"):
            call()


@pytest.mark.parametrize(("name", "package"), [("chrf", "sacrebleu"), ("rougeL", "rouge_score")])
def test_a_missing_package_names_the_extra(name, package, monkeypatch):
    from tw_env.tasks import metrics

    metrics._sentence.cache_clear()
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'training-wheels\[metrics\]'"):
        metric(name)


def test_corpus_scores_pool_their_counts_and_carry_a_signature():
    texts, references = ["a b c d", "x"], [["a b c d"], ["y", "z"]]
    assert corpus("edit", texts, references).score == pytest.approx(1 - 1 / 5)  # the mean over texts is 0.5
    assert corpus("exact", texts, references).score == pytest.approx(0.5)
    assert corpus("rougeL", texts, references).score == pytest.approx(0.5)
    for name in ("bleu", "chrf"):
        result = corpus(name, texts, references)
        mean = sum(metric(name)(text, accepted) for text, accepted in zip(texts, references, strict=True)) / 2
        assert 0 < result.score < 1
        assert result.score != pytest.approx(mean)
        assert "version:" in result.signature
        assert result.signature in str(result)


@pytest.mark.parametrize(
    ("texts", "references"), [([], []), (["a"], []), (["a", "b"], [["a"]]), (["a", "b"], [["a"], []])]
)
def test_corpus_refuses_what_has_no_score(texts, references):
    with pytest.raises(ValueError, match="Expected"):
        corpus("edit", texts, references)


def test_rouge_by_hand():
    text, reference = "the dog sat", ["the old dog sat"]  # 3 words of 3 and 4; one pair of 2 and 3: "dog sat"
    assert metric("rouge1")(text, reference) == pytest.approx(2 * 1.0 * 0.75 / 1.75)
    assert metric("ROUGE-2")(text, reference) == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert metric("rouge1")("sat dog", ["dog sat"]) == 1.0
    assert metric("rougeL")("sat dog", ["dog sat"]) == 0.5
    assert corpus("rouge2", [text], [reference]).signature.startswith("rouge2|agg:mean|stem:yes")
