"""Data from package descriptions: what is read, aligned, split and refused, on a small invented archive without apt."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest

from scripts import debian_data, debian_index
from scripts.command import run
from scripts.debian_data import MOST, Debian, build, part_of, report, split
from scripts.debian_index import Descriptions, fetch, stanzas
from scripts.debian_texts import Example, alike, family, join_lines, summaries, take_apart, translations
from tests.archive import APT_GET, APT_HELPER, CONFIGURATION, archive, invented
from tw_env.tasks.prepared import HOME, SPLITS, data_home
from tw_env.tasks.text import TextPairs


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose apt "downloads" the invented archive; returns the folder of its mirror."""
    mirror, programs = archive(tmp_path / "mirror"), tmp_path / "bin"
    programs.mkdir()
    for name, text in (("apt-get", APT_GET), ("apt-helper", APT_HELPER)):
        (programs / name).write_text(text.replace("MIRROR", str(mirror)))
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(debian_index, "HELPER", programs / "apt-helper")
    monkeypatch.setenv(HOME, str(tmp_path / "home"))
    return mirror


class TestDescriptions:
    def test_paragraphs_are_joined_and_lists_are_no_prose(self) -> None:
        found = take_apart(
            "a  headline\n One line\n and cross-\n platform.\n .\n Has:\n  * lists\n .\n * bare\n .\n Ends."
        )
        assert found.synopsis == "a headline"
        assert found.paragraphs == ("One line and cross-platform.", None, None, "Ends.")

    def test_lines_meet_as_their_script_wants(self) -> None:
        assert join_lines(["語の", "書き方と GNU", "です"]) == "語の書き方と GNU です"
        assert join_lines(["1 -", "2"]) == "1 - 2", "a dash is no hyphen"

    def test_a_family_has_no_version_and_likeness_no_number(self) -> None:
        assert family("gcc-12-cross") == family("gcc-13-cross") == "gcc-cross"
        assert family("python3.11") == family("python3.13") == "python"
        assert family("0123") == "0123"
        assert alike("Foo  2.10 docs") == alike("foo 3 docs")

    def test_stanzas_keep_their_lines(self) -> None:
        assert list(stanzas("A: 1\nB: x\n y\n .\n\n\nA: 2")) == [{"A": "1", "B": "x\n y\n ."}, {"A": "2"}]


def described(texts: dict[str, dict[str, str]]) -> Descriptions:
    keys = {key for own in texts.values() for key in own}
    return Descriptions(sources={key: f"source-{key}" for key in keys}, texts=texts)


class TestTranslations:
    ENGLISH = "small tool\n It does things.\n .\n And more things."

    def pairs(self, other: str, longest: int = 100) -> list[tuple[str, str, list[str]]]:
        found = described({"en": {"k": self.ENGLISH}, "it": {"k": other}})
        made = translations(found, "en", "it", ("synopsis", "paragraph"), longest)
        return [(example.kind, example.text, example.targets) for example in made]

    def test_synopses_and_paragraphs_are_aligned(self) -> None:
        assert self.pairs("piccolo arnese\n Fa cose.\n .\n E altre cose.") == [
            ("synopsis", "small tool", ["piccolo arnese"]),
            ("paragraph", "It does things.", ["Fa cose."]),
            ("paragraph", "And more things.", ["E altre cose."]),
        ]

    def test_paragraphs_that_cannot_be_aligned_are_left_out(self) -> None:
        assert self.pairs("piccolo arnese\n Fa cose.") == [("synopsis", "small tool", ["piccolo arnese"])]

    def test_what_is_not_translated_is_left_out(self) -> None:
        assert [kind for kind, *_ in self.pairs("small tool\n Fa cose.\n .\n E altre cose.")] == ["paragraph"] * 2
        assert self.pairs("piccolo arnese\n <trans>\n .\n <trans>") == []

    def test_length_and_relative_length(self) -> None:
        short = self.pairs("piccolo arnese\n Fa cose.\n .\n E altre cose.", longest=14)
        assert [text for _, text, _ in short] == ["small tool"]
        assert len(self.pairs("piccolo arnese\n Fa delle cose.\n .\n E" + 60 * "h")) == 2

    def test_kinds_and_the_same_text_twice(self) -> None:
        found = described({"en": {"k": "tool", "l": "tool"}, "it": {"k": "arnese", "l": "strumento"}})
        (example,) = translations(found, "en", "it", ("synopsis",), 99)
        assert (example.targets, example.sources) == (["arnese", "strumento"], {"source-k", "source-l"})
        assert translations(found, "en", "it", ("paragraph",), 99) == []


class TestSummaries:
    def test_first_paragraphs_of_the_right_length_with_all_their_headlines(self) -> None:
        prose = " ".join(f"word{i}" for i in range(12))
        texts = {
            "a": f"longer headline\n {prose}",
            "b": f"headline\n {prose}",
            "c": "headline\n Too short.",
            "d": "bare",
        }
        (example,) = summaries(described({"en": texts}))
        assert (example.text, example.targets) == (prose, ["headline", "longer headline"])

    def test_boilerplate_under_many_headlines_is_left_out(self) -> None:
        prose = " ".join(f"word{i}" for i in range(12))
        assert summaries(described({"en": {str(i): f"headline {i}\n {prose}" for i in range(9)}})) == []


