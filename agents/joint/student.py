"""A student that asks: one more token in its vocabulary, whose log-odds are the gate, and a rule before its prompt.

The gate's logit is z_ask - logsumexp(z_vocabulary), P(ask) its sigmoid. The ask token never stands in a text, so it
enters neither model's context, and a student that is not asked for it writes as before.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

ASK = "<ask>"


def asking_student(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, reads_rules: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A copy of a student and its tokenizer with the token `<ask>`, which `tw_env` plays beside the same teacher.

    The new row of the embedding is zero; see `start_asking`.

    Args:
        model: a causal model without padding rows: as many embeddings as its tokenizer has tokens.
        reads_rules: whether the rule's words are put before its prompts.

    Raises:
        ValueError: the tokenizer has the token already, or the model has other embeddings than its tokens.
    """
    known = model.get_input_embeddings().weight.shape[0]
    if ASK in tokenizer.get_vocab():
        raise ValueError(f"Expected a student without the token {ASK}, got one that has it: train that one on.")
    if known < len(tokenizer):
        raise ValueError(f"Expected a model that knows the {len(tokenizer)} tokens of its tokenizer, got {known}.")
    tokenizer, model = copy.deepcopy(tokenizer), copy.deepcopy(model)
    tokenizer.add_tokens([ASK], special_tokens=True)
    ask = tokenizer.convert_tokens_to_ids(ASK)
    if len(tokenizer) > known:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            table[ask] = 0.0
    model.config.student_tokens = [ASK]
    model.config.ask_token_id = int(ask)
    model.config.reads_rules = reads_rules
    return model, tokenizer


def ask_log_odds(logits: Tensor, ask: int) -> Tensor:
    """(...) the gate's logit from logits (..., vocabulary); ids from `ask` on are the student's own."""
    return logits[..., ask] - logits[..., :ask].logsumexp(-1)


@torch.no_grad()
def start_asking(model: PreTrainedModel, texts: Sequence[Sequence[int]], first: Sequence[int], rate: float) -> None:
    """Set the ask token's row so that P(ask) lies near `rate` in the places of some texts.

    A row far from it would have a saturated sigmoid, and so no gradient. Ridge regression of what the logit must be on
    the final hidden states.

    Args:
        texts: token ids, prompts included. first: the place in each from which on a token is written.
        rate: between 0 and 1.

    Raises:
        ValueError: a rate that is no probability, or no texts.
    """
    if not 0 < rate < 1:
        raise ValueError(f"Expected a rate between 0 and 1, got {rate}.")
    if not texts:
        raise ValueError("Expected at least one text to fit the ask token's row on, got none.")
    ask, states, wanted = int(model.config.ask_token_id), [], []
    head = model.get_output_embeddings()
    for text, begin in zip(texts, first, strict=True):
        inputs = torch.tensor([list(text)], device=model.device)
        hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state[0, begin - 1 :]  # (n, width)
        states.append(hidden.double())
        wanted.append(head(hidden)[:, :ask].double().logsumexp(-1))
    design = torch.cat(states)
    target = torch.cat(wanted) + torch.logit(torch.tensor(rate, dtype=torch.float64))
    gram = design.T @ design + 1e-3 * len(design) * torch.eye(design.shape[1], dtype=design.dtype, device=model.device)
    head.weight[ask] = torch.linalg.solve(gram, design.T @ target).to(head.weight.dtype)
