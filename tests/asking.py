"""Tiny pairs whose students have ask tokens and read rules before their prompts."""

from functools import cache

import torch

from agents.joint.reading import Texts
from agents.joint.student import asking_student, start_asking
from tests.families import END, source_pair
from tests.tiny import tiny_names, tiny_pair
from tw_env.decoding.loading import Pair, load_model, load_pair, load_tokenizer, register_model

POSITIONS = 80  # room for rules


@cache
def asking_pair(rate: float = 0.3, doubt: float = 0.0) -> Pair:
    """A pair whose student asks at about this rate; its vocabulary has few words, so rules are mostly unknown ones."""
    names = tiny_names(tiny_pair(positions=POSITIONS))
    model, tokenizer = asking_student(load_model(names[0]), load_tokenizer(names[0]), reasons=4, doubt=doubt)
    texts = [torch.randint(2, 11, (12,), generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(20)]
    start_asking(model, Texts([text[:4] for text in texts], [text[4:] for text in texts]), rate)
    name = f"memory:asking-{rate}-{doubt}"
    register_model(name, model, tokenizer)
    return load_pair(name, names[1])


@cache
def asking_source_pair(kind: str, rate: float = 0.3) -> Pair:
    """The same of an encoder-decoder family of `tests.families`."""
    names = tiny_names(source_pair(kind, POSITIONS))
    model, tokenizer = asking_student(load_model(names[0]), load_tokenizer(names[0]), reasons=4)
    drawn = [torch.randint(2, 12, (9,), generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(20)]
    start_asking(model, Texts([[*text[:4], END] for text in drawn], [text[4:] for text in drawn]), rate)
    name = f"memory:asking-{kind}-{rate}"
    register_model(name, model, tokenizer)
    return load_pair(name, names[1])
