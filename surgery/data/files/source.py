"""A data file while it is read: its format, its limits, and how its faults are reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path, PurePath
from typing import Literal

from surgery.data.files.compressed import SUFFIXES, UnreadableFile, open_text, plain_name
from surgery.errors import DatasetInvalid, Fault

FileFormat = Literal["csv", "tsv", "jsonl", "parquet"]
Row = dict[str, object]
FaultSink = Callable[[Fault], None]

_FORMATS: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
}


@dataclass(frozen=True)
class Limits:
    """The most that a file may hold. A record of csv or tsv counts as one line."""

    max_rows: int = 10_000_000
    max_cell_bytes: int = 1_000_000
    max_columns: int = 1_000
    max_line_bytes: int = 4_000_000
    max_empty_lines: int = 1_000_000
    """In a row: they are no rows, and a small compressed file can hold any number."""
    max_text_bytes: int = 8_000_000_000
    """All rows of a split together: a small Parquet file can hold any amount of text."""
    max_unpacked_bytes: int = 8_000_000_000
    """What a compressed file may unpack to."""


LIMITS = Limits()


@dataclass
class Source:
    """One file while it is read: the name that faults give it, and the row being read."""

    path: Path
    name: str
    limits: Limits
    columns: tuple[str, ...] | None = None
    row: int | None = None
    """The number of the row being read; None while the header is."""
    opened: ExitStack = field(default_factory=ExitStack)
    """Closes the files that readers leave open when a fault ends them."""

    def fault(self, detail: str, column: str | None = None) -> Fault:
        """A fault in the current row."""
        return Fault(detail, file=self.name, row=self.row, column=column)

    def invalid(self, detail: str, column: str | None = None) -> DatasetInvalid:
        """The error that ends reading at the current row."""
        where = f"{self.name}, row {self.row}" if self.row else self.name
        return DatasetInvalid(f"{where}: {detail}", [self.fault(detail, column)])


def format_of(filename: str) -> FileFormat:
    """The format that a file's suffix names, with or without that of a compression.

    Raises DatasetInvalid for any other suffix.
    """
    plain = plain_name(filename)
    named = _FORMATS.get(PurePath(plain).suffix.lower())
    if named is not None and not (named == "parquet" and plain != filename):
        return named
    detail = (
        f"{shown(filename)!r} is not a data file this service reads: its name must end in one of "
        f"{', '.join(_FORMATS)}; text may be compressed, with {' or '.join(SUFFIXES)} after that. "
        "Parquet is already compressed, and archives are not unpacked"
    )
    raise DatasetInvalid(detail, [Fault(detail, file=shown(filename))])


def shown(text: str) -> str:
    """An untrusted string made safe to quote in a message: short, and always encodable."""
    clean = text.encode(errors="replace").decode().replace("\0", "?")
    return clean if len(clean) <= 80 else clean[:77] + "..."


def check_header(source: Source, names: list[str]) -> None:
    """Raise DatasetInvalid unless the column names are few, present and distinct."""
    if not names:
        raise source.invalid("there are no columns; name one for the text and one for the label")
    if len(names) > source.limits.max_columns:
        raise source.invalid(
            f"{len(names):,} columns; at most {source.limits.max_columns:,} are read"
        )
    for position, name in enumerate(names, 1):
        bad = string_fault(name, source.limits.max_cell_bytes)
        if bad:
            raise source.invalid(f"the name of column {position} {bad}")
        if not name.strip():
            raise source.invalid(
                f"column {position} has no name; name it, or leave it out (pandas writes such a "
                "column unless told index=False). A file without a header needs one first"
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise source.invalid(
            f"two columns are called {shown(twice)!r}; rename one. A file without a header needs "
            "one first",
            shown(twice),
        )


def string_fault(value: str, max_bytes: int) -> str | None:
    """What makes a string unusable (NUL characters, bad UTF-8, its length), or None."""
    if "\0" in value:
        return "holds a NUL character: is the file binary, or UTF-16? save it as UTF-8 text"
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError as error:
        return f"is not valid UTF-8{_byte(value[error.start])}; save the file with that encoding"
    return f"is {size:,} bytes long, over the limit of {max_bytes:,}" if size > max_bytes else None


def _byte(surrogate: str) -> str:
    """The byte that a surrogate of surrogateescape stands for, and its character in Latin-1."""
    code = ord(surrogate) - 0xDC00
    if not 0x80 <= code <= 0xFF:
        return ""
    latin = f", {chr(code)!r} in Latin-1" if chr(code).isprintable() else ""
    return f" (byte 0x{code:02x}{latin})"


def lines_of(source: Source) -> Iterator[bytes]:
    """The unpacked lines of a file; DatasetInvalid for a line over the limit, which is not read."""
    try:
        file = open_text(source.path, source.name, source.limits.max_unpacked_bytes)
    except UnreadableFile as bad:
        source.row = None
        raise source.invalid(str(bad)) from None
    with source.opened.enter_context(file):
        try:
            yield from _lines(source, file)
        except UnreadableFile as bad:
            raise source.invalid(str(bad)) from None


def _lines(source: Source, file: BufferedReader) -> Iterator[bytes]:
    cap, empty = source.limits.max_line_bytes, 0
    line = file.readline(cap + 1).removeprefix(b"\xef\xbb\xbf")  # Excel's byte-order mark
    while line:
        if len(line) > cap:
            raise source.invalid(f"a line is longer than {cap:,} bytes; shorten its text")
        empty = empty + 1 if line.isspace() else 0
        if empty > source.limits.max_empty_lines:
            raise source.invalid(f"over {empty - 1:,} empty lines follow each other; remove them")
        yield line
        line = file.readline(cap + 1)
