"""What a pair must agree on, and what a weight file must be: refusals that name the file, token or id."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tw_env.decoding.conventions import conventions_of

Models = tuple[PreTrainedModel, PreTrainedModel]  # student, teacher
Tokenizers = tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]
Names = tuple[str, str]

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
INDEX = "model.safetensors.index.json"


def check_weights(name: str, folder: Path) -> None:
    """Raises ValueError if the weight files in `folder` are pickled only, damaged or incomplete. No file at
    all is left to the reader of the weights, who may still fetch them.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
        if pickled:
            raise ValueError(
                f"Expected weights as safetensors in {name!r}; found {', '.join(pickled)}, which can run "
                "code when read. Convert them where you trust them: model.save_pretrained(folder)."
            )
        return
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"Expected a whole safetensors file; {str(file)!r} ({file.stat().st_size} bytes) is damaged "
                f"or cut off: {error}. Delete it and fetch or save it again."
            ) from error
    index = folder / INDEX
    if index.is_file() and not (folder / "model.safetensors").is_file():
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(part for part in parts if not (folder / part).is_file())
        if missing:
            raise ValueError(
                f"Expected {len(parts)} weight files as listed in {str(index)!r}; missing: "
                f"{', '.join(missing)}. Fetch or copy them too."
            )


def check_kinds(models: Models, names: Names) -> None:
    """Raises ValueError unless both are decoder-only, or both encoder-decoders that begin and end alike."""
    kinds = ["an encoder-decoder" if model.config.is_encoder_decoder else "decoder-only" for model in models]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"Expected student and teacher of one kind; {names[0]!r} is {kinds[0]}, {names[1]!r} is {kinds[1]}. "
            "Choose two causal models or two encoder-decoders."
        )
    student, teacher = map(conventions_of, models)
    if student != teacher:
        raise ValueError(
            f"Expected student and teacher to begin and end their texts alike; {names[0]!r} has {student}, "
            f"{names[1]!r} has {teacher}. Set decoder_start_token_id, forced_bos_token_id, forced_eos_token_id and "
            "bad_words_ids alike in both generation_config.json."
        )


def check_room(model: PreTrainedModel, prompt: int, new: int, which: str = "the longest prompt") -> None:
    """Raises ValueError if a model has no positions for a prompt of so many tokens and `new` tokens more.

    Args:
        which: prompt this is, for the message.
    """
    room = getattr(model.config, "max_position_embeddings", None)
    if room is None:
        return
    kind = f"{room} positions of {model.config.model_type}"
    if not model.config.is_encoder_decoder:
        if prompt + new > room:
            raise ValueError(
                f"Expected prompt and new tokens within the {kind}; {which} has {prompt} tokens and the cap on new "
                f"tokens is {new}. Shorten either."
            )
    elif prompt > room or len(conventions_of(model).opening) + new > room:
        raise ValueError(
            f"Expected a source, and what is written, within the {kind} each; {which} has {prompt} tokens and the cap "
            f"on new tokens is {new}. Shorten the one that is too long."
        )


def shared_vocabulary(models: Models, tokenizers: Tokenizers, names: Names) -> int:
    """How many token ids student and teacher share.

    Padding rows at the end of the embeddings may differ in number; tokens that the student's config lists in
    `student_tokens` are its own and must come after all shared ids.

    Raises:
        ValueError: vocabulary maps that differ, or an id beyond a model's vocabulary.
    """
    own = list(getattr(models[0].config, "student_tokens", None) or ())
    shared, teacher = dict(tokenizers[0].get_vocab()), dict(tokenizers[1].get_vocab())
    sizes = [model.config.get_text_config(decoder=True).vocab_size for model in models]
    own_ids = sorted(shared.pop(token) for token in own if token in shared)
    if shared != teacher:
        raise ValueError(_difference(shared, teacher, names, sizes))
    last = max(shared.values(), default=-1)
    if len(own_ids) < len(own) or (own_ids and own_ids[0] <= last):
        raise ValueError(
            f"Expected the student's own tokens {own} after the {last + 1} shared ids of its tokenizer; "
            f"got ids {own_ids}. Add them last, with tokenizer.add_tokens."
        )
    for name, size in zip(names, sizes, strict=True):
        if last >= size:
            raise ValueError(
                f"Expected a model that knows every id of its tokenizer, 0 to {last}; {name!r} has a "
                f"vocabulary of {size}. Take the tokenizer that belongs to it, or resize its embeddings."
            )
    return min([*sizes, *own_ids[:1]])


def _difference(student: dict[str, int], teacher: dict[str, int], names: Names, sizes: list[int]) -> str:
    differing = [token for token in student | teacher if student.get(token) != teacher.get(token)]
    token = min(differing, key=lambda each: student.get(each, teacher.get(each, 0)))
    return (
        f"Expected student and teacher with the same vocabulary; {names[0]!r} has {len(student)} tokens "
        f"(model: {sizes[0]}), {names[1]!r} has {len(teacher)} (model: {sizes[1]}), and {len(differing)} "
        f"differ, such as {token!r}: id {student.get(token)} and id {teacher.get(token)}. Choose two models "
        "of one family; tokens of the student alone go last and are listed in its config as student_tokens."
    )


def end_tokens_of(models: Models, tokenizers: Tokenizers, names: Names, vocabulary: int) -> tuple[int, ...]:
    """The ids that end a text, ascending, the same for both models.

    Taken from the generation config, else the config, else the tokenizer.

    Raises:
        ValueError: none, ids outside the shared vocabulary, or different ones for the two.
    """
    ends = [_ends(model, tokenizer) for model, tokenizer in zip(models, tokenizers, strict=True)]
    mend = "Set eos_token_id in its generation_config.json."
    for name, ids in zip(names, ends, strict=True):
        if not ids:
            raise ValueError(f"Expected a model with an end token; {name!r} names none. {mend}")
        if ids[0] < 0 or ids[-1] >= vocabulary:
            raise ValueError(f"Expected end tokens among ids 0 to {vocabulary - 1}; {name!r} has {ids}. {mend}")
    if ends[0] != ends[1]:
        raise ValueError(
            f"Expected the same end tokens for both; {names[0]!r} has {ends[0]}, {names[1]!r} has {ends[1]}. "
            "Set eos_token_id alike in both generation_config.json."
        )
    return ends[0]


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    generation = getattr(model, "generation_config", None)
    for holder in (generation, model.config.get_text_config(decoder=True), tokenizer):
        found = getattr(holder, "eos_token_id", None)
        if found is not None and found != []:
            return tuple(sorted(set(found))) if isinstance(found, list | tuple) else (int(found),)
    return ()
