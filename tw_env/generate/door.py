"""What `generate(custom_generate=assisted)` calls: the game of the environments over the prompts of a batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput

from tw_env.costs import CostModel, LatencyTable, Prices
from tw_env.decoding.accept import Accept, parse_accept
from tw_env.decoding.loading import Pair
from tw_env.decoding.reading import rule_reader
from tw_env.generate.options import cap_of, check_options, ends_of, pad_of
from tw_env.generate.pairing import pair_of
from tw_env.generate.playing import Tell, Terms, Written, find_policy, made_for, play, set_up
from tw_env.policies import AskToken
from tw_env.schedule import RuleLike, Starts, read_rules
from tw_env.settings import DEFAULT_RULE

NOBODY = -1  # among writers: behind the end of a text
_LATER: Any = None  # `ModelOutput` wants a default for every field but one


@dataclass
class Assisted(ModelOutput):
    """What `generate` returns with `return_dict_in_generate=True`, on the device of the prompts.

    Attributes:
        sequences: (rows, prompt + new) token ids, prompts included, padded behind the texts.
        writers: (rows, new) `tw_env.actions.Writer` of every new token, -1 behind the text.
        tokens, calls: (rows,) written tokens, the end token included, and teacher calls.
        spent, allowed: (rows,) in the unit of the row's rule, which asks for E[spent - allowed] <= 0.
        latency_ms: (rows,) modelled milliseconds at batch 1; None without a latency table.
        price: (rows,) in the unit of the prices; None without prices.
    """

    sequences: Tensor = _LATER
    writers: Tensor = _LATER
    tokens: Tensor = _LATER
    calls: Tensor = _LATER
    spent: Tensor = _LATER
    allowed: Tensor = _LATER
    latency_ms: Tensor | None = None
    price: Tensor | None = None


def assisted(
    model: PreTrainedModel,
    input_ids: Tensor,
    *,
    generation_config: GenerationConfig,
    logits_processor: Iterable[object] = (),
    stopping_criteria: Iterable[object] = (),
    inputs_tensor: Tensor | None = None,
    teacher: PreTrainedModel | str | Path | None = None,
    rule: RuleLike | Sequence[RuleLike] = DEFAULT_RULE,
    words: str | Sequence[str] | None = None,
    policy: Any = None,
    deterministic: bool = True,
    accept: str | Accept = "exact",
    hard: bool = False,
    latency: LatencyTable | Mapping[str, float] | str | Path | None = None,
    prices: Prices | Mapping[str, float] | None = None,
    seed: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    streamer: BaseStreamer | None = None,
    **model_kwargs: Any,
) -> Tensor | Assisted:
    """Write texts by a policy under a rule: `student.generate(**inputs, custom_generate=assisted, teacher=..., ...)`.

    The texts, calls and costs are those of `tw_env.vector_env.AssistedDecodingVectorEnv` with these prompts, this rule
    and this policy; the teacher reads only when it is called. Rows of a batch are padded on the left, and have
    accounts of their own. Greedy decoding, or sampling at temperature 1; see `tw_env.generate.options` for the options
    of `generate` that are followed. An encoder-decoder's prompts are its sources; what it returns begins with the
    opening of `tw_env.decoding.conventions`, which does not count as new.

    Args:
        model, input_ids, generation_config, logits_processor, stopping_criteria, inputs_tensor, model_kwargs: from
            `generate`; the model is the student.
        teacher: a model, or a folder or hub id, which is loaded once per process.
        rule: a sentence or a `Constraint`, one for all rows or one each.
        words: sentences that a student which reads rules is told instead of the rule's; they need not be rules, and
            nothing is asked of them. A student that asks by itself then goes by them alone, the rule only keeps the
            account (`tw_env.policies.AskToken.by_words`); without, it is told no rule on a quantity that it wasn't
            trained on (`check_told`).
        policy: a policy or its folder, the name of a shipped one, "student", "teacher", "speculative",
            "speculative-K", "ask-token"; None for the one saved beside the student's weights, else its own ask token.
        deterministic: take the policy's likeliest actions or its calibrated cut, instead of drawing actions.
        accept, hard, latency, prices: as of `tw_env.settings.Settings`; without a table or prices no rule can limit
            time or money.
        seed: of all that is drawn; None takes one from torch's generator, which `generate` draws from, too.
        streamer: for one prompt. Told tokens as soon as no VERIFY can take them back; a
            `tw_env.generate.MarkedStreamer` also hears who wrote them.
        tokenizer: the student's; None loads it from where the student came from.

    Version 5 of transformers hands a function neither the `streamer` nor the `tokenizer` that it was given. The
    streamer is looked up; a tokenizer is bound: `custom_generate=functools.partial(assisted, tokenizer=tokenizer)`.

    Returns:
        (rows, prompt + new) token ids, or `Assisted` with `return_dict_in_generate=True`.

    Raises:
        ValueError: options that can't be followed, a rule that can't be read or measured or that the student wasn't
            trained to read, a pair, policy, cap or prompt that doesn't fit.
        FileNotFoundError, TypeError: no such policy.
    """
    outside = _given_to_generate("streamer", "assistant_model")
    if outside["assistant_model"] is not None:
        raise ValueError("Expected a teacher and no assistant_model: the model itself is what drafts. Leave it out.")
    prompt_told = streamer is None  # `generate` has put the prompt where it was given the streamer
    streamer = outside["streamer"] if streamer is None else streamer
    if streamer is not None and len(input_ids) != 1:
        raise ValueError(f"Expected one prompt to stream the text of, got {len(input_ids)}. Leave streamer out.")
    pair = pair_of(model, teacher, tokenizer)
    check_options(generation_config, logits_processor, stopping_criteria, pair.vocabulary, model)
    ends = ends_of(generation_config, pair.vocabulary, pair.end_tokens)
    read = inputs_tensor if pair.encoder_decoder and inputs_tensor is not None else input_ids
    prompts = prompts_of(read, model_kwargs.get("attention_mask"), pair.vocabulary, pair.encoder_decoder)
    starts = _starts(pair, prompts, rule, words)
    chosen = find_policy(policy, pair)
    positions = getattr(model.config, "max_position_embeddings", None)
    terms = Terms(
        max_new_tokens=cap_of(generation_config, input_ids.shape[1], positions, made_for(chosen)),
        sampling=bool(generation_config.do_sample),
        accept=parse_accept(accept),
        hard=hard,
        costs=CostModel(
            None if latency is None else LatencyTable.load(latency), None if prices is None else Prices.load(prices)
        ),
        end_tokens=ends,
    )
    game, player = set_up(pair, chosen, starts, terms)
    if pair.reads_rules and isinstance(player, AskToken):
        if words is not None:
            player = player.by_words()
        else:
            for one in starts.rules:
                player.check_told(one)
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    if streamer is not None and not prompt_told:
        streamer.put(input_ids.cpu())
    written = play(game, player, starts, seed, deterministic, _teller(streamer))
    if streamer is not None:
        streamer.end()
    if pair.encoder_decoder:
        input_ids = input_ids.new_tensor(pair.conventions.opening).expand(len(input_ids), -1)
    return _returned(input_ids, written, terms.costs, pad_of(generation_config, ends), generation_config)


def prompts_of(input_ids: Tensor, mask: Tensor | None, vocabulary: int, sources: bool = False) -> list[tuple[int, ...]]:
    """Token ids of each row without its padding.

    Args:
        input_ids: (rows, columns). mask: (rows, columns) 0 at padding; None without any.
        sources: what an encoder reads; it may be padded on either side.

    Raises:
        ValueError: padding elsewhere than on the left, an empty prompt, or tokens that the teacher doesn't know.
    """
    if not input_ids.shape[1] or input_ids.is_floating_point():
        raise ValueError("Expected prompts as input_ids, got none: the teacher can't read inputs_embeds.")
    ids, columns = input_ids.cpu().numpy(), input_ids.shape[1]
    real = np.ones(ids.shape, bool) if mask is None else mask.cpu().numpy().astype(bool)
    lengths = real.sum(axis=1)
    if real.shape != ids.shape or not (sources or (real == (np.arange(columns) >= columns - lengths[:, None])).all()):
        raise ValueError(
            f"Expected an attention mask of shape {ids.shape} with zeros on the left only, got another one of shape "
            f"{real.shape}. Set tokenizer.padding_side = 'left'."
        )
    if not lengths.all():
        raise ValueError(f"Expected tokens in every prompt; prompt {int(lengths.argmin())} has none.")
    if (unknown := ids[real & ((ids < 0) | (ids >= vocabulary))]).size:
        raise ValueError(f"Expected tokens that both models know, ids 0 to {vocabulary - 1}; got {int(unknown[0])}.")
    return [tuple(row[there].tolist()) for row, there in zip(ids, real, strict=True)]


def _starts(
    pair: Pair, prompts: list[tuple[int, ...]], rule: RuleLike | Sequence[RuleLike], words: str | Sequence[str] | None
) -> Starts:
    """Each row's prompt, rule, and the prompt as a student that reads rules is told it."""
    count, rules, reader = len(prompts), read_rules(rule), rule_reader(pair)
    rules = rules * count if len(rules) == 1 else rules
    if len(rules) != count:
        raise ValueError(f"Expected one rule, or one for each of the {count} texts; got {len(rules) or repr(rule)}.")
    if words is not None and reader is None:
        raise ValueError(f"Expected no words=, since this student reads no rules; got {words!r}. Leave them out.")
    told = None
    if reader is not None:
        said = [one.words or one.constraint.text for one in rules] if words is None else words
        said = [said] * count if isinstance(said, str) else list(said)
        if len(said) != count:
            raise ValueError(f"Expected one sentence as words, or one for each of the {count} texts; got {len(said)}.")
        told = [reader.before(sentence, prompt) for sentence, prompt in zip(said, prompts, strict=True)]
    return Starts(np.arange(count), list(prompts), [one.constraint for one in rules], told)


