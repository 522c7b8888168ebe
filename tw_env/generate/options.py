"""Which of `generate`'s options an assisted text can follow; the others are refused by name."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import GenerationConfig, PreTrainedModel
from transformers.generation import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    GenerationMode,
    NoBadWordsLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TopKLogitsWarper,
)
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

SUPPORTED = (
    "max_new_tokens, max_length, do_sample (with temperature=1.0, top_k=0, top_p=1.0), eos_token_id, pad_token_id, "
    "num_return_sequences, return_dict_in_generate, streamer"
)
DEFAULT_NEW_TOKENS = 20  # what `generate` writes if nobody names a length
_MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
# What `tw_env.decoding.conventions` makes part of an encoder-decoder, and by which settings.
_CONVENTIONS = (
    ForcedBOSTokenLogitsProcessor, ForcedEOSTokenLogitsProcessor, NoBadWordsLogitsProcessor,
    SuppressTokensLogitsProcessor,
)  # fmt: skip
_SETTINGS = (
    "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "suppress_tokens",
)  # fmt: skip
_RECORDS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


def check_options(
    config: GenerationConfig,
    processors: Iterable[object],
    criteria: Iterable[object],
    vocabulary: int,
    model: PreTrainedModel,
) -> None:
    """Refuse what would have to change the distribution of either model, or record what nobody computes.

    Args:
        config: as `generate` prepared it. processors, criteria: the same. vocabulary: ids that both models know.
        model: the student.

    Raises:
        ValueError: beams and other searches, anything that processes logits (temperature, top-k and the like,
            penalties, forbidden words) and is no convention of an encoder-decoder, other ways to stop than length and
            end tokens, recorded scores or states.
    """
    mode = config.get_generation_mode()
    if mode not in _MODES:
        raise ValueError(f"Expected greedy decoding or sampling, got {mode.value}. Supported are {SUPPORTED}.")
    agreed = _agreed(config, model)
    changing = [type(one).__name__ for one in processors if not (isinstance(one, agreed) or _idle(one, vocabulary))]
    if changing:
        raise ValueError(
            f"Expected both models' own distributions, got {', '.join(changing)}. Give generate the neutral values: "
            "repetition_penalty=1.0 and, with do_sample=True, temperature=1.0, top_k=0, top_p=1.0 (generate's own "
            f"top_k is 50). Supported are {SUPPORTED}."
        )
    stops = [type(one).__name__ for one in criteria if not isinstance(one, MaxLengthCriteria | EosTokenCriteria)]
    if stops:
        raise ValueError(
            f"Expected texts that stop at a length or an end token, got {', '.join(stops)}. Supported are {SUPPORTED}."
        )
    records = [name for name in _RECORDS if getattr(config, name, None)]
    if records:
        raise ValueError(
            f"Expected no record of scores or states, got {', '.join(records)}: a text has two models, and most of it "
            f"was read by one. Leave them out. Supported are {SUPPORTED}."
        )


def _agreed(config: GenerationConfig, model: PreTrainedModel) -> tuple[type, ...]:
    """What the game itself applies to this model."""
    if not model.config.is_encoder_decoder:
        return ()
    for name in _SETTINGS:
        asked, own = getattr(config, name, None), getattr(model.generation_config, name, None)
        if asked is not None and own is not None and asked != own:
            raise ValueError(
                f"Expected the models' own {name}, {own!r}; got {asked!r}. Set it in both generation_config."
            )
    return _CONVENTIONS


def _idle(processor: object, vocabulary: int) -> bool:
    return isinstance(processor, TopKLogitsWarper) and processor.top_k >= vocabulary


def cap_of(config: GenerationConfig, prompt_length: int, positions: int | None, made_for: int | None) -> int:
    """The cap on new tokens.

    Args:
        config: as `generate` prepared it. prompt_length: columns of the prompts. positions: of the student, if limited.
        made_for: the cap that the policy was made for; None where it plays any. It is taken where no length was named.

    Raises:
        ValueError: another cap than the policy was made for, or no room for a new token.
    """
    if config.max_new_tokens is not None:
        cap = int(config.max_new_tokens)
    else:
        cap = int(config.max_length) - prompt_length
        unnamed = prompt_length + DEFAULT_NEW_TOKENS
        if config.max_length == unnamed or config.max_length == min(unnamed, positions or unnamed):
            cap = made_for or cap
    if cap < 1:
        raise ValueError(
            f"Expected room for a new token, got max_length={config.max_length} with prompts of {prompt_length} "
            "tokens. Give max_new_tokens instead."
        )
    if made_for is not None and cap != made_for:
        raise ValueError(
            f"Expected max_new_tokens={made_for}, for which this policy was made (it sees shares of that length), got "
            f"{cap}. Give max_new_tokens={made_for}, or a policy made for texts of {cap} tokens."
        )
    return cap


def ends_of(config: GenerationConfig, vocabulary: int, otherwise: tuple[int, ...]) -> tuple[int, ...]:
    """The ids that end a text, ascending: `generate`'s, or the pair's where it names none.

    Raises:
        ValueError: an id that not both models know.
    """
    named = config.eos_token_id
    if named is None or named == []:
        return otherwise
    ends = tuple(sorted({int(one) for one in (named if isinstance(named, list | tuple) else [named])}))
    if ends[0] < 0 or ends[-1] >= vocabulary:
        raise ValueError(f"Expected eos_token_id among ids 0 to {vocabulary - 1}, got {ends}.")
    return ends


def pad_of(config: GenerationConfig, ends: tuple[int, ...]) -> int:
    """What fills rows behind their texts: the pad token, else an end token, as `generate` does."""
    return ends[0] if config.pad_token_id is None else int(config.pad_token_id)
