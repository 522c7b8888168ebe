"""The tiny pair, its student with an ask token and rules before its prompts."""

from functools import cache

import torch

from agents.joint.student import asking_student, start_asking
from tests.tiny import tiny_names, tiny_pair
from tw_env.decoding.loading import Pair, load_model, load_pair, load_tokenizer, register_model


@cache
def asking_pair(rate: float = 0.3) -> Pair:
    """A pair whose student asks at about this rate; its vocabulary has few words, so rules are mostly unknown ones."""
    names = tiny_names(tiny_pair(positions=80))
    model, tokenizer = asking_student(load_model(names[0]), load_tokenizer(names[0]), reasons=4)
    texts = [torch.randint(2, 11, (12,), generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(20)]
    start_asking(model, texts, [4] * len(texts), rate)
    name = f"memory:asking-{rate}"
    register_model(name, model, tokenizer)
    return load_pair(name, names[1])
