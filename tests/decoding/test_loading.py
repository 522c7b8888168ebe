"""Names become models once per process; bad folders and bad pairs are refused with what to do about it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from tests.families import source_pair
from tests.tiny import tiny_names, tiny_pair, tiny_tokenizer
from tw_env.decoding.loading import (
    Pair,
    load_model,
    load_pair,
    load_tokenizer,
    register_model,
    register_pair,
    resolve_device,
)


def small_model(vocabulary: int = 11, **config: object) -> tf.LlamaForCausalLM:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    ends = {"bos_token_id": None, "eos_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        return tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=vocabulary, **{**sizes, **ends, **config}))


def tokenizer_of(words: list[str], **special: str) -> tf.PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    return tf.PreTrainedTokenizerFast(tokenizer_object=core, **special)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as `save_pretrained` writes it."""
    small_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer(11).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_becomes_a_frozen_model_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(str(folder), "cpu")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.dtype == torch.float32
    monkeypatch.chdir(folder.parent)
    assert load_model("model", "auto" if not torch.cuda.is_available() else "cpu") is model
    assert load_model("./model/", "cpu") is model
    assert load_model("model", "cpu", "float64").dtype == torch.float64
    assert load_tokenizer("model") is load_tokenizer(str(folder))


def test_a_folder_written_anew_is_read_anew(folder: Path) -> None:
    before = load_pair(str(folder), str(folder), "cpu")
    changed = small_model()
    changed.lm_head.weight.data.fill_(0.5)
    changed.save_pretrained(folder)
    os.utime(folder / "config.json", (2e9, 2e9))
    after = load_pair(str(folder), str(folder), "cpu")
    assert (after.student.lm_head.weight == 0.5).all()
    assert not (before.student.lm_head.weight == 0.5).all()
    assert load_pair(str(folder), str(folder), "cpu") is after


def test_loading_is_silent_and_leaves_settings_alone(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    verbosity, bars = tf.logging.get_verbosity(), tf.logging.is_progress_bar_enabled()
    load_pair(str(folder), str(folder), "cpu", "float64")
    assert capfd.readouterr() == ("", "")
    assert (tf.logging.get_verbosity(), tf.logging.is_progress_bar_enabled()) == (verbosity, bars)


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def overwrite(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lose_a_part(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))


def lose_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"whole safetensors file; '.*model\.safetensors' .* cut off"),
        (overwrite, r"whole safetensors file; '.*model\.safetensors'"),
        (pickle_only, r"safetensors in .*; found pytorch_model\.bin, which can run code"),
        (lose_a_part, r"missing: model-00002-of-00002\.safetensors"),
        (lose_a_tensor, r"lacks 1, such as 'model\.layers\.0\.mlp\.up_proj\.weight'"),
        (lambda folder: (folder / "model.safetensors").unlink(), "with its weights in"),
        (lambda folder: (folder / "config.json").unlink(), r"model folder with config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"Expected a config\.json"),
        (lambda folder: edit_config(folder, model_type="unheard-of"), r"Expected a config\.json"),
        (lambda folder: edit_config(folder, hidden_size=16), "with its weights in"),
        (
            lambda folder: edit_config(folder, model_type="t5"),
            "sequence-to-sequence language model with its weights|lacks",
        ),
    ],
)
def test_bad_folders_are_refused(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_model(str(folder), "cpu")


def test_other_bad_names_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        load_model(str(folder / "nowhere"), "cpu")
    with pytest.raises(ValueError, match="hub id that can be reached; got 'no-such-owner/no-such-model'"):
        load_model("no-such-owner/no-such-model", "cpu")
    with pytest.raises(ValueError, match="dtype to be one of"):
        load_model(str(folder), "cpu", "float31")
    with pytest.raises(ValueError, match="registered model; got 'memory:nobody'"):
        load_model("memory:nobody")
    with pytest.raises(ValueError, match="begins with 'memory:'"):
        register_model("tiny", small_model(), tiny_tokenizer(11))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="Expected a tokenizer in"):
        load_tokenizer(str(folder))


def pair_of(
    student: tf.PreTrainedModel,
    teacher: tf.PreTrainedModel,
    student_words: list[str],
    teacher_words: list[str] | None = None,
    **special: str,
) -> Pair:
    teacher_words = student_words if teacher_words is None else teacher_words
    register_model("memory:student", student, tokenizer_of(student_words, **special))
    register_model("memory:teacher", teacher, tokenizer_of(teacher_words, **special))
    return load_pair("memory:student", "memory:teacher")


WORDS = list("abcdefgh")


def test_padding_rows_may_differ() -> None:
    assert pair_of(small_model(8), small_model(8), WORDS).vocabulary == 8
    assert pair_of(small_model(16), small_model(12), WORDS).vocabulary == 12
    with pytest.raises(ValueError, match="'memory:teacher' has a vocabulary of 7"):
        pair_of(small_model(8), small_model(7), WORDS)


