"""A student in memory and a teacher by model, folder or hub id, as a pair; nothing about the student is changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tw_env.decoding.checks import check_kinds, end_tokens_of, shared_vocabulary
from tw_env.decoding.loading import Pair, load_model, load_tokenizer

Facts = tuple[int, tuple[int, ...]]  # shared vocabulary, end tokens

# Comparing two vocabularies of 50,000 tokens takes longer than writing some texts: once for two models is enough.
_KNOWN: WeakKeyDictionary[PreTrainedModel, WeakKeyDictionary[PreTrainedModel, Facts]] = WeakKeyDictionary()


def pair_of(
    student: PreTrainedModel, teacher: PreTrainedModel | str | Path | None, tokenizer: PreTrainedTokenizerBase | None
) -> Pair:
    """The two as a pair.

    Args:
        teacher: a model, or a folder or hub id, which is loaded once per process, to the student's device and dtype.
        tokenizer: the student's; None loads it from where the student came from, else takes the teacher's.

    Raises:
        ValueError: no teacher, no tokenizer, kinds, vocabularies or end tokens that differ, two devices, and what
            `tw_env.decoding.loading.load_model` refuses.
    """
    if teacher is None:
        raise ValueError("Expected a teacher to ask, got none. Give teacher=, a model or its folder or hub id.")
    origin = teacher.name_or_path if isinstance(teacher, PreTrainedModel) else str(teacher)
    big: Any = teacher
    if isinstance(teacher, str | Path):
        big = load_model(origin, str(student.device), str(student.dtype).removeprefix("torch."))
    if student.device != big.device:
        raise ValueError(
            f"Expected student and teacher on one device; got {student.device} and {big.device}. Move either."
        )
    own = load_tokenizer(student.name_or_path) if tokenizer is None and student.name_or_path else tokenizer
    theirs = load_tokenizer(origin) if origin else None
    if own is None and theirs is None:
        raise ValueError(
            "Expected a tokenizer, got two models in memory that came from no folder. Bind it: "
            "custom_generate=partial(assisted, tokenizer=tokenizer)."
        )
    own = cast(PreTrainedTokenizerBase, theirs if own is None else own)
    of_student = _KNOWN.setdefault(student, WeakKeyDictionary())
    names = student.name_or_path or "the student", origin or "the teacher"
    if big not in of_student:
        models, tokenizers = (student, big), (own, theirs or _shared_part(own, student))
        check_kinds(models, names)
        vocabulary = shared_vocabulary(models, tokenizers, names)
        of_student[big] = vocabulary, end_tokens_of(models, tokenizers, names, vocabulary)
    return Pair(student, big, own, *of_student[big], " < ".join(names))


def _shared_part(tokenizer: PreTrainedTokenizerBase, student: PreTrainedModel) -> Any:
    """What a teacher that came from no folder is taken to read by: the student's tokenizer, without its own tokens."""
    own = set(getattr(student.config, "student_tokens", None) or ())
    known = {token: place for token, place in tokenizer.get_vocab().items() if token not in own}
    return SimpleNamespace(get_vocab=lambda: known, eos_token_id=tokenizer.eos_token_id)
