"""What is kept of each row beside its content: where it stands, and what it calls itself."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from surgery.schema import Place
from surgery.spool import Spool

ID_COLUMNS = ("id", "idx", "guid", "uid", "index")


@dataclass
class Places:
    """File and number of each row, by its position among all rows read; 4 bytes a row on disk."""

    rows: Spool = field(default_factory=lambda: Spool("i"))
    starts: list[int] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def add(self, file: str, row: int) -> None:
        """The next row."""
        if not self.files or self.files[-1] != file:
            self.starts.append(len(self.rows))
            self.files.append(file)
        self.rows.append(row)

    def at(self, position: int) -> Place:
        """Where a row stands."""
        file = self.files[bisect_right(self.starts, position) - 1]
        return Place(file=file, row=self.rows[position])


@dataclass
class Ids:
    """A hash of each row's id, 8 bytes a row on disk, where a column is called as ids are."""

    column: str | None = None
    hashes: Spool = field(default_factory=lambda: Spool("q"))

    def add(self, values: Mapping[str, object]) -> None:
        """The next row's; a missing one is like no other."""
        if self.column is None:
            return
        value = values.get(self.column)
        missing = value is None or value == ""
        self.hashes.append(hash(("row", len(self.hashes)) if missing else str(value)))


def find_id_column(names: Mapping[str, object], used: set[str]) -> str | None:
    """The column of ids, unless it plays another part."""
    lowered = {name.lower(): name for name in names if name not in used}
    return next((lowered[name] for name in ID_COLUMNS if name in lowered), None)
