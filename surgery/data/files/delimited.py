"""Read untrusted CSV and TSV files: records of bounded size, strict quotes, a header line."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import islice

from surgery.data.files.source import Row, Source, check_header, lines_of, shown
from surgery.errors import DatasetInvalid, Fault

# Usual column names: a cell of the first line that is one of these shows that it is a header.
_NAMES = {
    "text",
    "texts",
    "sentence",
    "sentence1",
    "sentence2",
    "question",
    "premise",
    "hypothesis",
    "review",
    "content",
    "document",
    "body",
    "comment",
    "message",
    "tweet",
    "utterance",
    "query",
    "title",
    "context",
    "passage",
    "label",
    "labels",
    "target",
    "class",
    "category",
    "sentiment",
    "score",
    "rating",
    "answer",
    "id",
    "idx",
    "index",
    "guid",
    "text_pair",
    "text1",
    "text2",
    "text_a",
    "text_b",
    "y",
}
_NO_LETTERS = re.compile(r"[^a-zA-Z]*\d[^a-zA-Z]*", re.ASCII)

_REMEDY = "write it as CSV, with commas"
_COMPARED_ROWS = 100  # that are compared with the header
_COMPARED_BYTES = 1_000_000
_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}


def check_first_line(source: Source, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Raise DatasetInvalid if the header looks like the rows after it; ``rows`` are the first.

    It does if one of its cells also occurs in the same column below, or is a number or a date
    above a column of such values, unless another cell is a usual column name.
    """
    rows = [row for row in rows if len(row) == len(header) and list(row) != list(header)]
    if not rows or _is_range(header):
        return
    below = [[row[place] for row in rows] for place in range(len(header))]
    again = {place for place, name in enumerate(header) if name in below[place]}
    if any(is_usual_name(name) for place, name in enumerate(header) if place not in again):
        return
    alike = again | {
        place
        for place, name in enumerate(header)
        if _NO_LETTERS.fullmatch(name) and all(map(_NO_LETTERS.fullmatch, below[place]))
    }
    if alike:
        place = min(alike)
        raise source.invalid(
            f"the first line looks like a row and not like a header: its {shown(header[place])!r} "
            f"is like the values of column {place + 1} below. Write a line with the names of the "
            "columns first, such as text and label; if it is a header, rename that column"
        )


def is_usual_name(name: str) -> bool:
    """Whether columns often have this name."""
    return name.strip().lower() in _NAMES


def _is_range(header: Sequence[str]) -> bool:
    """Whether columns are numbered from 0 or 1, as pandas names them if they have no names."""
    width = len(header)
    return list(header) in ([*map(str, range(width))], [*map(str, range(1, width + 1))])


