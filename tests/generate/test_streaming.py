"""What streams while a text is written, and when."""

from __future__ import annotations

import io
from collections import Counter
from functools import partial
from threading import Thread
from typing import Any

import pytest
import torch
from transformers import TextIteratorStreamer

from tests.generate.door import CAP, alone, texts_of, write
from tests.letters import PROMPTS, Letters, Watched, names_of, pair_of
from tw_env import policies
from tw_env.generate import MarkedStreamer, assisted
from tw_env.policies import Policy, speculative
from tw_env.render import marked


class Heard:
    """A streamer that keeps what it hears."""

    def __init__(self) -> None:
        self.parts: list[list[int]] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        assert not self.ended
        self.parts.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


class Listening(Policy):
    """Plays another policy and notes down how many tokens were told at each decision."""

    def __init__(self, other: Policy, heard: Heard) -> None:
        super().__init__(other.layout, other.actions)
        self.other, self.heard, self.told = other, heard, []

    def choose(self, observations: Any, deterministic: bool, masks: Any) -> Any:
        self.told.append(len(self.heard.parts) - 1)
        return self.other.choose(observations, deterministic, masks)


@pytest.mark.parametrize("bound", [False, True], ids=["given to generate", "bound"])
@pytest.mark.parametrize("policy", ["student", "speculative-2", "teacher"])
def test_what_streams_is_the_prompt_and_then_the_final_text(policy: str, bound: bool) -> None:
    pair = pair_of()
    for prompt in PROMPTS:
        heard = Heard()
        how = {"door": partial(assisted, streamer=heard)} if bound else {"streamer": heard}
        out = write(pair, [prompt], policy=policy, **how)
        assert heard.ended == 1
        assert heard.parts[0] == pair.tokenizer(prompt).input_ids
        assert all(len(part) == 1 for part in heard.parts[1:])
        assert tuple(part[0] for part in heard.parts[1:]) == texts_of(out)[0]


def test_tokens_stream_once_no_call_can_take_them_back() -> None:
    pair = pair_of()
    env = Watched(1, **names_of(pair), task=Letters(max_new_tokens=CAP), actions="SELF/VERIFY")
    asks = Watched(1, **names_of(pair), task=Letters(max_new_tokens=CAP), actions="SELF/ASK")
    lags = Counter()
    for prompt in PROMPTS:
        heard = Heard()
        policy = Listening(speculative(env.layout, env.game.spec.actions, 2), heard)
        length = len(texts_of(write(pair, [prompt], policy=policy, streamer=heard))[0])
        assert policy.told == sorted(policy.told)
        lags.update(0 < told < length for told in policy.told)
        heard = Heard()
        policy = Listening(policies.random_calls(asks.layout, asks.game.spec.actions, 0.3), heard)
        length = len(texts_of(write(pair, [prompt], policy=policy, streamer=heard))[0])
        assert policy.told == list(range(length)), "without VERIFY every token is certain at once"
    assert lags[True] > len(PROMPTS), "some tokens stream before the text ends"


@pytest.mark.parametrize("policy", ["student", "speculative-2", "teacher"])
def test_a_marked_stream_shows_the_writers_of_the_final_text(policy: str) -> None:
    pair, file = pair_of(), io.StringIO()
    streamer, expected = MarkedStreamer(pair.tokenizer, colour=False, file=file), ""
    for prompt in PROMPTS:
        out = write(pair, [prompt], policy=policy, streamer=streamer)
        expected += marked(pair.tokenizer, texts_of(out)[0], out.writers[0].tolist(), colour=False) + "\n"
    assert file.getvalue() == expected


def test_transformers_own_streamer_yields_the_text() -> None:
    pair = pair_of()
    streamer = TextIteratorStreamer(pair.tokenizer, skip_prompt=True, timeout=30, skip_special_tokens=True)
    thread = Thread(target=write, args=(pair, ["a b c"]), kwargs={"streamer": streamer})
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == pair.tokenizer.decode(alone(pair.teacher, pair, ["a b c"])[0], skip_special_tokens=True)
