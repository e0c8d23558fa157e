"""Read untrusted JSON Lines, and recognise other JSON that was sent in its place."""

from __future__ import annotations

import json
from collections.abc import Iterator

from surgery.data.files.compressed import UnreadableFile, open_text
from surgery.data.files.source import Row, Source, check_header, lines_of
from surgery.errors import DatasetInvalid, Fault

_ADVICE = 'pandas does so with to_json(…, orient="records", lines=True)'


def read_jsonl(source: Source) -> Iterator[tuple[int, Row | Fault]]:
    """Yield ``(row number from 1, the line's object or its fault)``; blank lines are skipped."""
    source.row, unchecked = 1, True
    _refuse_array(source)
    for line in _one_by_one(source):
        if not line.strip():
            continue
        row = _object(source, line)
        if unchecked and not isinstance(row, Fault):
            check_header(source, list(row))
            unchecked = False
        yield source.row, row
        source.row += 1


def _refuse_array(source: Source) -> None:
    """Raise DatasetInvalid for a JSON array, before its first line, which may have any length."""
    try:
        with open_text(source.path, source.name, source.limits.max_unpacked_bytes) as file:
            start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except UnreadableFile:  # raised again, as DatasetInvalid, when the rows are read
        return
    if start.startswith(b"["):
        raise source.invalid(
            f"the file is a JSON array; write one object a line instead ({_ADVICE})"
        )


def _one_by_one(source: Source) -> Iterator[bytes]:
    try:
        yield from lines_of(source)
    except DatasetInvalid as error:
        if source.row == 1 and "a line is longer" in error.detail:
            raise source.invalid(
                f"{error.faults[0].detail}. If the whole file is one JSON document, write one "
                f"object a line instead ({_ADVICE})"
            ) from None
        raise


def _object(source: Source, line: bytes) -> Row | Fault:
    try:
        # Invalid bytes become lone surrogates, so that the cell check can name their column.
        value = json.loads(line.decode(errors="surrogateescape"))
    except json.JSONDecodeError as error:
        return _broken(source, error)
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets without end
        return source.fault(
            "the line is JSON that this service does not read: it is too deep, or has a huge number"
        )
    if not isinstance(value, dict):
        kind = type(value).__name__
        return source.fault(f"the line is a JSON {kind}; each line must be an object")
    if not value:
        return source.fault("the line is an empty object; fill it in or leave the line out")
    if len(value) > source.limits.max_columns:
        return source.fault(
            f"{len(value):,} columns; at most {source.limits.max_columns:,} are read"
        )
    return value


def _broken(source: Source, error: json.JSONDecodeError) -> Fault:
    """The fault of a line that is not JSON, with a remedy for common mistakes."""
    line, rest = error.doc.strip(), error.doc[error.pos :].strip()
    if source.row == 1 and line.startswith("{") and not rest:
        raise source.invalid(
            "the first line ends within an object: if the objects are written over several lines, "
            f"write one a line ({_ADVICE})"
        )
    remedy = ""
    if error.msg == "Extra data" and rest == ",":
        remedy = ": a comma stands behind the object; leave it out"
    elif error.msg == "Extra data" and rest.startswith("{"):
        remedy = ": another object begins there; write one object a line"
    elif line.startswith("{'"):
        remedy = ": JSON strings need double quotes; write the line with json.dumps, not with print"
    return source.fault(f"the line is not JSON: {error.msg} at character {error.colno}{remedy}")
