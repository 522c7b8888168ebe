"""A student that asks: tokens of its own that call the teacher, whose log-odds are the gate, and a rule to read.

The gate's logit is logsumexp(z_ask) - logsumexp(z_vocabulary), P(ask) its sigmoid. An ask token never stands in a text,
so it enters neither model's context, and a student that is not asked for it writes as before.

One ask token would do if the final state told how unsure the student is by a straight line; in a small student it does
not (the state's best line ranks mistakes far worse than the largest probability does). Several ask tokens, each a
*reason* to ask, make the gate a difference of two convex functions of the state. They begin as the student's commonest
doubts: halfway between two tokens that often compete, which asks the more the closer the two are.

Sums of exponentials still don't rank as well as the largest probability does. A student may have that beside them, with
a weight of its own (`tw_env.decoding.asking`): its tokens then say how much more or less to ask.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agents.joint.reading import Texts, all_states, anatomy_of, scores
from tw_env.decoding import asking

REASONS = 256  # ask tokens of a student
BISECTIONS = 30
TWINS = 0.99  # cosine of two embeddings from which on they are one word to the model
COMPARED = 1024  # embeddings that are compared with all others at a time


def asking_student(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reads_rules: bool = True,
    reasons: int = REASONS,
    doubt: float = 0.0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A copy of a student and its tokenizer with ask tokens, which `tw_env` plays beside the same teacher.

    The new rows of the embedding are zero; see `start_asking`. The copy is in evaluation mode.

    Args:
        model: a causal model or an encoder-decoder. Padding rows of its embedding give way.
        reads_rules: whether the rule's words are put before its prompts.
        reasons: how many ask tokens. doubt: weight of its own doubt beside them, see `tw_env.decoding.asking`.

    Raises:
        ValueError: the student has ask tokens already, or fewer embeddings than its tokenizer has tokens.
    """
    known, asks = len(tokenizer), [f"<ask:{number}>" for number in range(reasons)]
    if reasons < 1 or asks[0] in tokenizer.get_vocab():
        raise ValueError(
            "Expected a student without ask tokens, and at least one to add; train one with them on as is."
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < known:
        raise ValueError(f"Expected a model that knows the {known} tokens of its tokenizer, got {rows}.")
    tokenizer, model = copy.deepcopy(tokenizer), copy.deepcopy(model).eval()
    tokenizer.add_tokens(asks, special_tokens=True)
    _resize(model, known, len(tokenizer))
    model.config.student_tokens = asks
    model.config.ask_token_ids = list(range(known, len(tokenizer)))
    model.config.reads_rules = reads_rules
    model.config.ask_doubt = doubt
    if reads_rules:
        tell_words_apart(model)
    return model, tokenizer


@torch.no_grad()
def _resize(model: PreTrainedModel, known: int, rows: int) -> None:
    """Give the embedding so many rows, zero from `known` on; a head of its own stays one.

    transformers ties the head of an encoder-decoder anew whenever it resizes, whatever its weights were.
    """
    head, table = model.get_output_embeddings(), model.get_input_embeddings().weight
    own = None if head.weight is table else head.weight[:known].clone()
    model.resize_token_embeddings(rows, mean_resizing=False)
    head, table = model.get_output_embeddings(), model.get_input_embeddings().weight
    if own is not None:
        head.weight = nn.Parameter(torch.cat([own, own.new_zeros(rows - known, own.shape[1])]))
    for weights in (table, model.get_decoder().get_input_embeddings().weight, head.weight):
        weights[known:] = 0.0
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias[:, known:] = 0.0


@torch.no_grad()
def tell_words_apart(model: PreTrainedModel, seed: int = 0) -> int:
    """Give tokens whose embeddings are all but the same new ones, drawn at random; returns how many.

    A model that never met a word learnt only not to write it, and with one table for reading and writing all such words
    came to look alike, so that no rule made of them could be read. The tables are parted first where they are one.
    """
    table = model.get_input_embeddings().weight
    first = model.config.ask_token_ids[0]
    directions = functional.normalize(table[:first].float(), dim=1)
    likeness = []
    for start in range(0, first, COMPARED):
        cosines = directions[start : start + COMPARED] @ directions.T  # (compared, first)
        cosines[torch.arange(len(cosines)), start + torch.arange(len(cosines))] = 0.0
        likeness.append(cosines.max(dim=1).values)
    twins = (torch.cat(likeness) > TWINS).nonzero()[:, 0]
    if not len(twins):
        return 0
    head = model.get_output_embeddings()
    if head.weight is table:
        head.weight = nn.Parameter(table.detach().clone())
        if not model.config.is_encoder_decoder:  # there it would part encoder and decoder, too
            model.config.tie_word_embeddings = False
    others = torch.ones(first, dtype=torch.bool, device=table.device)
    others[twins] = False
    size = table[:first][others].norm(dim=1).median() if others.any() else table.norm(dim=1).median()
    drawn = torch.randn(len(twins), table.shape[1], generator=torch.Generator().manual_seed(seed))
    table[twins] = (functional.normalize(drawn, dim=1).to(table) * size).to(table.dtype)
    return len(twins)


@torch.no_grad()
def set_doubt(model: PreTrainedModel, doubt: float) -> None:
    """Give a student's doubt this weight; where that changes it, its ask tokens begin anew (see `start_asking`)."""
    if doubt != doubt_of(model):
        model.config.ask_doubt = doubt
        model.get_output_embeddings().weight[model.config.ask_token_ids] = 0.0


def doubt_of(model: PreTrainedModel) -> float:
    """Weight of the student's doubt in its log-odds of asking."""
    return float(getattr(model.config, "ask_doubt", 0.0))


def ask_log_odds(logits: Tensor, first: int, doubt: float = 0.0) -> Tensor:
    """(...) the gate's logit from logits (..., vocabulary and ask tokens), the ask tokens from `first` on."""
    return asking.log_odds(logits[..., first:], logits[..., :first], doubt)


def token_nats(logits: Tensor, tokens: Tensor, first: int, doubt: float = 0.0) -> tuple[Tensor, Tensor]:
    """(steps,) nats of written tokens and (steps,) the gate's logits from logits (steps, vocabulary and ask tokens).

    One normalisation serves both, and no distribution is made: where a vocabulary is large, this is most of an update.
    """
    total = logits[:, :first].logsumexp(-1)
    nats = total - logits.gather(1, tokens[:, None])[:, 0]
    return nats, asking.log_odds(logits[:, first:], logits[:, :first], doubt, total)


@torch.no_grad()
def start_asking(model: PreTrainedModel, texts: Texts, rate: float) -> None:
    """Set the ask tokens' rows to the commonest doubts in some texts, so that P(ask) has the mean `rate` there.

    Rows far from it would have a saturated sigmoid, and so no gradient.

    Args:
        model: in evaluation mode. texts: such as it might write, after prompts as it reads them.
        rate: between 0 and 1.

    Raises:
        ValueError: a rate that is no probability, or no texts.
    """
    if not 0 < rate < 1:
        raise ValueError(f"Expected a rate between 0 and 1, got {rate}.")
    if not len(texts):
        raise ValueError("Expected at least one text to fit the ask tokens' rows on, got none.")
    begin, asks = model.config.ask_token_ids[0], model.config.ask_token_ids
    anatomy, head = anatomy_of(model), model.get_output_embeddings()
    hidden = all_states(model, texts)  # (places, width)
    best = scores(model, hidden)[:, :begin].topk(2).indices.sort(dim=1).values
    doubts = [pair for pair, _ in Counter(map(tuple, best.tolist())).most_common(len(asks))]
    pairs = torch.tensor([doubts[i % len(doubts)] for i in range(len(asks))], device=hidden.device)  # (asks, 2)
    rows = head.weight[pairs].mean(1)
    if anatomy.bias is not None:
        bias = anatomy.bias.get_buffer("final_logits_bias")
        bias[:, asks] = bias[:, pairs].mean(-1)
    head.weight[asks] = rows
    log_odds = ask_log_odds(scores(model, hidden), begin, doubt_of(model))
    level = _level(hidden.double()).to(rows.dtype) / anatomy.scale
    lift = (hidden @ level * anatomy.scale).float()  # what adding `level` to every row does to the log-odds
    low, high = -50.0, 50.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        mean = torch.sigmoid(log_odds + middle * lift).mean()
        low, high = (middle, high) if mean < rate else (low, middle)
    head.weight[asks] = rows + middle * level


def _level(hidden: Tensor) -> Tensor:
    """(width,) what to add to a row so that its product rises by about 1 in every state: a ridge regression of ones."""
    gram = hidden.T @ hidden + 1e-3 * len(hidden) * torch.eye(hidden.shape[1], dtype=hidden.dtype, device=hidden.device)
    return torch.linalg.solve(gram, hidden.sum(0))
