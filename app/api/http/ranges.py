"""Answers downloads, whole or in ranges, as RFC 9110 has it.

Of a download, any part can be read, wherever its bytes come from: a disk, an object store, or an
archive that is put together on the way.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.api.http.reads import has_current
from app.artifacts.digests import Digests
from app.artifacts.tar import Chunks
from app.errors import ChangedMeanwhile, ServiceError

MAX_RANGES = 16  # more of them are no resumed download
SMALL_BYTES = 64 << 20  # hashed in a fraction of a second
_RANGE = re.compile(r"[ \t]*([0-9]*)-([0-9]*)[ \t]*")
_WANTED = re.compile(r"(?:^|[,\s])sha-256\s*=\s*(?:[1-9]|10)\s*(?:,|$)")
_BEYOND = 10**18  # more bytes than any file has

Span = tuple[int, int]  # from the first position up to, and not including, the second


class RangeNotSatisfiable(ServiceError):
    """The file does not have the bytes that Range asks for."""

    status: ClassVar[int] = 416
    code: ClassVar[str] = "range_not_satisfiable"


@dataclass(frozen=True)
class Download:
    """Something to download.

    ``etag`` stands for exactly these bytes. ``digest`` is their SHA-256, if it is known.
    """

    filename: str
    media_type: str
    etag: str
    size: int
    chunks: Chunks
    digest: bytes | None = None
    immutable: bool = True  # whether its address will always have these bytes


def answer_early(request: Request, etag: str, *, immutable: bool = True) -> Response | None:
    """The answer to a caller who has these bytes already, which need not be looked for; or None.

    Raises ChangedMeanwhile if the caller wants other bytes only.
    """
    matching = request.headers.get("if-match")
    if matching is not None and not _is_among(etag, matching):
        raise ChangedMeanwhile(
            "the file is not the one that If-Match names; download it from its beginning",
            headers={"ETag": etag},
        )
    if has_current(request.headers, etag):
        return Response(status_code=304, headers=_caching(etag, immutable=immutable))
    return None


def answer_download(request: Request, download: Download) -> Response:
    """The whole of it, or the ranges that ``Range`` asks for. Raises RangeNotSatisfiable."""
    early = answer_early(request, download.etag, immutable=download.immutable)
    if early is not None:
        return early
    headers = {
        **_caching(download.etag, immutable=download.immutable),
        "Accept-Ranges": "bytes",
        "Content-Disposition": _disposition(download.filename),
    }
    if download.digest is not None:
        headers["Repr-Digest"] = f"sha-256=:{b64encode(download.digest).decode()}:"
    spans = _spans_asked(request, download)
    if spans is None:
        return _stream(download.chunks(0, download.size), download.size, 200, headers, download)
    if len(spans) > 1:
        return _several(download, spans, headers)
    start, end = spans[0]
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{download.size}"
    return _stream(download.chunks(start, end), end - start, 206, headers, download)


def with_digest(request: Request, digests: Digests, download: Download) -> Download:
    """The same download with its digest, which is read from all of its bytes.

    That is done for a small one, and for whoever asks for it (`Want-Repr-Digest`, RFC 9530).
    A large one has it from when it was first sent as a whole, since its first byte must not wait.
    """
    parts = (download.etag, download.size, download.chunks)
    wanted = _WANTED.search(request.headers.get("want-repr-digest", ""))
    if wanted or download.size <= SMALL_BYTES:
        digest: bytes | None = digests.computed(*parts)
    else:
        digest = digests.get(download.etag)
    return replace(download, digest=digest, chunks=digests.watching(*parts))


def _caching(etag: str, *, immutable: bool) -> dict[str, str]:
    return {"ETag": etag, "Cache-Control": f"private, {'immutable' if immutable else 'no-cache'}"}


def _disposition(filename: str) -> str:
    encoded = quote(filename, safe="")
    if encoded == filename:
        return f'attachment; filename="{filename}"'
    return f"attachment; filename*=utf-8''{encoded}"


def _is_among(etag: str, header: str) -> bool:
    """Whether a list of ETags has this one, compared strongly, or is ``*``."""
    return header.strip() == "*" or etag in re.findall(r'(?:W/)?"[^"]*"', header)


def _spans_asked(request: Request, download: Download) -> list[Span] | None:
    """The parts that a request asks for; None for the whole."""
    given = request.headers.getlist("range")
    condition = request.headers.get("if-range")
    if request.method != "GET" or len(given) != 1:
        return None
    if condition is not None and condition.strip() != download.etag:
        return None  # another version, or a date, which no ETag can be compared with
    return parse_ranges(given[0], download.size)


def parse_ranges(header: str, size: int) -> list[Span] | None:
    """The parts of ``size`` bytes that a ``Range`` asks for, or None where it is to be ignored.

    That is a header in another unit, one that is malformed, and one that asks for many small parts
    or for the same bytes again and again. Raises RangeNotSatisfiable if no part is there.
    """
    unit, _, listed = header.partition("=")
    if unit.strip().lower() != "bytes" or size == 0:
        return None
    asked = [_RANGE.fullmatch(each) for each in listed.split(",") if each.strip()]
    if not asked or len(asked) > MAX_RANGES:
        return None
    spans = [_span(match, size) for match in asked if match is not None]
    if len(spans) < len(asked) or None in spans:
        return None
    there = [span for span in spans if span is not None and span[0] < span[1]]
    if not there:
        detail = f"the file has {size:,} bytes, and none of those that Range asks for"
        raise RangeNotSatisfiable(detail, headers={"Content-Range": f"bytes */{size}"})
    return _without_overlaps(there)


def _span(match: re.Match[str], size: int) -> Span | None:
    """The span of ``first-last``, ``first-`` or ``-count``, perhaps an empty one; None if wrong."""
    first, last = match[1] and _number(match[1]), match[2] and _number(match[2])
    match first, last:
        case str(), str():
            return None
        case str(), int(count):
            return max(0, size - count), size
        case int(start), str():
            return start, size
        case int(start), int(end) if start <= end:
            return start, min(size, end + 1)
    return None


def _number(digits: str) -> int:
    return int(digits) if len(digits) <= 18 else _BEYOND


def _without_overlaps(spans: list[Span]) -> list[Span]:
    """The same parts; those that overlap or touch become one, so that no byte is sent twice."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return spans if len(merged) == len(spans) else merged


def _stream(
    chunks: Iterator[bytes], length: int, status: int, headers: dict[str, str], download: Download
) -> Response:
    headers["Content-Length"] = str(length)
    return StreamingResponse(chunks, status, headers, download.media_type)


def _several(download: Download, spans: Sequence[Span], headers: dict[str, str]) -> Response:
    """Several ranges, as a body of type multipart/byteranges."""
    boundary = secrets.token_hex(16)
    heads = [
        f"--{boundary}\r\nContent-Type: {download.media_type}\r\n"
        f"Content-Range: bytes {start}-{end - 1}/{download.size}\r\n\r\n".encode()
        for start, end in spans
    ]
    last = f"--{boundary}--\r\n".encode()

    def body() -> Iterator[bytes]:
        for head, span in zip(heads, spans, strict=True):
            yield head
            yield from download.chunks(*span)
            yield b"\r\n"
        yield last

    parts = sum(
        len(head) + end - start + 2 for head, (start, end) in zip(heads, spans, strict=True)
    )
    headers["Content-Length"] = str(parts + len(last))
    media_type = f"multipart/byteranges; boundary={boundary}"
    return StreamingResponse(body(), 206, headers, media_type)
