"""Supervised training: right batches, loss and optimiser; an interrupted run ends like an unbroken one."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from agents.muon import orthogonalise
from agents.supervised import (
    SupervisedConfig,
    Trainer,
    collate,
    epoch_batches,
    make_optimizers,
    may_continue,
    rate_factor,
    rows_loss,
    target_loss,
)

END, SEPARATOR, LETTERS = 0, 1, range(2, 10)
CONFIG = SupervisedConfig(steps=24, decay_steps=10, batch_size=16, learning_rate=0.02, warmup=4, checkpoint_every=7)


def new_model(seed: int = 0) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=10,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def new_encoder_decoder(seed: int = 0) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=10,
        d_model=16,
        d_kv=8,
        d_ff=40,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        eos_token_id=END,
        pad_token_id=SEPARATOR,
        decoder_start_token_id=SEPARATOR,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return T5ForConditionalGeneration(config)


def data(count: int = 60) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Prompts of one to five letters; the answer is the first letter, once or twice."""
    rng = np.random.default_rng(0)
    words = [rng.choice(LETTERS, size=rng.integers(1, 6)).tolist() for _ in range(count)]
    return [[*word, SEPARATOR] for word in words], [[[word[0], END], [word[0]] * 2 + [END]] for word in words]


def train(
    folder: Path,
    config: SupervisedConfig = CONFIG,
    until: int | None = None,
    workers: int = 1,
    model: PreTrainedModel | None = None,
) -> Trainer:
    trainer = Trainer(model or new_model(), *data(), config, folder, workers)
    trainer.run(until=until)
    return trainer


def assert_same_weights(one: Trainer, other: Trainer) -> None:
    assert one.step == other.step
    for (name, mine), theirs in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
        assert torch.equal(one.average.weights[name], other.average.weights[name]), name


def test_loss_falls_on_a_task_that_can_be_learnt(tmp_path: Path) -> None:
    losses: list[float] = []
    config = SupervisedConfig(steps=150, decay_steps=75, batch_size=20, learning_rate=0.02, checkpoint_every=25)
    trainer = Trainer(new_model(), *data(), config, tmp_path)
    model = trainer.run(lambda _, loss: losses.append(loss))
    assert len(losses) == 6
    assert losses[0] > 1.0
    assert losses[-1] < 0.6  # the entropy of "once or twice" remains: log 2 over two and a half tokens
    rows = [(prompt, targets[0]) for prompt, targets in zip(*data(), strict=True)]
    inputs, labels = collate(rows)
    first = torch.tensor([len(prompt) - 1 for prompt, _ in rows])
    predicted = model(input_ids=inputs).logits.argmax(-1)[torch.arange(len(rows)), first]
    assert (predicted == labels[torch.arange(len(rows)), first]).float().mean() > 0.9


@pytest.mark.parametrize("muon", [True, False])
def test_an_interrupted_run_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path, muon: bool) -> None:
    config = SupervisedConfig(**{**vars(CONFIG), "muon": muon})
    whole = train(tmp_path / "whole", config)
    train(tmp_path / "broken", config, until=9)  # in the middle of an epoch of four batches
    (tmp_path / "broken" / "checkpoint.tmp").write_bytes(b"a write that was cut off")
    assert_same_weights(train(tmp_path / "broken", config), whole)


def test_an_interrupted_encoder_decoder_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", model=new_encoder_decoder())
    train(tmp_path / "broken", until=9, model=new_encoder_decoder())
    assert_same_weights(train(tmp_path / "broken", model=new_encoder_decoder(1)), whole)


def test_an_encoder_decoder_learns(tmp_path: Path) -> None:
    config = SupervisedConfig(steps=100, decay_steps=50, batch_size=20, learning_rate=0.02, checkpoint_every=50)
    rows = [(prompt, targets[0]) for prompt, targets in zip(*data(), strict=True)]
    model = train(tmp_path, config, model=new_encoder_decoder()).averaged()
    before, after = (rows_loss(each, rows).item() for each in (new_encoder_decoder(), model))
    assert before > 1.5
    assert after < 0.6  # the entropy of "once or twice" remains
    for prompt, target in rows[:5]:
        first = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[SEPARATOR]])).logits.argmax()
        assert first == target[0]


def test_embeddings_move_at_a_rate_of_their_own(tmp_path: Path) -> None:
    moved = {}
    for rate in (1.0, 5.0):
        model = new_encoder_decoder()
        before = {name: weights.clone() for name, weights in model.named_parameters()}
        config = SupervisedConfig(**{**vars(CONFIG), "weight_decay": 0.0, "embedding_rate": rate})
        trainer = train(tmp_path / str(rate), config, model=model, until=1)
        after = dict(trainer.model.named_parameters())
        moved[rate] = {name: (after[name] - weights).norm().item() for name, weights in before.items()}
    for name, length in moved[1.0].items():
        faster = 5.0 if "shared" in name or "relative_attention_bias" in name else 1.0  # positions are looked up, too
        assert moved[5.0][name] == pytest.approx(faster * length, rel=1e-4), name


