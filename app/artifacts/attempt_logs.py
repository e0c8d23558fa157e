"""The logs of attempts: how they are cut into stored files, and how they are read back.

A log is a stream of lines of UTF-8. Positions in it are counted in bytes from its first byte, and
stay what they are for ever. It is stored in segments of one size, each a file, because an object
store cannot append to a file: only the last segment is written again as it grows. Of a log that
grows beyond the limit, the segments of its beginning and of its end are kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.artifacts.storage import Storage

LOG_LIMIT_BYTES = 1_000_000  # of one attempt's log
SEGMENT_BYTES = 62_500
HEAD_SEGMENTS = TAIL_SEGMENTS = LOG_LIMIT_BYTES // SEGMENT_BYTES // 2
FIRST_SEGMENT = "segment-0"
LINE = re.compile(r"(?P<at>\S+) (?P<source>\S+) (?P<text>.*)")


def log_key(job_id: str, epoch: int) -> str:
    """The folder of an attempt's log. No other attempt writes there."""
    return f"jobs/{job_id}/{epoch}/log"


def segment_key(folder: str, number: int) -> str:
    """The file of a segment."""
    return f"{folder}/segment-{number}"


def is_kept(number: int, size: int) -> bool:
    """Whether a log of this many bytes keeps this segment."""
    last = max(0, size - 1) // SEGMENT_BYTES
    return number < HEAD_SEGMENTS or last - TAIL_SEGMENTS < number <= last


def log_line(at: str, source: str, text: str) -> str:
    """A line as it is stored; `LINE` takes it apart again."""
    return f"{at} {source} {text}\n"


@dataclass(frozen=True)
class LogPart:
    """The lines of a log from a position on."""

    text: str
    cut_bytes: int  # were left out of the middle


def read_log(storage: Storage, folder: str, size: int, after: int = 0) -> LogPart:
    """The lines of a log of ``size`` bytes that begin at position ``after`` or later.

    Where bytes are missing, a line says how many. Raises FileNotFoundError if a segment is not
    there: a worker that still writes has removed it, and ``size`` is out of date.
    """
    last = max(0, size - 1) // SEGMENT_BYTES
    head_end, tail_begin = HEAD_SEGMENTS * SEGMENT_BYTES, (last - TAIL_SEGMENTS + 1) * SEGMENT_BYTES
    if tail_begin <= head_end or after >= tail_begin:  # nothing is missing from there on
        return LogPart(_between(storage, folder, after, size).decode(errors="replace"), 0)
    head, tail = b"", _between(storage, folder, tail_begin, size)
    if after < head_end:
        head = _between(storage, folder, after, head_end)
        head = head[: head.rfind(b"\n") + 1]
    tail = tail[tail.find(b"\n") + 1 :]
    missing = size - after - len(head) - len(tail)
    lines = head.decode(errors="replace"), tail.decode(errors="replace")
    return LogPart(lines[0] + _gap(missing, lines[1]) + lines[1], missing)


def _gap(missing: int, following: str) -> str:
    moment = following.partition(" ")[0]
    half = LOG_LIMIT_BYTES // 2
    text = f"{missing:,} bytes are left out: the first and the last {half:,} of a log are kept"
    return log_line(moment, "supervisor", text)


def _between(storage: Storage, folder: str, begin: int, end: int) -> bytes:
    """The bytes from one position to another. Raises FileNotFoundError."""
    if begin >= end:
        return b""
    first, last = begin // SEGMENT_BYTES, (end - 1) // SEGMENT_BYTES
    numbers = range(first, last + 1)
    content = b"".join(storage.read_file(segment_key(folder, number)) for number in numbers)
    offset = first * SEGMENT_BYTES
    return content[begin - offset : end - offset]
