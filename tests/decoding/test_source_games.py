"""The game with encoder-decoders: beside the slow reference, and greedy play against transformers' `generate`."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tests import test_game
from tests.families import END, MAIN, source_pair, states_of
from tests.letters import PROMPTS, Letters, Policy, Watched, always, draft, first_texts, names_of, quality_of
from tests.reference import Context, Episode, Models
from tests.test_game import PLAIN, Play, Rival, compare
from tw_env.decoding.conventions import conventions_of
from tw_env.decoding.loading import Pair
from tw_env.rules import Constraint, Quantity

CAP = 8


class SourceModels(Models):
    """As `Models`, where a context is a source up to its end token, then the opening and the text."""

    def __init__(self, pair: Pair, cap: int) -> None:
        super().__init__(pair.student, pair.teacher, pair.vocabulary)
        self.cap = cap

    def _ask(self, name: str, context: Context) -> tuple[list[float], list[float]]:
        if (name, context) not in self._known:
            model, split = self._models[name], context.index(END) + 1
            source, text, own = context[:split], context[split:], conventions_of(model)
            with torch.inference_mode():
                logits = model(torch.tensor([source]), decoder_input_ids=torch.tensor([text])).logits[0, -1]
                logits[list(own.never)] = -1e4
                if own.last is not None and len(text) - len(own.opening) == self.cap - 1:
                    logits[:] = -1e4
                    logits[own.last] = 0.0
            logprobs = logits[: self.vocabulary].log_softmax(-1).tolist()
            self._known[name, context] = logprobs, states_of(model, list(source), list(text))[-1].tolist()
        return self._known[name, context]


class SourceRival(Rival):
    """The reference's side, its prompts the sources with the opening behind them."""

    def begin(self, row: int) -> Episode:
        generator = self.generators[row]
        index = self.prompt[row] = int(generator.random() * len(self.task.prompts))
        rule = self.rules[int(generator.integers(len(self.rules)))] if len(self.rules) > 1 else self.rules[0]
        ids = (*self.pair.tokenizer(self.task.prompts[index]).input_ids, *self.pair.conventions.opening)
        quality = partial(quality_of, self.task, index, self.pair)
        return Episode(self.models, self.spec, ids, rule, generator, quality)


@pytest.mark.parametrize("kind", MAIN)
@pytest.mark.parametrize(
    "more",
    [
        {"decoding": "greedy", "remember": 0, "hidden": True},
        {"decoding": "greedy", "remember": 10_000, "scoring": "eager"},
        {"decoding": "sampling", "reward": {"kl": 0.5, "expected_kl": 0.25, "quality": 1.0}, "scoring": "lazy"},
        {"decoding": "sampling", "actions": "SELF/ASK"},
    ],
)
def test_random_play_equals_the_reference(kind: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_game, "Rival", SourceRival)
    monkeypatch.setattr(test_game, "pair_of", source_pair)
    monkeypatch.setattr(test_game, "models_of", lambda pair: SourceModels(pair, PLAIN["max_new_tokens"]))
    rules = [Constraint(Quantity.CALLS_PER_TOKEN, 0.4), Constraint(Quantity.LATENCY_MS, 40.0, True)]
    arguments = PLAIN | {"rule": rules, "hidden": False, "max_episode_steps": None} | more
    count = arguments["actions"].count("/") + 1
    moves = np.random.default_rng(5).choice(count, size=(30, 3), p=[0.5, 0.1, 0.4][:count] if count == 3 else None)
    play = Play(arguments, moves.tolist(), pair={"kind": kind})
    compare(play)


@cache
def generated(model: PreTrainedModel, source: tuple[int, ...], cap: int) -> tuple[int, ...]:
    """What `generate` writes behind the opening, token by token the likeliest."""
    ids, opening = torch.tensor([source]), conventions_of(model).opening
    with torch.inference_mode():
        text = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1,
            max_new_tokens=cap + len(opening) - 1,
        )[0].tolist()  # fmt: skip
    assert tuple(text[: len(opening)]) == opening
    return tuple(text[len(opening) :])


def check(kind: str, policy: Policy, who: str, **arguments: Any) -> None:
    pair, task = source_pair(kind), Letters(max_new_tokens=CAP)
    env = Watched(len(PROMPTS), **names_of(pair), task=task, rule="ask as often as you like", **arguments)
    texts, _ = first_texts(env, policy, seed=0, options={"prompts": range(env.num_envs)})
    sources = pair.tokenizer(task.prompts).input_ids
    assert texts == [generated(getattr(pair, who), tuple(source), CAP) for source in sources]


@pytest.mark.parametrize("remember", [0, 10_000])
@pytest.mark.parametrize("kind", MAIN)
def test_student_alone(kind: str, remember: int) -> None:
    check(kind, always(0), "student", remember=remember)


@pytest.mark.parametrize("actions", ["SELF/ASK", "SELF/VERIFY"])
@pytest.mark.parametrize("kind", MAIN)
def test_teacher_alone(kind: str, actions: str) -> None:
    check(kind, always(1), "teacher", actions=actions)


@pytest.mark.parametrize("remember", [0, 10_000])
@pytest.mark.parametrize("length", [1, 3, CAP])
@pytest.mark.parametrize("kind", MAIN)
def test_verified_drafts_are_the_teachers_text(kind: str, length: int, remember: int) -> None:
    check(kind, draft(length), "teacher", actions="SELF/VERIFY", remember=remember)


def test_the_pairs_show_what_is_tested() -> None:
    """The models of every pair differ; some texts end before the cap while others reach it."""
    lengths: set[int] = set()
    for kind in MAIN:
        pair = source_pair(kind)
        sources = [tuple(source) for source in pair.tokenizer(list(PROMPTS)).input_ids]
        assert all(source[-1] == END for source in sources)
        texts = [[generated(model, source, CAP) for source in sources] for model in (pair.student, pair.teacher)]
        assert sum(own != other for own, other in zip(*texts, strict=True)) >= 3
        lengths |= {len(text) for one in texts for text in one}
    assert len(lengths) > 2
    assert max(lengths) == CAP


def test_a_call_reads_the_source_the_first_time() -> None:
    pair = source_pair("bart")
    latency = {"student_ms": 1.0, "teacher_ms": 10.0, "teacher_ms_per_token": 1.0}
    env = Watched(1, **names_of(pair), task=Letters(), latency=latency, rule="at most 500 ms")
    env.reset(seed=0, options={"prompts": [4]})  # a b c and the end token; the opening has two tokens
    _, _, _, _, infos = env.step(np.array([1]))
    assert infos["cost"][0] == pytest.approx(1.0 + 10.0 + (6 - 1) * 1.0)
