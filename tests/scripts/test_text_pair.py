"""Pairs for text tasks: tokenizer, distillation, cards, and what is shipped, on a small invented archive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast, T5ForConditionalGeneration

from agents.supervised import SupervisedConfig
from scripts.debian_data import Debian, build
from scripts.prepare_text import Translate
from scripts.pronounce_data import rule_words
from scripts.text_card import ABOVE, BELOW, Judged, complaints, read_meta
from scripts.text_pair import ModelRecipe, beginnings, greedy, tokenizer_of, written_by
from scripts.text_tokenizer import build_tokenizer
from tests.archive import invented
from tw_env.costs import LatencyTable
from tw_env.decoding.loading import load_pair
from tw_env.tasks.metrics import CorpusScore
from tw_env.tasks.prepared import HOME, debian_folder
from tw_env.tasks.shipped import DATA
from tw_env.tasks.translate import Translate as Task

VOCABULARY = 600


@dataclass
class Small(Translate):
    """The recipe with models that are fitted in seconds."""

    def recipes(self) -> dict[str, ModelRecipe]:
        """A teacher that can learn the invented language, and a student that hardly can."""
        training = SupervisedConfig(self.teacher_steps, 30, 32, 2e-2, warmup=5, ema_decay=0.9, checkpoint_every=30)
        short = SupervisedConfig(self.student_steps, 10, 32, 2e-2, warmup=5, ema_decay=0.9, checkpoint_every=30)
        return {
            "teacher": ModelRecipe("teacher", 32, 1, 1, heads=2, intermediate=64, training=training),
            "student": ModelRecipe("student", 8, 1, 1, heads=1, intermediate=8, training=short),
        }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A machine whose English-Italian data are the invented ones."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME, str(folder))
        build(invented(), Debian(), ("en", "it"), debian_folder("en-it"))
        yield folder


@pytest.fixture(scope="module")
def made(home: Path) -> Small:
    """A finished run."""
    options = Small(
        home / "work", home / "shipped", vocabulary=VOCABULARY, copying_steps=6, teacher_steps=60, student_steps=15,
        device="cpu",
    )  # fmt: skip
    options.run()
    return options


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(["the package draws a picture", "il pacchetto disegna una figura"] * 9, VOCABULARY)


def test_any_text_can_be_written(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["the package", "a naïve 漢字 ☃", "2.5%  twice", "__init__ (x=1)", *rule_words()]
    for text in texts:
        ids = tokenizer(text).input_ids
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) <= VOCABULARY


def test_words_of_the_texts_and_of_rules_fall_in_few_pieces(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = [len(tokenizer(word, add_special_tokens=False).input_ids) for word in rule_words()]
    letters = sum(map(len, rule_words()))
    assert sum(pieces) < 0.6 * letters
    text = "the package draws a picture"
    assert len(tokenizer(text, add_special_tokens=False).input_ids) < 0.6 * len(text)


def test_a_vocabulary_without_room_for_words_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 418 tokens"):
        build_tokenizer(["a text"], 300)


def test_the_pair_is_learnt_and_shipped(made: Small, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made.shipped.folder
    pair = load_pair(str(folder / "student"), str(folder / "teacher"), device="cpu")
    assert pair.encoder_decoder
    task = Task(split="test")
    prompts = pair.tokenizer(task.prompts).input_ids
    quality = {}
    for role, model in (("student", pair.student), ("teacher", pair.teacher)):
        texts = pair.tokenizer.batch_decode(greedy(model, prompts, 40), skip_special_tokens=True)
        quality[role] = sum(map(task.quality, range(len(texts)), texts)) / len(texts)
    copied = sum(map(task.quality, range(len(task)), task.prompts)) / len(task)
    assert quality["teacher"] > copied + 0.1
    assert quality["teacher"] > quality["student"] + 0.05


def test_a_finished_run_is_not_done_again(made: Small) -> None:
    weights = made.work / "teacher" / "model" / "model.safetensors"
    before = weights.read_bytes()
    made.run()
    assert weights.read_bytes() == before


def test_models_begin_with_copying(made: Small, tokenizer: PreTrainedTokenizerFast) -> None:
    for role in ("teacher", "student"):
        assert json.loads((made.work / role / "copying" / "took.json").read_text())["steps"] == made.copying_steps
    long, short = list(range(2, 30)), [5, 6, 1]
    assert beginnings([long, short], end=1) == [[[*long[:12], 1]], [short]]
    assert replace(made, copying_steps=0).copying(made.recipes()["student"], tokenizer, [], str, made.work) is None


def test_the_shipped_pair_has_its_latency(made: Small) -> None:
    table = LatencyTable.load(made.shipped.folder / "latency.json")
    assert table.student_prompt_ms > 0


def test_cards_say_where_the_models_come_from(made: Small) -> None:
    meta = read_meta(debian_folder("en-it"))
    for role, taught in (("teacher", "the references"), ("student", "sequence-level distillation")):
        card = (made.shipped.folder / role / "README.md").read_text(encoding="utf-8")
        assert "no explicit licence" in card
        assert all(digest in card for digest in meta["sha256"].values())
        assert all(release in card for release in meta["releases"])
        assert taught in card
        assert f"python -m scripts.prepare translate --copying-steps 6 --{role}-steps" in card
        assert "(1.0 epochs) after 6 in which it copied the first 12 tokens" in card or role == "teacher"
        assert "copied source, test" in card


def test_other_pairs_are_not_shipped_in_place_of_the_packages_own() -> None:
    own = Translate()
    assert (own.work, own.shipped.folder) == (Path("runs/prepare-translate"), DATA / "translate")
    french, trial = Translate(pair="en-fr"), Translate(limit=100)
    assert french.work == Path("runs/prepare-translate-en-fr")
    assert french.shipped.folder == french.work / "shipped" / "translate"
    assert trial.shipped.folder == trial.work / "shipped" / "translate"
    assert Translate(out=Path("there"), limit=100).shipped.folder == Path("there/translate")
    assert replace(french, seed=3).command("teacher").endswith("--batch-size 128 --seed 3 --pair en-fr")


def test_work_on_other_texts_is_refused(made: Small) -> None:
    with pytest.raises(ValueError, match="Choose another --work-dir"):
        tokenizer_of(Task(split="dev"), VOCABULARY, made.work / "tokenizer")


def test_greedy_texts_are_those_of_transformers(made: Small) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(made.work / "teacher" / "model", dtype=torch.float64).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(made.work / "tokenizer")
    prompts = tokenizer(Task(split="dev").prompts[:6]).input_ids
    for prompt, written in zip(prompts, greedy(model, prompts, 12), strict=True):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, 1:].tolist()
        assert written == expected


def test_a_teacher_that_was_stopped_writes_the_rest(made: Small, tmp_path: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(made.work / "teacher" / "model", dtype=torch.float32).eval()
    assert isinstance(model, T5ForConditionalGeneration)
    prompts, weights = [[5 + i, 1] for i in range(6)], made.work / "tokenizer" / "origin.json"
    whole = written_by(model, weights, prompts, 5, tmp_path)
    (path,) = tmp_path.glob("outputs-*")
    lines = path.read_text().splitlines()
    assert [[json.loads(line)] for line in lines] == whole
    path.write_text("\n".join(["[7]", *lines[1:3], lines[3][:2]]))
    assert written_by(model, weights, prompts, 5, tmp_path) == [[[7]], *whole[1:]]


@pytest.mark.parametrize(
    ("teacher", "student", "found"),
    [
        (0.5, 0.4, []),
        (0.3 + ABOVE / 2, 0.1, ["above the trivial chrf"]),
        (0.5, 0.5 - BELOW / 2, ["below the teacher's chrf"]),
        (0.3, 0.3, ["above the trivial", "below the teacher's"]),
    ],
)
def test_only_a_pair_with_a_gap_is_shipped(teacher: float, student: float, found: list[str]) -> None:
    models = [Judged({"dev": {"chrf": CorpusScore(score, "")}}, {"dev": 1.0}) for score in (teacher, student)]
    reasons = complaints("translate", models[0], models[1], {"dev": {"chrf": 0.3}})
    assert len(reasons) == len(found)
    assert all(part in reason for part, reason in zip(found, reasons, strict=True))
