"""Bad input to `assisted`: what was expected, what came, how to mend it; and the options that change nothing."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tests.families import family
from tests.letters import Letters, Watched, names_of, pair_of
from tests.tiny import tiny_pair, tiny_tokenizer
from tw_env.decoding.loading import Pair
from tw_env.generate import assisted
from tw_env.generate.options import DEFAULT_NEW_TOKENS, cap_of
from tw_env.policies import ScoreThreshold, teacher_alone
from tw_env.rules import Constraint, Quantity

CAP = 6


def write(**options: Any) -> torch.Tensor:
    """Two texts of the tiny pair."""
    pair: Pair = pair_of()
    pair.tokenizer.padding_side = "left"
    inputs = dict(pair.tokenizer(["a b c", "b"], padding=True, return_tensors="pt", return_token_type_ids=False))
    defaults = {"max_new_tokens": CAP, "teacher": pair.teacher, "policy": "speculative"}
    door = partial(assisted, tokenizer=options.pop("tokenizer", pair.tokenizer))
    return pair.student.generate(**(inputs | defaults | {"custom_generate": door} | options))


def refused(*fragments: str, kind: type[Exception] = ValueError, **options: Any) -> None:
    with pytest.raises(kind) as error:
        write(**options)
    missing = [fragment for fragment in fragments if fragment not in str(error.value)]
    assert not missing, str(error.value)


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"num_beams": 2}, ("greedy decoding or sampling, got beam_search", "Supported are max_new_tokens")),
        ({"do_sample": True, "temperature": 0.7, "top_k": 0}, ("TemperatureLogitsWarper", "temperature=1.0")),
        ({"do_sample": True, "top_k": 3}, ("TopKLogitsWarper", "top_k=0")),
        ({"do_sample": True, "top_k": 0, "top_p": 0.9}, ("TopPLogitsWarper", "top_p=1.0")),
        ({"repetition_penalty": 1.2}, ("RepetitionPenaltyLogitsProcessor", "repetition_penalty=1.0")),
        ({"min_new_tokens": 2}, ("MinNewTokensLengthLogitsProcessor", "neutral values")),
        ({"prefix_allowed_tokens_fn": lambda row, ids: [0]}, ("PrefixConstrainedLogitsProcessor",)),
        ({"max_time": 3.0}, ("stop at a length or an end token", "MaxTimeCriteria")),
        ({"return_dict_in_generate": True, "output_scores": True}, ("no record", "output_scores", "Leave them out")),
        ({"eos_token_id": 99}, ("eos_token_id among ids 0 to 10", "99")),
    ],
)
def test_options_of_generate(options: dict[str, Any], fragments: tuple[str, ...]) -> None:
    refused(*fragments, **options)


def test_options_that_change_nothing_are_followed() -> None:
    plain = write()
    assert torch.equal(write(num_beams=1, repetition_penalty=1.0, use_cache=False), plain)
    assert torch.equal(write(max_new_tokens=None, max_length=3 + CAP), plain)
    assert write(do_sample=True, top_k=50, seed=1).shape[0] == 2, "a top-k of the whole vocabulary"


def test_an_assistant_beside_the_teacher() -> None:
    refused("no assistant_model", "Leave it out", assistant_model=pair_of().student)


def test_a_stream_of_two_texts() -> None:
    class Deaf:
        def put(self, value: torch.Tensor) -> None: ...
        def end(self) -> None: ...

    refused("one prompt to stream", "got 2", streamer=Deaf())


@pytest.mark.parametrize(
    ("prompts", "fragments"),
    [
        ({"attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}, ("on the left only", "padding_side = 'left'")),
        ({"attention_mask": torch.tensor([[1, 1, 1], [1, 0, 1]])}, ("on the left only",)),
        ({"attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}, ("tokens in every prompt", "prompt 1")),
        ({"input_ids": torch.tensor([[2, 3, 4]] * 2), "attention_mask": None, "max_new_tokens": 30},
         ("within the 20 positions of llama", "3 tokens", "30")),
    ],
)  # fmt: skip
def test_prompts(prompts: dict[str, Any], fragments: tuple[str, ...]) -> None:
    refused(*fragments, **prompts)


def test_encoder_decoders_keep_their_own_conventions() -> None:
    inputs = torch.tensor([[3, 4, 5]])
    for teacher, options, message in (
        (family("marian", seed=1), {"bad_words_ids": [[3]]}, r"own bad_words_ids, \[\[12\]\]; got \[\[3\]\]"),
        (family("marian", seed=1), {"no_repeat_ngram_size": 2}, "NoRepeatNGramLogitsProcessor"),
        (family("bart"), {}, "begin and end their texts alike"),
        (pair_of().teacher, {}, "of one kind"),
    ):
        with pytest.raises(ValueError, match=message):
            family("marian").generate(
                inputs, custom_generate=partial(assisted, tokenizer=tiny_tokenizer(13)), teacher=teacher,
                policy="speculative", max_new_tokens=CAP, **options,
            )  # fmt: skip


def test_embedded_prompts() -> None:
    refused("prompts as input_ids", input_ids=None, attention_mask=None, inputs_embeds=torch.zeros(2, 3, 16).double())


@pytest.mark.parametrize(
    ("options", "kind", "fragments"),
    [
        ({"teacher": None}, ValueError, ("a teacher to ask", "teacher=")),
        ({"teacher": "/no/such/folder"}, ValueError, ("model folder or a hub id", "/no/such/folder")),
        ({"policy": None}, ValueError, ("without an ask token", "'pronounce-pcl'", "'speculative'")),
        ({"policy": "nowhere"}, FileNotFoundError, ("nowhere", "pronounce-pcl")),
        ({"policy": 3}, TypeError, ("predict, layout and actions", "int lacks")),
        ({"policy": "ask-token"}, ValueError, ("ask token of its own",)),
        ({"rule": "ask at least twice"}, ValueError, ("lower",)),
        ({"rule": ["never"] * 3}, ValueError, ("one for each of the 2 texts", "got 3")),
        ({"rule": "sample"}, ValueError, ("one rule", "'sample'")),
        ({"rule": "at most 50 ms per output"}, ValueError, ("needs a latency table",)),
        ({"rule": "at most 2 cents per text"}, ValueError, ("needs prices",)),
        ({"words": "rarely"}, ValueError, ("reads no rules", "'rarely'")),
        ({"accept": "always"}, ValueError, ("'exact'", "'always'")),
    ],
)
def test_teachers_policies_and_rules(
    options: dict[str, Any], kind: type[Exception], fragments: tuple[str, ...]
) -> None:
    refused(*fragments, kind=kind, **options)


def test_misspelt_options_are_refused_by_generate() -> None:
    refused("polcy", polcy="speculative")


def test_models_that_do_not_fit() -> None:
    other = tiny_pair(vocabulary=9)
    refused("same vocabulary", "11 tokens", "9", teacher=names_of(other)["teacher"])
    refused("Expected a tokenizer", "partial(assisted, tokenizer=tokenizer)", tokenizer=None)
    training = copy.deepcopy(pair_of().teacher).train()
    refused("evaluation mode", "model.eval()", teacher=training)


def test_policies_that_were_made_for_another_game() -> None:
    pair = pair_of()
    env = Watched(1, **names_of(pair), task=Letters(max_new_tokens=CAP + 2), hidden=True, actions="SELF/ASK")
    policy = teacher_alone(env.layout, env.game.spec.actions)
    refused(f"max_new_tokens={CAP + 2}", f"got {CAP}", policy=policy)
    assert write(policy=policy, max_new_tokens=CAP + 2).shape[0] == 2
    thin = [feature for feature in env.layout.features if feature.name != "left"]
    less = type(env.layout).restore(env.layout.record() | {"features": [vars(feature) for feature in thin]})
    other = ScoreThreshold(less, env.game.spec.actions, "p_max", 0.5, env.game.spec.actions[-1])
    refused("1 numbers of left", "nothing more", policy=other, max_new_tokens=CAP + 2)


def test_the_cap_is_the_named_length_or_the_one_that_the_policy_was_made_for() -> None:
    unnamed = GenerationConfig(max_length=7 + DEFAULT_NEW_TOKENS)
    assert cap_of(unnamed, 7, None, None) == DEFAULT_NEW_TOKENS
    assert cap_of(unnamed, 7, None, 24) == 24
    assert cap_of(GenerationConfig(max_length=20), 7, 20, 24) == 24, "generate never exceeds the positions by itself"
    assert cap_of(GenerationConfig(max_length=31), 7, None, 24) == 24
    assert cap_of(GenerationConfig(max_new_tokens=24, max_length=31), 7, None, 24) == 24
    with pytest.raises(ValueError, match="max_new_tokens=24, for which this policy was made"):
        cap_of(GenerationConfig(max_new_tokens=20), 7, None, 24)
    with pytest.raises(ValueError, match="room for a new token"):
        cap_of(GenerationConfig(max_length=7), 7, None, None)


def test_rules_as_constraints_and_other_end_tokens() -> None:
    limit = Constraint(Quantity.CALLS, 1, hard=True)
    out = write(rule=limit, policy="teacher", return_dict_in_generate=True)
    assert out.calls.tolist() == [1, 1]
    ids = write(policy="teacher", eos_token_id=[0, 3], pad_token_id=1)[:, 3:].tolist()
    for row in ids:
        text = [token for token in row if token != 1]
        assert len(text) == CAP or text[-1] in (0, 3)
        assert not {0, 3} & set(text[:-1])