class TestSplit:
    def test_a_family_stays_together_and_shared_texts_go_to_the_first_part(self) -> None:
        examples = [Example(f"text {'x' * i}", "synopsis", ["t"], {f"package{'y' * i}"}) for i in range(400)]
        parts = split(examples)
        assert all(part_of(next(iter(example.sources))) == part for part, own in parts.items() for example in own)
        assert max(SPLITS, key=lambda part: len(parts[part])) == "pair"
        home = {part: next(iter(parts[part][0].sources)) for part in SPLITS}
        shared = Example("Shared 1", "synopsis", ["t"], {home["dev"], home["test"]})
        alike_ = Example("shared 2", "synopsis", ["t"], {home["policy"]})
        parts = split([shared, alike_])
        assert [example.text for example in parts["policy"]] in (["Shared 1", "shared 2"], ["shared 2", "Shared 1"])

    def test_one_family_does_not_crowd_the_parts_that_judge(self) -> None:
        names = {part_of(f"package{'y' * i}"): f"package{'y' * i}" for i in range(60)}
        for part in ("pair", "test"):
            many = [Example(f"text {'x' * i}", "synopsis", ["t"], {names[part]}) for i in range(3 * MOST)]
            assert len(split(many)[part]) == (3 * MOST if part == "pair" else MOST)


class TestBuild:
    def test_parts_are_disjoint_and_play_and_the_same_archive_gives_the_same_bytes(self, tmp_path: Path) -> None:
        options = Debian(longest=200)
        meta = build(invented(), options, ("en", "it"), tmp_path / "one")
        build(invented(), options, ("en", "it"), tmp_path / "two")
        prompts: list[str] = []
        for part in SPLITS:
            content = (tmp_path / "one" / f"{part}.jsonl").read_bytes()
            assert content == (tmp_path / "two" / f"{part}.jsonl").read_bytes()
            assert hashlib.sha256(content).hexdigest() == meta["sha256"][f"{part}.jsonl"]
            task = TextPairs(tmp_path / "one" / f"{part}.jsonl", part, "chrf")
            assert len(task) == meta["prompts"][part] > 0
            prompts += task.prompts
        assert len({alike(prompt) for prompt in prompts}) == len({*prompts}) == len(prompts)
        assert json.loads((tmp_path / "one" / "meta.json").read_text()) == meta
        assert "licence" in meta["licence"]

    def test_trivial_outputs_are_scored_and_told(self, tmp_path: Path) -> None:
        meta = build(invented(), Debian(), ("en", "it"), tmp_path)
        assert 0 < meta["trivial"]["chrf"]["score"] < 0.9
        lead = build(invented(), Debian(task="summarize"), ("en",), tmp_path)["trivial"]
        assert lead["what"] == "first 8 words"
        assert lead["rouge1"]["score"] >= lead["rougeL"]["score"] > 0
        told = "\n".join(report(meta, tmp_path))
        assert all(words in told for words in ("copied source", "version:", meta["sha256"]["dev.jsonl"], "no explicit"))

    def test_too_little_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="empty"):
            build(described({"en": {"k": "tool"}, "it": {"k": "arnese"}}), Debian(), ("en", "it"), tmp_path)


class TestApt:
    def test_the_command(self, apt: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run(Debian.run, {"debian": Debian}, None, ["debian", "--pair", "en-it"])
        shown = capsys.readouterr().out
        assert "Debian 99.1 (invented)" in shown
        folder = data_home() / "debian" / "en-it"
        assert {path.name for path in folder.iterdir()} == {"meta.json", *(f"{part}.jsonl" for part in SPLITS)}
        assert "Debian_99_Translation-it" in json.loads((folder / "meta.json").read_text())["indices"]

    def test_apt_keeps_to_its_own_folders_and_runs_no_hooks(self, apt: Path) -> None:
        found = fetch(["it"], data_home() / "apt")
        given = (apt / CONFIGURATION).read_text()
        assert f'Dir::State::lists "{data_home()}/apt/lists/";' in given
        assert 'Acquire::Languages { "en"; "it"; };' in given
        assert "#clear APT::Update::Post-Invoke;" in given
        assert found.sources == invented().sources, "packages of other archives are left out"
        assert found.texts == invented().texts

    def test_an_unknown_language_gets_the_list(self, apt: Path) -> None:
        with pytest.raises(ValueError, match=r"languages out of en, it; got xx"):
            fetch(["xx"], data_home() / "apt")

    def test_no_network(self, apt: Path) -> None:
        (apt / "down").touch()
        with pytest.raises(ConnectionError, match=r"network up.* W: Failed to fetch"):
            fetch(["it"], data_home() / "apt")

    def test_no_apt(self, apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(debian_index.shutil, "which", lambda name: None)
        with pytest.raises(FileNotFoundError, match="Debian or Ubuntu machine"):
            Debian().run()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"pair": "it"}, "got 'it'"),
            ({"pair": "en-en"}, "two languages"),
            ({"longest": 0}, "longest"),
            ({"kinds": ()}, "kind"),
        ],
    )
    def test_bad_options_are_refused_before_anything_is_fetched(
        self, arguments: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(debian_data, "fetch", pytest.fail)
        with pytest.raises(ValueError, match=message):
            Debian(**arguments).run()
