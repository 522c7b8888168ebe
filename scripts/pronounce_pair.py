"""The shipped pair of the pronunciation task: architectures, training, greedy evaluation and model cards."""

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from agents.supervised import SupervisedConfig, Trainer, collate, target_loss
from scripts.export import export
from scripts.pronounce_data import rule_words
from tw_env.tasks.pronounce import MAX_NEW_TOKENS, Pronounce

POSITIONS = 128  # a rule, the longest prompt (22 tokens) and the longest output (21)


@dataclass(frozen=True)
class ModelRecipe:
    """Size and training of one of the two models."""

    role: str
    width: int
    layers: int
    heads: int
    intermediate: int
    training: SupervisedConfig

    def new_model(self, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
        """A freshly initialised model; the same weights for the same seed."""
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.training.seed)
            return LlamaForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerBase, task: Pronounce) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Token ids of every prompt, and of its references with the end token.

    Every token of this task stands between white space, so a look-up does what the tokenizer does, faster.
    """
    ids = tokenizer.get_vocab()
    prompts = [[tokenizer.bos_token_id, *(ids[token] for token in text.split())] for text in task.prompts]
    references = [
        [[*(ids[token] for token in text.split()), tokenizer.eos_token_id] for text in texts]
        for texts in task.references
    ]
    return prompts, references


@torch.inference_mode()
def greedy(model: PreTrainedModel, prompts: Sequence[Sequence[int]], batch_size: int = 512) -> list[list[int]]:
    """Greedy outputs without the end token, in the prompts' order; batches hold one prompt length each."""
    eos = model.config.eos_token_id
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, ids in enumerate(prompts):
        by_length[len(ids)].append(i)
    outputs: list[list[int]] = [[] for _ in prompts]
    for rows in by_length.values():
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            inputs = torch.tensor([prompts[i] for i in batch], device=model.device)  # (rows, prompt length)
            cache, written, done = None, [], torch.zeros(len(batch), dtype=torch.bool, device=model.device)
            for _ in range(MAX_NEW_TOKENS):
                result = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = result.past_key_values
                inputs = result.logits[:, -1].argmax(-1, keepdim=True)  # (rows, 1)
                written.append(inputs)
                done |= inputs[:, 0] == eos
                if done.all():
                    break
            for i, tokens in zip(batch, torch.cat(written, dim=1).tolist(), strict=True):
                outputs[i] = tokens[: tokens.index(eos)] if eos in tokens else tokens
    return outputs


def evaluate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Pronounce) -> dict[str, float]:
    """Greedy word error, phone error (edits per phone of the closest reference) and nats per token."""
    prompts, references = encode(tokenizer, task)
    outputs = greedy(model, prompts)
    texts = [" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in outputs]
    edits = length = 0.0
    for i, text in enumerate(texts):
        error, phones = task.closest(i, text)
        edits, length = edits + error, length + phones
    rows = sorted(
        ((p, r[0]) for p, r in zip(prompts, references, strict=True)),
        key=lambda row: len(row[0]) + len(row[1]),
    )
    nats = tokens = 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), 500):
            inputs, labels = collate(rows[start : start + 500])
            count = int((labels != -100).sum())
            loss = target_loss(model, inputs.to(model.device), labels.to(model.device))
            nats, tokens = nats + loss.item() * count, tokens + count
    right = sum(task.quality(i, text) for i, text in enumerate(texts))
    return {
        "word_error": 1 - right / len(texts),
        "phone_error": edits / length,
        "nats_per_token": nats / tokens,
    }


def train(
    recipe: ModelRecipe,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    work_dir: Path,
    workers: int,
    device: torch.device,
) -> dict[str, float]:
    """Train one model on a device, or continue it from `work_dir`, and write its averaged weights to `folder`.

    Returns:
        What the training took: `steps`, `epochs`, `cpu_minutes`.
    """
    prompts, targets = encode(tokenizer, Pronounce("pair"))
    dev = Pronounce("dev", limit=1000)
    model = recipe.new_model(tokenizer).to(device)
    trainer = Trainer(model, prompts, targets, recipe.training, work_dir / recipe.role, workers)
    start, first = time.monotonic(), trainer.step

    def report(trainer: Trainer, loss: float) -> None:
        average = trainer.averaged()
        error = evaluate(average, tokenizer, dev)
        export(average, tokenizer, work_dir / recipe.role / "latest")
        left = (time.monotonic() - start) / (trainer.step - first) * (recipe.training.steps - trainer.step)
        print(
            f"{recipe.role} {trainer.step}/{recipe.training.steps}: loss {loss:.4f}, dev word error "
            f"{error['word_error']:.3f}, nats {error['nats_per_token']:.4f}, {left / 60:.0f} min left",
            flush=True,
        )

    export(trainer.run(report), tokenizer, folder)
    epochs = trainer.step / math.ceil(len(prompts) / recipe.training.batch_size)
    return {
        "steps": trainer.step,
        "epochs": round(epochs, 1),
        "cpu_minutes": round(trainer.cpu_seconds / 60, 1),
    }


CARD = """---
library_name: transformers
license: mit
tags: [grapheme-to-phoneme]
---
# {title} of the task `pronounce`

Spelling to phones: continues `h e l l o >` with `HH AH L OW`. Llama-type, {layers} layer(s), width {width},
{heads} heads, {parameters:,} parameters ({hidden:,} without the embeddings), {positions} positions, weights
in half precision. The tokenizer also knows digits, signs and {words} words of asking rules, on which nothing
was trained.

Fitted from scratch on the {pair:,} words of the part `pair` of the CMU Pronouncing Dictionary (`../NOTICE`):
next-token loss on the phones and the end token, one of a word's pronunciations drawn per epoch, {steps:,}
updates of {batch_size} words ({epochs} epochs), {optimizer}, moving average of the weights, {cpu_minutes}
processor minutes. Split by word, shuffled with seed {seed}: pair, policy (10,000), dev (2,000), test (12,000).

| greedy, stored weights, held-out words | word error | phone error | nats per token |
|---|---|---|---|
{rows}

Word error: no accepted pronunciation matches. Phone error: edits to the closest one, per phone of it. Nats
per token: of the first pronunciation, end token included. Made by

    {command}
"""


def finish(recipe: ModelRecipe, took: dict[str, float], folder: Path) -> None:
    """Evaluate the stored weights on dev and test, and write the model card beside them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for split in ("dev", "test"):
        task = Pronounce(split)
        error = evaluate(model, tokenizer, task)
        rows.append(
            f"| {split} ({len(task):,}) | {error['word_error']:.2%} | {error['phone_error']:.2%} | "
            f"{error['nats_per_token']:.4f} |"
        )
        print(f"{recipe.role}, stored weights: {rows[-1]}", flush=True)
    parameters = sum(p.numel() for p in model.parameters())
    card = CARD.format(
        title=recipe.role.capitalize(),
        layers=recipe.layers,
        width=recipe.width,
        heads=recipe.heads,
        parameters=parameters,
        hidden=parameters - model.get_input_embeddings().weight.numel(),
        positions=POSITIONS,
        words=len(rule_words()),
        pair=len(Pronounce("pair")),
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        optimizer="Muon and AdamW" if recipe.training.muon else "AdamW",
        rows="\n".join(rows),
        command=f"python -m scripts.prepare pronounce --{recipe.role}-steps {recipe.training.steps} "
        f"--{recipe.role}-decay {recipe.training.decay_steps}",
        **took,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
