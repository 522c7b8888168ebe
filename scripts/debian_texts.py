"""From package descriptions to examples: prose paragraphs, parallel texts, paragraphs with their headline."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median

from scripts.debian_index import Descriptions

SYNOPSIS, PARAGRAPH = "synopsis", "paragraph"
KINDS = (SYNOPSIS, PARAGRAPH)
WORDS = (10, 80)  # of a paragraph that is to be summarised
MAX_HEADLINES = 8  # a paragraph under more headlines than these is about none of their packages
MAX_RATIO = 2.5  # how far a translation's relative length may be from the usual one, either way
_BULLET = re.compile(r"\s|[*•+-]\s|o\s|\d+[.)]\s")
_UNFINISHED = "<trans>"  # stands for what a translator has left out
_DIGITS = re.compile(r"\d+(?:[.\d]*\d)?")


@dataclass(frozen=True)
class Description:
    """A description taken apart: its one-line synopsis, and its paragraphs, None where one is no prose."""

    synopsis: str
    paragraphs: tuple[str | None, ...]


@dataclass
class Example:
    """A text with what it should become, and the source packages that it was found in."""

    text: str
    kind: str
    targets: list[str] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)


def take_apart(description: str) -> Description:
    """Synopsis and paragraphs, their lines joined; lists and verbatim text are no prose."""
    synopsis, *lines = description.split("\n")
    blocks: list[list[str]] = [[]]
    for line in lines:
        line = line[1:].rstrip()
        if line == ".":
            blocks.append([])
        else:
            blocks[-1].append(line)
    prose = (None if any(_BULLET.match(line) for line in block) else join_lines(block) for block in blocks if block)
    return Description(join_lines([synopsis]), tuple(prose))


def join_lines(lines: Iterable[str]) -> str:
    """One line: no blank after a hyphen inside a word, nor between two characters of a script without blanks."""
    text = ""
    for line in lines:
        line = " ".join(line.split())
        if not text or not line or (text[-1] == "-" and text[-2:-1].isalpha() and line[0].isalpha()):
            text += line
        else:
            text += line if _wide(text[-1]) and _wide(line[0]) else " " + line
    return text


def translations(found: Descriptions, source: str, target: str, kinds: Collection[str], longest: int) -> list[Example]:
    """Parallel texts: synopses, and paragraphs by their place where both descriptions have as many.

    Left out: what is longer than `longest` characters, not translated or only in part, of an unusual relative length.
    """
    pairs = list(_parallel(found, source, target, kinds))
    usual = median([len(goal) / len(text) for *_, text, goal in pairs] or [1.0])
    examples: dict[str, Example] = {}
    for package, kind, text, goal in pairs:
        ratio = len(goal) / len(text) / usual
        if max(len(text), len(goal)) <= longest and text != goal and 1 / MAX_RATIO <= ratio <= MAX_RATIO:
            _add(examples, package, kind, text, goal)
    return list(examples.values())


def summaries(found: Descriptions, language: str = "en") -> list[Example]:
    """First paragraphs with the synopses that stand above them, the main package's (shortest) first."""
    examples: dict[str, Example] = {}
    for key, description in _apart(found, language):
        first = next(iter(description.paragraphs), None)
        if first is not None and WORDS[0] <= len(first.split()) <= WORDS[1] and description.synopsis:
            _add(examples, found.sources[key], PARAGRAPH, first, description.synopsis)
    for example in examples.values():
        example.targets.sort(key=lambda target: (len(target), target))
    return [example for example in examples.values() if len(example.targets) <= MAX_HEADLINES]


def family(source: str) -> str:
    """The name of a source package without version numbers: `gcc-12-cross` and `gcc-13-cross` are one family."""
    return re.sub(r"-*\d[\d.]*", "", source) or source


def alike(text: str) -> str:
    """What two texts share that differ in case, blanks and numbers only."""
    return _DIGITS.sub("0", " ".join(text.casefold().split()))


def _parallel(
    found: Descriptions, source: str, target: str, kinds: Collection[str]
) -> Iterator[tuple[str, str, str, str]]:
    """(source package, kind, text, translation) of whatever can be aligned."""
    others = dict(_apart(found, target))
    for key, here in _apart(found, source):
        there = others.get(key)
        if there is None:
            continue
        package = found.sources[key]
        if SYNOPSIS in kinds and here.synopsis and there.synopsis:
            yield package, SYNOPSIS, here.synopsis, there.synopsis
        if PARAGRAPH in kinds and len(here.paragraphs) == len(there.paragraphs):
            for text, goal in zip(here.paragraphs, there.paragraphs, strict=True):
                if text and goal:
                    yield package, PARAGRAPH, text, goal


def _apart(found: Descriptions, language: str) -> Iterator[tuple[str, Description]]:
    """Descriptions of packages in the archive, by MD5 sum, unless their translation is unfinished."""
    for key, text in found.texts.get(language, {}).items():
        if key in found.sources and _UNFINISHED not in text:
            yield key, take_apart(text)


def _add(examples: dict[str, Example], package: str, kind: str, text: str, goal: str) -> None:
    example = examples.setdefault(text, Example(text, kind))
    if goal not in example.targets:
        example.targets.append(goal)
    example.sources.add(package)


def _wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
