"""Rows of a sweep in a file, which a run that was broken off takes up again."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Table:
    """The rows on disk; those of a broken-off sweep are taken up again.

    Args:
        path: the file; one that isn't there is begun.
        writes: whether changes go to the disk; of several processes that keep the same table, one writes it.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self._writes = path, writes
        self.content: dict[str, Any] = {"settings": {}, "ends": {}, "search": [], "rows": []}
        if path.is_file():
            self.content = json.loads(path.read_text())

    def keep_to(self, settings: dict[str, Any], may_differ: Collection[str] = (), part: str | None = None) -> None:
        """Note what the rows that will be added are made with.

        Args:
            may_differ: names of settings that later rows may change. part: what the settings are those of, if the file
                holds several tables that go stale apart.

        Raises:
            ValueError: other settings than those of the rows that are there.
        """
        settings = json.loads(json.dumps(settings, default=str))
        known = self.content["settings"] if part is None else self.content["settings"].setdefault(part, {})
        bound = known if part is None else [row for row in self.content["rows"] if row["part"] == part]
        changed = [name for name in settings if name not in may_differ and known.get(name) != settings[name]]
        if bound and changed:
            told = ", ".join(f"{name} {known.get(name)!r} there, {settings[name]!r} now" for name in changed)
            raise ValueError(
                f"Expected the settings of the rows in {self.path}; {told}. Give the same settings, or another "
                "--out and --work."
            )
        known.update(settings)

    def find(self, kind: str, **wanted: Any) -> Row | None:
        """The row with these values, if it is there."""
        rows: list[Row] = self.content[kind]
        return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)

    def add(self, kind: str, row: Row) -> Row:
        """Keep a row, on disk at once."""
        self.content[kind].append(row)
        self.write()
        return row

    def write(self) -> None:
        """Replace the file; a kill at any moment leaves the old or the new one."""
        if not self._writes:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.content, indent=1) + "\n")
        temporary.replace(self.path)
