"""A small invented archive of package descriptions in two languages, and programs that stand for apt."""

from __future__ import annotations

from hashlib import md5
from pathlib import Path

from scripts.debian_index import Descriptions

THINGS = {"clock": "orologio", "letter": "lettera", "garden": "giardino", "song": "canzone", "bridge": "ponte"}
DOINGS = {"draws": "disegna", "counts": "conta", "sorts": "ordina", "mends": "ripara", "prints": "stampa"}
NAMES = ("ada", "bruno", "cleo", "dora", "enzo", "flo", "gino", "hugo")
CONFIGURATION = "configuration"
"""Where the stand-in for apt puts the configuration that it was given."""

APT_GET = """#!/bin/sh
cp "$2" MIRROR/configuration
lists=$(sed -n 's/^Dir::State::lists "\\(.*\\)";/\\1/p' "$2")
case "$*" in
*update*)
  if [ -e MIRROR/down ]; then echo "W: Failed to fetch http://mirror.invalid" >&2; exit 0; fi
  cp MIRROR/Debian_99_* MIRROR/Other_* "$lists" ;;
*indextargets*)
  if [ -e MIRROR/down ]; then exit 0; fi
  echo "Debian|invented|Packages||${lists}Debian_99_Packages.lz4"
  echo "Other|invented|Packages||${lists}Other_Packages.lz4"
  for language in en it; do
    if grep -q "\\"$language\\"" "$2"; then
      echo "Debian|invented|Translations|$language|${lists}Debian_99_Translation-$language.lz4"
    fi
  done
  echo "Debian|invented|Contents||${lists}Debian_99_Contents.lz4" ;;
esac
"""
"""Copies the mirror's lists, or lists what lies there, as `apt-get -c FILE update` and `indextargets` would."""
APT_HELPER = '#!/bin/sh\ncat "$2"\n'


def invented() -> Descriptions:
    """Two hundred packages, each of a source of its own."""
    found = Descriptions(texts={"en": {}, "it": {}})
    for name in NAMES:
        for thing, cosa in THINGS.items():
            for does, fa in DOINGS.items():
                english = (
                    f"{name} {does} a {thing}\n {name.capitalize()} is a program that {does} each {thing}\n of {name} "
                    f"when it is asked to.\n .\n The {thing} of {name} {does} well."
                )
                italian = (
                    f"{name} {fa} un {cosa}\n {name.capitalize()} è un programma che {fa} ogni {cosa}\n di {name} "
                    f"quando lo si chiede.\n .\n Il {cosa} di {name} {fa} bene."
                )
                key = md5(english.encode(), usedforsecurity=False).hexdigest()
                found.sources[key] = f"{name}-{does}-{thing}"
                found.texts["en"][key], found.texts["it"][key] = english, italian
    return found


def archive(folder: Path) -> Path:
    """Write the archive's indices, and a package of somebody else's, as apt would keep them."""
    folder.mkdir()
    found = invented()
    packages = [
        f"Package: {source}-bin\nSource: {source} (1.0)\nDescription-md5: {key}\n"
        for key, source in found.sources.items()
    ]
    (folder / "Debian_99_Packages.lz4").write_text("\n".join(packages))
    (folder / "Other_Packages.lz4").write_text("Package: foreign\nDescription-md5: 0\n")
    for language, texts in found.texts.items():
        stanzas = [
            f"Package: {found.sources[key]}-bin\nDescription-md5: {key}\nDescription-{language}: {text}\n"
            for key, text in texts.items()
        ]
        (folder / f"Debian_99_Translation-{language}.lz4").write_text("\n".join(stanzas), encoding="utf-8")
    (folder / "Debian_99_InRelease").write_text(
        "Origin: Debian\nVersion: 99.1\nCodename: invented\nDate: today\nSHA256:\n"
        " 0 1 main/i18n/Translation-en\n 0 1 main/i18n/Translation-en.xz\n 0 1 main/i18n/Translation-it.xz\n"
    )
    return folder