def test_only_matrices_that_multiply_are_orthogonalised() -> None:
    with ThreadPoolExecutor(1) as pool:
        _, muon = make_optimizers(new_encoder_decoder(), CONFIG, pool)
    shapes = {tuple(parameter.shape) for group in muon.param_groups for parameter in group["params"]}
    assert shapes == {(16, 16), (40, 16), (16, 40)}  # neither the embedding, (10, 16), nor positions, (32, 2)


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    assert_same_weights(train(tmp_path / "one", workers=1), train(tmp_path / "three", workers=3))


def test_a_run_may_be_made_longer_before_its_rate_falls(tmp_path: Path) -> None:
    longer = SupervisedConfig(**{**vars(CONFIG), "steps": 30})
    train(tmp_path / "extended", until=12)
    assert_same_weights(train(tmp_path / "extended", longer), train(tmp_path / "whole", longer))
    assert not may_continue(CONFIG, longer, step=15)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    train(tmp_path, until=3)
    with pytest.raises(ValueError, match="Expected the checkpoint"):
        train(tmp_path, SupervisedConfig(**{**vars(CONFIG), "learning_rate": 0.5}))


def test_prompts_without_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 0 targets for 1 prompts"):
        Trainer(new_model(), [[2]], [], CONFIG, tmp_path)


def test_training_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train(tmp_path, until=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_epoch_takes_every_prompt_once_with_one_of_its_targets() -> None:
    prompts, targets = data()
    batches = epoch_batches(prompts, targets, 16, seed=0, epoch=0)
    rows = [row for batch in batches for row in batch]
    assert sorted(id(prompt) for prompt, _ in rows) == sorted(map(id, prompts))
    allowed = {id(prompt): answers for prompt, answers in zip(prompts, targets, strict=True)}
    assert all(target in allowed[id(prompt)] for prompt, target in rows)
    assert {len(target) for _, target in rows} == {2, 3}
    spans = [sorted(len(prompt) + len(target) for prompt, target in batch) for batch in batches]
    spans.sort()
    assert all(left[-1] <= right[0] for left, right in itertools.pairwise(spans))
    assert rows == [row for batch in epoch_batches(prompts, targets, 16, 0, 0) for row in batch]
    assert rows != [row for batch in epoch_batches(prompts, targets, 16, 0, 1) for row in batch]


def test_prompts_and_targets_that_are_padded_apart_are_both_of_similar_lengths() -> None:
    rng = np.random.default_rng(0)
    prompts = [[1] * int(rng.integers(1, 40)) for _ in range(400)]
    targets = [[[2] * int(rng.integers(1, 20))] for _ in prompts]

    def padding(apart: bool) -> int:
        batches = epoch_batches(prompts, targets, 10, 0, 0, apart)
        assert sum(map(len, batches)) == len(prompts)
        return sum(len(batch) * max(len(target) for _, target in batch) for batch in batches)

    real = sum(len(target[0]) for target in targets)
    assert padding(apart=True) < 1.25 * real
    assert padding(apart=False) > 1.5 * real


def test_labels_are_the_targets_alone() -> None:
    inputs, labels = collate([([5, 6, 1], [7, 0]), ([5, 1], [8, 9, 0])])
    assert inputs.tolist() == [[5, 6, 1, 7], [5, 1, 8, 9]]
    assert labels.tolist() == [[-100, -100, 7, 0], [-100, 8, 9, 0]]


def test_loss_is_that_of_transformers_and_ignores_padding() -> None:
    model, rows = new_model().double(), [([5, 6, 7, 1], [7, 0]), ([5, 1], [8, 0]), ([3, 1], [8, 9, 4, 0])]
    tokens = total = 0.0
    for prompt, target in rows:
        ids = torch.tensor([[*prompt, *target]])
        labels = torch.tensor([[-100] * len(prompt) + target])
        total += model(input_ids=ids, labels=labels).loss.item() * len(target)
        tokens += len(target)
    assert target_loss(model, *collate(rows)).item() == pytest.approx(total / tokens, rel=1e-6)


def test_loss_of_an_encoder_decoder_is_that_of_transformers_and_ignores_padding() -> None:
    model, rows = new_encoder_decoder().double(), [([5, 6, 7, 1], [7, 0]), ([5, 1], [8, 0]), ([3, 1], [8, 9, 4, 0])]
    tokens = total = 0.0
    for prompt, target in rows:
        loss = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([target])).loss
        total, tokens = total + loss.item() * len(target), tokens + len(target)
    assert rows_loss(model, rows).item() == pytest.approx(total / tokens, rel=1e-6)


def test_orthogonalise_brings_singular_values_near_one() -> None:
    matrices = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(0))
    for batch in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalise(batch))
        assert values.min() > 0.4
        assert values.max() < 1.3
        left, _, right = torch.linalg.svd(batch, full_matrices=False)
        assert (orthogonalise(batch) * (left @ right)).sum() > 0.7 * 36  # the singular vectors stay


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    factors = [rate_factor(step, CONFIG) for step in range(CONFIG.steps + 1)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[14] == 1.0
    assert factors[19] == pytest.approx(0.5)
    assert factors[24] == 0.0