def test_vocabularies_must_agree() -> None:
    with pytest.raises(ValueError, match=r"has 8 tokens \(model: 8\).*has 9 \(model: 9\), and 1 differ, such as 'i'"):
        pair_of(small_model(8), small_model(9), WORDS, [*WORDS, "i"])
    with pytest.raises(ValueError, match=r"8 differ, such as '[ah]': id"):
        pair_of(small_model(8), small_model(8), WORDS, WORDS[::-1])


def test_the_students_own_tokens_come_last() -> None:
    own = small_model(16, student_tokens=["<ask>"])
    assert pair_of(own, small_model(16), [*WORDS, "<ask>"], WORDS).vocabulary == 8
    with pytest.raises(ValueError, match=r"own tokens .* after the 8 shared ids"):
        pair_of(own, small_model(16), WORDS)
    with pytest.raises(ValueError, match="differ, such as"):
        pair_of(small_model(16), small_model(16), [*WORDS, "<ask>"], WORDS)


def test_end_tokens_must_agree() -> None:
    assert pair_of(small_model(8, eos_token_id=[3, 1]), small_model(8, eos_token_id=[1, 3]), WORDS).end_tokens == (1, 3)
    unset = [small_model(8, eos_token_id=None) for _ in range(2)]
    assert pair_of(unset[0], unset[1], WORDS, eos_token="b").end_tokens == (1,)
    generation = small_model(8)
    generation.generation_config.eos_token_id = [1, 0]
    assert pair_of(generation, small_model(8, eos_token_id=[0, 1]), WORDS).end_tokens == (0, 1)
    with pytest.raises(ValueError, match=r"same end tokens .*\(0,\).*\(0, 1\)"):
        pair_of(small_model(8), generation, WORDS)
    with pytest.raises(ValueError, match="'memory:student' names none"):
        pair_of(unset[0], unset[1], WORDS)
    with pytest.raises(ValueError, match="end tokens among ids 0 to 7"):
        pair_of(small_model(12, eos_token_id=9), small_model(8), WORDS)


@pytest.mark.parametrize("kind", ["t5", "bart", "marian"])
def test_encoder_decoders_load_from_folders(kind: str, tmp_path: Path) -> None:
    known = source_pair(kind)
    for name, model in (("student", known.student), ("teacher", known.teacher)):
        model.save_pretrained(tmp_path / name)
        known.tokenizer.save_pretrained(tmp_path / name)
    pair = load_pair(str(tmp_path / "student"), str(tmp_path / "teacher"), "cpu", "float64")
    assert pair.encoder_decoder
    assert (pair.conventions, pair.end_tokens, pair.vocabulary) == (known.conventions, known.end_tokens, 13)
    for one, other in zip(pair.teacher.parameters(), known.teacher.parameters(), strict=True):
        assert torch.equal(one, other)


def test_pairs_are_of_one_kind_and_begin_alike() -> None:
    sources = source_pair("t5")
    words = sources.tokenizer.convert_ids_to_tokens(range(13))
    with pytest.raises(ValueError, match="of one kind; 'memory:student' is decoder-only"):
        pair_of(small_model(13), sources.teacher, words)
    with pytest.raises(ValueError, match=r"begin and end their texts alike.*opening=\(1,\).*opening=\(0, 12\)"):
        pair_of(sources.student, source_pair("bart").teacher, words)


def test_a_name_in_memory_can_be_given_again() -> None:
    first = pair_of(small_model(8), small_model(8), WORDS)
    assert load_pair("memory:student", "memory:teacher") is first
    second = pair_of(small_model(8), small_model(8), WORDS)
    assert second is not first
    assert load_pair("memory:student", "memory:teacher").student is second.student
    assert register_pair("memory:both", second.student, second.teacher, second.tokenizer).name == (
        "memory:both-student < memory:both-teacher"
    )


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device() == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"found none. Use 'cpu' or 'auto'"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="number below 2; got 'cuda:2'"):
        resolve_device("cuda:2")
    for name in ("gpu", "cuda:", "cuda:x", "cpu:0", ""):
        with pytest.raises(ValueError, match="Expected device"):
            resolve_device(name)


def test_the_tiny_pair_touches_no_global_generator_and_repeats() -> None:
    state = torch.random.get_rng_state()
    pair = tiny_pair(seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    again = tiny_pair(seed=3)
    for one, other in zip(pair.teacher.parameters(), again.teacher.parameters(), strict=True):
        assert torch.equal(one, other)
    assert load_pair(*tiny_names(again)).student is again.student
    assert again.tokenizer.decode(again.tokenizer("a b c").input_ids) == "a b c"


def test_the_tiny_pair_disagrees_now_and_then() -> None:
    pair = tiny_pair()
    prompts = torch.randint(1, 11, (200, 5), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        student, teacher = (model(input_ids=prompts).logits[:, -1] for model in (pair.student, pair.teacher))
    assert 0.4 < (student.argmax(-1) == teacher.argmax(-1)).double().mean() < 0.85
    assert 0.05 < teacher.softmax(-1)[:, 0].mean() < 0.3
