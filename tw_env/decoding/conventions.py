"""How an encoder-decoder begins and ends what it writes, as its `generate` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel


@dataclass(frozen=True)
class Conventions:
    """What `generate` adds to a model's own probabilities; nothing for decoder-only models.

    Settings that look at the whole text so far (`no_repeat_ngram_size`, `min_length`, penalties) are not applied, for
    models of either kind: the game is about the model's own next-token probabilities.

    Attributes:
        opening: what the decoder reads before it writes, `decoder_start_token_id` and `forced_bos_token_id`.
        never: ids that are never written, from `suppress_tokens` and the single tokens of `bad_words_ids`.
        last: what stands in the last place before the cap on new tokens, `forced_eos_token_id`; None for any token.
    """

    opening: tuple[int, ...] = ()
    never: tuple[int, ...] = ()
    last: int | None = None


def conventions_of(model: PreTrainedModel) -> Conventions:
    """Read from the generation config, and from the config what isn't there.

    Raises:
        ValueError: an encoder-decoder without a start token for its decoder.
    """
    if not model.config.is_encoder_decoder:
        return Conventions()

    def setting(name: str) -> Any:
        found = getattr(getattr(model, "generation_config", None), name, None)
        return getattr(model.config, name, None) if found is None else found

    starts = [setting(name) for name in ("decoder_start_token_id", "bos_token_id")]
    start = next((each for each in starts if each is not None), None)
    if start is None:
        raise ValueError(
            f"Expected a start token for the decoder of {type(model).__name__}; its generation config has no "
            "decoder_start_token_id. Set it in generation_config.json."
        )
    first, last = setting("forced_bos_token_id"), setting("forced_eos_token_id")
    never = {words[0] for words in setting("bad_words_ids") or () if len(words) == 1}
    never |= set(setting("suppress_tokens") or ())
    return Conventions(
        opening=(int(start),) if first is None else (int(start), int(first)),
        never=tuple(sorted(never)),
        last=min(last) if isinstance(last, list | tuple) else last,
    )
