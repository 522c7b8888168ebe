"""Package descriptions of Debian and Ubuntu in many languages, as apt downloads and verifies them.

apt is run with lists and caches of its own, so that neither the machine's package lists nor its settings change, and
no rights of an administrator are needed. Mirrors, proxies and keys are those that the machine's apt is set up with.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ORIGINS = ("Debian", "Ubuntu")
"""Whose archives are read; other sources of the machine are left out, so that others get the same data."""
HELPER = Path("/usr/lib/apt/apt-helper")
TIMEOUT = 900  # seconds that apt may take
_FORMAT = "$(ORIGIN)|$(CODENAME)|$(CREATED_BY)|$(LANGUAGE)|$(FILENAME)"
_RELEASE = ("Origin", "Version", "Suite", "Codename", "Date")
_OFFERED = re.compile(r"/i18n/Translation-([A-Za-z_]+)(?:\.\w+)?$")


@dataclass(frozen=True)
class IndexFile:
    """One downloaded index: packages, or descriptions in one language ("" for packages)."""

    origin: str
    codename: str
    language: str
    path: Path


@dataclass
class Descriptions:
    """Descriptions by language and by the MD5 sum of their English original, which joins them.

    Attributes:
        sources: MD5 sum -> name of the source package whose binary package is described so.
        texts: language -> MD5 sum -> description as in the index, lines and all.
        hashes: name of each index -> SHA-256 of its content.
        releases: "Debian 12.11 (bookworm), Sat, 17 May 2025 ...", one for each archive that was read.
    """

    sources: dict[str, str] = field(default_factory=dict)
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    releases: list[str] = field(default_factory=list)


def fetch(languages: Iterable[str], folder: Path) -> Descriptions:
    """Download (or bring up to date) and read the indices of English and of `languages`.

    Args:
        languages: codes as Debian writes them: "it", "pt_BR". folder: where apt's own lists may live.

    Raises:
        FileNotFoundError: no apt on this machine.
        ConnectionError: apt reaches no archive of `ORIGINS`.
        ValueError: a language that the archive has no descriptions in; the message lists those that it has.
    """
    wanted = list(dict.fromkeys(["en", *languages]))
    configuration = _configure(folder, wanted)
    complaints = _update(configuration)
    indices = list(_indices(configuration))
    if not any(index.language == "en" for index in indices) or all(index.language for index in indices):
        raise ConnectionError(
            f"Expected apt to find package indices of {' or '.join(ORIGINS)}; it found none. Is the network up, and do "
            f"the machine's sources name such an archive? apt said: {complaints or 'nothing'}"
        )
    missing = [language for language in wanted if language not in {index.language for index in indices}]
    if missing:
        known = ", ".join(offered(folder / "lists"))
        hint = f" apt said: {complaints}" if complaints else ""
        raise ValueError(f"Expected languages out of {known}; got {', '.join(missing)}, which the archive lacks.{hint}")
    return read(indices, releases(folder / "lists"))


def read(indices: Iterable[IndexFile], described: Iterable[str] = ()) -> Descriptions:
    """The content of downloaded indices; the first of several descriptions of the same original counts."""
    found = Descriptions(releases=sorted(described))
    for index in indices:
        content = _content(index.path)
        found.hashes[index.path.name.removesuffix(index.path.suffix)] = hashlib.sha256(content).hexdigest()
        own = found.texts.setdefault(index.language, {}) if index.language else None
        for stanza in stanzas(content.decode("utf-8")):
            key = stanza.get("Description-md5", "")
            if own is None:
                found.sources.setdefault(key, stanza.get("Source", stanza["Package"]).split()[0])
            elif text := stanza.get(f"Description-{index.language}"):
                own.setdefault(key, text)
    return found


def stanzas(content: str) -> Iterator[dict[str, str]]:
    """Fields of each paragraph of a control file; lines that go on with a blank belong to the field above."""
    fields: dict[str, str] = {}
    name = ""
    for line in content.split("\n"):
        if not line:
            if fields:
                yield fields
            fields = {}
        elif line[0] in " \t":
            fields[name] += "\n" + line
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    if fields:
        yield fields


def offered(lists: Path) -> list[str]:
    """Languages that the archives say they have descriptions in."""
    lines = (line for path in lists.glob("*Release") for line in path.read_text(encoding="utf-8").splitlines())
    return sorted({match[1] for line in lines if (match := _OFFERED.search(line))})


def releases(lists: Path) -> Iterator[str]:
    """Origin, version, name and date of each archive."""
    for path in lists.glob("*Release"):
        lines = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
        head = {name: value.strip() for name, _, value in lines if name in _RELEASE}
        if head.get("Origin") in ORIGINS:
            version = head.get("Version", head.get("Suite", ""))
            yield f"{head['Origin']} {version} ({head.get('Codename', 'no name')}), {head.get('Date', 'no date')}"


def _configure(folder: Path, languages: Iterable[str]) -> Path:
    """Write apt's configuration: what the machine says, but own folders, these languages and no hooks."""
    if shutil.which("apt-get") is None or not HELPER.is_file():
        raise FileNotFoundError(
            "Expected a Debian or Ubuntu machine with apt, found no apt-get here. Prepare the data on such a machine "
            "(a container will do) and copy the folder, or play your own: data='mine.jsonl', or a dataset's name."
        )
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    lines = [
        f'Dir::State::lists "{folder.absolute()}/lists/";',
        f'Dir::Cache "{folder.absolute()}/cache/";',
        'APT::Sandbox::User "root";',  # apt's own user can't write into a home folder
        "#clear Acquire::Languages;",  # a value alone would be added to what the machine's settings say
        "Acquire::Languages { " + " ".join(f'"{language}";' for language in languages) + " };",
        *(f"#clear APT::Update::{hook};" for hook in ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success")),
    ]
    path = folder / "apt.conf"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _update(configuration: Path) -> str:
    """Bring the lists up to date; returns what apt complained about, since it ends well in any case."""
    try:
        done = _apt(["apt-get", "-c", str(configuration), "-q", "update"])
    except subprocess.TimeoutExpired as error:
        raise ConnectionError(f"Expected apt to be done in {TIMEOUT} s, it was not. Is the network up?") from error
    lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith(("E:", "W:"))]
    return " ".join(lines[:4])


def _indices(configuration: Path) -> Iterator[IndexFile]:
    listed = _apt(["apt-get", "-c", str(configuration), "indextargets", "--format", _FORMAT])
    for line in listed.stdout.decode().splitlines():
        origin, codename, kind, language, name = line.split("|", 4)
        if origin in ORIGINS and kind in ("Packages", "Translations"):
            yield IndexFile(origin, codename, language if kind == "Translations" else "", Path(name))


def _content(path: Path) -> bytes:
    """The index as text, however apt compressed it."""
    done = _apt([str(HELPER), "cat-file", str(path)])
    if done.returncode:
        raise OSError(f"Expected apt to read {path}; it said: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _apt(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT, check=False)
