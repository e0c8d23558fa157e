"""What becomes of a request's body before any operation reads it.

A compressed body is unpacked on the way, within the limits that hold for a plain one. A JSON body
is read as a whole and checked (see ``documents``); any other is passed on as a stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from email.message import Message as Header
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.http.bodies.documents import NotJson, read_json, unstorable
from app.api.http.bodies.encodings import ACCEPTED, CODINGS, Damaged, Unpacking
from app.api.http.problems import respond
from surgery.errors import printable

JSON_BODY_BYTES = 1_000_000
UPLOAD_PATHS = frozenset({"/v1/datasets", "/compat/openai/v1/files"})
SMALL_DOCUMENT = 20_000  # bytes, which take about a millisecond to check
EPILOGUE_BYTES = 4096  # how much may follow the end of a form
CHARSETS = {"", "utf-8", "utf8", "us-ascii", "ascii"}


class RefusedBody(HTTPException):
    """A body that is refused.

    It is an HTTPException because FastAPI, which reads the body, lets no other error through.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        errors: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.code = code
        self.errors = errors or []


class BodyMiddleware:
    """Limits, unpacks and checks bodies."""

    def __init__(self, app: ASGIApp, upload_max_bytes: int) -> None:
        self.app = app
        self.upload_max_bytes = upload_max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with a body that was limited, unpacked and, if it is JSON, checked."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await self._checked(scope, receive)
        except ClientDisconnect:
            return
        except RefusedBody as error:
            answer = respond(
                Request(scope),
                error.status_code,
                error.code,
                error.detail,
                errors=error.errors,
                headers=error.headers,
            )
            await answer(scope, receive, send)
            return
        await self.app(scope, body, send)

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """The body as operations receive it. Raises RefusedBody."""
        headers = Headers(scope=scope)
        described = described_type(headers)
        json = is_json(described.get_content_type())
        upload = scope["path"] in UPLOAD_PATHS and not json
        limit = self.upload_max_bytes if upload else JSON_BODY_BYTES
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        body = _limited(receive, limit)
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding not in {"", "identity"} and has_body(headers):
            body = _limited(_unpacked(body, coding), limit)
            changed = MutableHeaders(scope=scope)
            del changed["content-encoding"], changed["content-length"]
        if not has_body(headers):
            return body
        charset = str(described.get_param("charset", "")).lower()
        if charset not in CHARSETS:
            detail = f"the body is declared as {printable(charset)!r}; send it as UTF-8"
            raise RefusedBody(415, "unsupported_media_type", detail)
        if described.get_content_type() == "multipart/form-data":
            return _closed(body, str(described.get_param("boundary", "")))
        if not json:
            return body
        raw = await _whole(body)
        if len(raw) <= SMALL_DOCUMENT:
            _check(raw)
        else:
            await run_in_threadpool(_check, raw)
        return _again(raw, receive)


def described_type(headers: Headers) -> Header:
    """The `Content-Type` and its parameters."""
    described = Header()
    described["content-type"] = headers.get("content-type", "application/octet-stream")
    return described


def is_json(kind: str) -> bool:
    """Whether FastAPI reads a body of this media type as JSON."""
    start, _, end = kind.partition("/")
    return start == "application" and (end == "json" or end.endswith("+json"))


def has_body(headers: Headers) -> bool:
    """Whether a request has a body, which may still be empty."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _too_large(limit: int) -> RefusedBody:
    detail = f"the body is larger than {limit:,} bytes"
    return RefusedBody(413, "too_large", detail, headers={"Connection": "close"})


def _limited(receive: Receive, limit: int) -> Receive:
    """Receive a body of at most this many bytes. Raises RefusedBody at the first that is more."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _too_large(limit)
        return message

    return counted


def _unpacked(receive: Receive, coding: str) -> Receive:
    """Receive a compressed body unpacked, one bounded piece after the other. Raises RefusedBody."""
    if coding not in CODINGS:
        detail = f"Content-Encoding {coding[:40]!r} is not read; send one of {ACCEPTED}, or none"
        headers = {"Accept-Encoding": ACCEPTED}
        raise RefusedBody(415, "unsupported_content_encoding", detail, headers=headers)
    unpacking = Unpacking(coding)
    waiting: Iterator[bytes] = iter(())
    ended = False

    async def next_piece() -> Message:
        nonlocal waiting, ended
        while True:
            piece = next(waiting, None)
            if piece is not None:
                return {"type": "http.request", "body": piece, "more_body": True}
            if ended:
                unpacking.finish()
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await receive()
            if message["type"] != "http.request":
                return message
            waiting = unpacking.pieces(message.get("body", b""))
            ended = not message.get("more_body", False)

    async def checked() -> Message:
        try:
            return await next_piece()
        except Damaged as error:
            raise RefusedBody(400, "bad_content_encoding", str(error)) from None

    return checked


def _closed(receive: Receive, boundary: str) -> Receive:
    """Receive a form. Raises RefusedBody at its end if its last parts did not arrive."""
    tail, mark = b"", f"--{boundary}--".encode("latin-1", "replace")

    async def watched() -> Message:
        nonlocal tail
        message = await receive()
        tail = (tail + message.get("body", b""))[-EPILOGUE_BYTES:]
        last = message["type"] == "http.request" and not message.get("more_body", False)
        if last and boundary and mark not in tail:
            detail = "the multipart body is cut off: its closing boundary did not arrive"
            raise RefusedBody(400, "bad_request", detail)
        return message

    return watched


async def _whole(receive: Receive) -> bytes:
    pieces: deque[bytes] = deque()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


def _again(raw: bytes, receive: Receive) -> Receive:
    """Receive a body that was read already, and whatever follows it."""
    waiting: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def repeated() -> Message:
        return waiting.pop() if waiting else await receive()

    return repeated


def _check(raw: bytes) -> None:
    """Raises RefusedBody for a body that is not JSON, or has values that cannot be stored."""
    if not raw:  # whether that is an error depends on the operation
        return
    try:
        faults = unstorable(read_json(raw))
    except NotJson as error:
        raise RefusedBody(400, "not_json", str(error)) from None
    if faults:
        detail = f"{faults[0]['pointer'].lstrip('/') or 'the body'} {faults[0]['detail']}"
        raise RefusedBody(422, "invalid", detail, errors=faults)
