"""A student in memory and a teacher by model, folder or hub id, as a pair; nothing about the student is changed."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tw_env.decoding.checks import end_tokens_of, shared_vocabulary
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
        ValueError: no teacher, no tokenizer, vocabularies or end tokens that differ, two devices, and what
            `tw_env.decoding.loading.load_model` refuses.
    """
    if teacher is None:
        raise ValueError("Expected a teacher to ask, got none. Give teacher=, a model or its folder or hub id.")
    origin = teacher.name_or_path if isinstance(teacher, PreTrainedModel) else str(teacher)
    if not isinstance(teacher, PreTrainedModel):
        teacher = load_model(origin, str(student.device), str(student.dtype).removeprefix("torch."))
    if student.device != teacher.device:
        raise ValueError(
            f"Expected student and teacher on one device; got {student.device} and {teacher.device}. Move either."
        )
    tokenizers = _tokenizers(student.name_or_path, origin, tokenizer)
    names = student.name_or_path or "the student", origin or "the teacher"
    of_student = _KNOWN.setdefault(student, WeakKeyDictionary())
    if teacher not in of_student:
        models = student, teacher
        vocabulary = shared_vocabulary(models, tokenizers, names)
        of_student[teacher] = vocabulary, end_tokens_of(models, tokenizers, names, vocabulary)
    return Pair(student, teacher, tokenizers[0], *of_student[teacher], " < ".join(names))


def _tokenizers(
    student: str, teacher: str, given: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """The student's and the teacher's; one that can't be found is taken to be the other's."""
    own = given if given is not None else load_tokenizer(student) if student else None
    theirs = load_tokenizer(teacher) if teacher else own
    own = theirs if own is None else own
    if own is None or theirs is None:
        raise ValueError(
            "Expected a tokenizer, got two models in memory that came from no folder. Bind it: "
            "custom_generate=partial(assisted, tokenizer=tokenizer)."
        )
    return own, theirs