class _Feed:
    """Feeds lines to csv.reader and bounds a record, which a stray quote would make endless."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.lines = lines_of(source)
        self.taken = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.taken += len(line)
        if self.taken > self.source.limits.max_line_bytes:
            raise self.source.invalid(
                f"the row is longer than {self.source.limits.max_line_bytes:,} bytes: is a quote "
                "opened in it and never closed?"
            )
        # Invalid bytes become lone surrogates, so that the cell check can name their column.
        return line.decode(errors="surrogateescape")


def _records(source: Source, delimiter: str, quoting: int) -> Iterator[list[str] | Fault]:
    # This limit is global to the process, so it is only ever raised; the feed bounds memory.
    csv.field_size_limit(max(csv.field_size_limit(), source.limits.max_line_bytes))
    feed = _Feed(source)
    # Strict: the lenient mode reads an unclosed quote as one long cell and says nothing.
    reader = csv.reader(feed, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    first = True
    while True:
        feed.taken = 0
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield source.fault(_malformed(error))
            continue
        if record and not (first and record == ["sep=", ""]):  # a line that Excel writes
            yield record
        first = False


def _table(source: Source, delimiter: str, quoting: int) -> Iterator[tuple[int, Row | Fault]]:
    records = _records(source, delimiter, quoting)
    header = next(records, None)
    if header is None:
        raise source.invalid("the file is empty")
    if isinstance(header, Fault):
        raise source.invalid(f"the header: {header.detail}")
    _check_separator(source, header, delimiter)
    check_header(source, header)
    check_first_line(source, header, _sample(source, delimiter, quoting))
    source.row = 1
    for record in records:
        yield source.row, _as_row(source, header, record)
        source.row += 1


def _sample(source: Source, delimiter: str, quoting: int) -> list[list[str]]:
    """The first rows that can be read."""
    rows: list[list[str]] = []
    size = 0
    try:
        for record in islice(_records(source, delimiter, quoting), 1, 1 + _COMPARED_ROWS):
            if not isinstance(record, Fault):
                rows.append(record)
                size += sum(map(len, record))
            if size > _COMPARED_BYTES:
                break
    except DatasetInvalid:  # raised again, with the row's number, when the rows are read
        pass
    return rows


def _malformed(error: csv.Error) -> str:
    if "new-line character" in str(error):
        return (
            "there is a carriage return outside of quotes; save the file with the line endings of "
            "Unix or Windows"
        )
    return (
        f"the row is malformed ({error}); a cell with quotes or line breaks is quoted, and quotes "
        "within it are doubled"
    )


def _check_separator(source: Source, header: list[str], delimiter: str) -> None:
    """Raise DatasetInvalid for a header that another separator cuts into more columns."""
    if len(header) == 1 and header[0].lower().startswith("sep="):
        raise source.invalid(
            f"the first line {shown(header[0])!r} is Excel's own and names another separator than "
            f"that of this format, {_SEPARATORS[delimiter]}; leave the line out, and {_REMEDY}"
        )
    for mark, name in _SEPARATORS.items():
        cell = next((cell for cell in header if mark in cell), None)
        count = sum(cell.count(mark) for cell in header)
        # A name never contains a tab. It may contain the others, but less often than columns end.
        if mark == delimiter or cell is None or (mark != "\t" and count < len(header)):
            continue
        remedy = {"\t": "name it .tsv", ",": "name it .csv"}.get(mark, _REMEDY)
        raise source.invalid(
            f"the header {shown(cell)!r} seems separated by {name}, but this format separates "
            f"columns by {_SEPARATORS[delimiter]}; {remedy}"
        )


def _as_row(source: Source, header: list[str], record: list[str] | Fault) -> Row | Fault:
    if isinstance(record, Fault):
        return record
    if record == header:
        return source.fault("the row repeats the header: were files joined? leave it out")
    if len(record) != len(header):
        many = "1 field" if len(record) == 1 else f"{len(record):,} fields"
        remedy = "fill in the others"
        if len(record) > len(header):
            remedy = "quote a cell that contains the separator"
        return source.fault(f"has {many}, header has {len(header):,}; {remedy}")
    return dict(zip(header, record, strict=True))


def read_csv(source: Source) -> Iterator[tuple[int, Row | Fault]]:
    """Read comma-separated text with the quotes of RFC 4180 and either line ending."""
    return _table(source, ",", csv.QUOTE_MINIMAL)


def read_tsv(source: Source) -> Iterator[tuple[int, Row | Fault]]:
    """Read tab-separated text, whose quotes are those of csv or plain characters (as in GLUE).

    Quotes are plain characters unless reading them as csv does makes every row as wide as the
    header and joins no lines that are complete rows.
    """
    quoting = csv.QUOTE_NONE
    if _has_quote(source):
        plain, plain_rows = _shape(source, csv.QUOTE_NONE)
        quoted, quoted_rows = _shape(source, csv.QUOTE_MINIMAL)
        if quoted and (not plain or quoted_rows == plain_rows):
            quoting = csv.QUOTE_MINIMAL
    yield from _table(source, "\t", quoting)


def _has_quote(source: Source) -> bool:
    try:
        return any(b'"' in line for line in lines_of(source))
    except DatasetInvalid:  # raised again, with the row's number, when the rows are read
        return False


def _shape(source: Source, quoting: int) -> tuple[bool, int]:
    """Whether all records have the same width, and how many records there are."""
    widths: set[int] = set()
    count = 0
    try:
        for record in _records(source, "\t", quoting):
            count += 1
            widths.add(-1 if isinstance(record, Fault) else len(record))
    except DatasetInvalid:  # a record over the cap
        return False, count
    return len(widths) == 1 and -1 not in widths, count
