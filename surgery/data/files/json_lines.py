"""Read JSON Lines from strangers, and tell what other JSON a file is."""

from __future__ import annotations

import json
from collections.abc import Iterator

from surgery.data.files.compressed import UnreadableFile, open_text
from surgery.data.files.source import Row, Source, check_header, lines_of
from surgery.errors import DatasetInvalid, Fault

_ADVICE = 'pandas does so with to_json(…, orient="records", lines=True)'


def read_jsonl(source: Source) -> Iterator[tuple[int, Row | Fault]]:
    """One object a line; blank lines are no rows."""
    source.row, unchecked = 1, True
    _refuse_array(source)
    for line in _one_by_one(source):
        if not line.strip():
            continue
        found = _object(source, line)
        if unchecked and not isinstance(found, Fault):
            check_header(source, list(found))
            unchecked = False
        yield source.row, found
        source.row += 1


def _refuse_array(source: Source) -> None:
    """Before a line is read: an array often is one line of any length."""
    try:
        with open_text(source.path, source.name, source.limits.max_unpacked_bytes) as file:
            start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except UnreadableFile:  # reading the rows says so
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
        # Bad bytes become lone surrogates, so that the cell check can name their column.
        value = json.loads(line.decode(errors="surrogateescape"))
    except json.JSONDecodeError as error:
        return _broken(source, error)
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets without end
        return source.fault("the line is not JSON this service reads: too deep, or a huge number")
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
    """What is wrong with a line, by the mistakes that are commonly made."""
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
        remedy = ": another object begins there; write one a line"
    elif line.startswith("{'"):
        remedy = ": strings stand in double quotes; write the line with json.dumps, not with print"
    return source.fault(f"the line is not JSON: {error.msg} at character {error.colno}{remedy}")
