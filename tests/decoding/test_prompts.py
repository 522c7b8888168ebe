"""Prompts as token ids: end tokens kept for encoders and cut for causal models, turns of a chat, and room."""

from __future__ import annotations

import pytest

from tests.families import END, VOCABULARY, closing_tokenizer, source_pair
from tests.letters import Letters, Watched, names_of
from tests.tiny import tiny_names, tiny_pair
from tw_env.decoding.loading import Pair, load_model, load_pair, register_model
from tw_env.decoding.prompts import check_rooms, encode
from tw_env.testing.pairs import check_pair

TEMPLATE = "{% for m in messages %}a {{ m.content }} b {% endfor %}{% if add_generation_prompt %}c d{% endif %}"


def closing_pair(template: str | None = None) -> Pair:
    """The tiny causal pair with a tokenizer that closes every text, and perhaps a chat template."""
    names = []
    for name in tiny_names(tiny_pair(vocabulary=VOCABULARY)):
        tokenizer = closing_tokenizer(VOCABULARY)
        tokenizer.chat_template = template
        names.append(f"{name}-closing-{template is not None}")
        register_model(names[-1], load_model(name), tokenizer)
    return load_pair(*names)


def test_the_end_token_stays_on_sources_alone() -> None:
    assert encode(["a b", "c"], source_pair("t5")) == [(2, 3, END), (4, END)]
    assert encode(["a b", "c"], closing_pair()) == [(2, 3), (4,)]


def test_a_chat_is_the_users_turn_in_the_template() -> None:
    pair = closing_pair(TEMPLATE)
    assert encode(["e f"], pair, chat=True) == [tuple(pair.tokenizer.convert_tokens_to_ids(list("aefbcd")))]
    env = Watched(2, **names_of(pair), task=Letters(["e f", "g"]), chat=True)
    env.reset(seed=0, options={"prompts": [0, 1]})
    assert env.game.texts.prompt_length.tolist() == [6, 5]


def test_chats_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"chat template for chat=True; that of memory:.* has none"):
        encode(["a"], closing_pair(), chat=True)
    with pytest.raises(ValueError, match="chat=False for encoder-decoders"):
        encode(["a"], source_pair("t5"), chat=True)
    with pytest.raises(ValueError, match="chat to be True or False"):
        Watched(1, **names_of(closing_pair()), task=Letters(), chat="yes")


def test_source_and_text_need_room_each() -> None:
    pair = source_pair("bart")  # 24 positions, an opening of two tokens
    check_rooms([(2,) * 24], pair, 22)
    with pytest.raises(ValueError, match="within the 24 positions of bart each; prompt 1 has 25 tokens"):
        check_rooms([(2,), (2,) * 25], pair, 3)
    with pytest.raises(ValueError, match="prompt 0 has 1 tokens and the cap on new tokens is 23"):
        check_rooms([(2,)], pair, 23)
    check_rooms([(2,) * 500], source_pair("t5"), 500)


@pytest.mark.parametrize("kind", ["t5", "bart", "marian"])
def test_encoder_decoders_pass_the_check_of_pairs(kind: str) -> None:
    pair = source_pair(kind)
    check_pair(*tiny_names(pair))