def _given_to_generate(*names: str) -> dict[str, Any]:
    """Arguments that `generate` was given and keeps to itself when its loop is a function; None where there are none.

    A streamer that is silently dropped leaves whoever reads a `TextIteratorStreamer` waiting for ever.
    """
    code = inspect.unwrap(GenerationMixin.generate).__code__
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return {name: None if frame is None else frame.f_locals.get(name) for name in names}


def _teller(streamer: BaseStreamer | None) -> Tell | None:
    if streamer is None:
        return None
    told: Tell | None = getattr(streamer, "put_written", None)
    return told or (lambda token, writer: streamer.put(torch.tensor([token])))


def _returned(
    input_ids: Tensor, written: Written, costs: CostModel, pad: int, config: GenerationConfig
) -> Tensor | Assisted:
    """As `generate` returns its texts."""

    def filled(rows: list[list[int]], filler: int) -> Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + [filler] * (width - len(row)) for row in rows], device=input_ids.device)

    def numbers(values: Any) -> Tensor:
        return torch.as_tensor(values, device=input_ids.device)

    sequences = torch.cat([input_ids, filled(written.tokens, pad)], dim=1)
    if not config.return_dict_in_generate:
        return sequences
    return Assisted(
        sequences=sequences,
        writers=filled(written.writers, NOBODY),
        tokens=numbers([len(row) for row in written.tokens]),
        calls=numbers(written.calls.astype(np.int64)),
        spent=numbers(written.spent),
        allowed=numbers(written.allowed),
        latency_ms=None if costs.latency is None else numbers(written.milliseconds),
        price=None if costs.prices is None else numbers(written.money),
    )
