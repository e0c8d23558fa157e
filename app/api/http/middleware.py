"""What every request passes through: an id, a line in the log, and headers of its answer."""

from __future__ import annotations

import logging
import re
import time
import uuid
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.http.problems import internal_error, respond
from app.process.logs import note_subject

log = logging.getLogger("surgeon.api")
MAX_TARGET_BYTES = 16 << 10  # of the path and the query
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 << 10  # of all headers together
# Headers of every answer that does not set them itself. No answer of the API is a page that may
# load or run anything; the documentation has a policy of its own.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


Refusal = tuple[int, str, str]  # status, code and detail of a problem


class RequestMiddleware:
    """Checks and logs requests. It is plain ASGI, so that streamed answers stay streams."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        note_subject(request_id=request_id)
        began = time.perf_counter()
        status, started = 500, False

        async def tagged(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                _add_headers(MutableHeaders(scope=message), status, request_id)
            await send(message)

        try:
            refusal = _malformed(scope, headers)
            if refusal is not None:
                await respond(Request(scope), *refusal)(scope, receive, tagged)
                return
            await self.app(scope, receive, tagged)
        except Exception as error:  # whatever it is, the client gets an answer
            if started:
                raise
            await internal_error(Request(scope), error)(scope, receive, tagged)
        finally:
            spent = (time.perf_counter() - began) * 1000
            method, path = scope["method"], scope["path"]
            fields = {
                "method": method,
                "path": path,
                "status": status,
                "milliseconds": round(spent, 1),
            }
            log.info("%s %s %d %.0f ms %s", method, path, status, spent, request_id, extra=fields)


def _malformed(scope: Scope, headers: Headers) -> Refusal | None:
    """Why a request is refused before anything of it is read, or None."""
    path, query = scope.get("raw_path") or scope["path"].encode(), scope["query_string"]
    if len(path) + len(query) > MAX_TARGET_BYTES:
        detail = f"path and query are longer than {MAX_TARGET_BYTES:,} bytes together"
        return 414, "uri_too_long", detail
    if len(headers) > MAX_HEADERS:
        return 431, "headers_too_large", f"the request has more than {MAX_HEADERS} headers"
    if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADER_BYTES:
        detail = f"the headers are longer than {MAX_HEADER_BYTES:,} bytes together"
        return 431, "headers_too_large", detail
    for name, value in headers.raw:
        if b"\0" in value or b"\r" in value or b"\n" in value:
            return 400, "bad_header", f"header {name.decode('latin-1')} has a control character"
    if not _is_utf8(query):
        return 400, "bad_query", "the query is not UTF-8 once its percent-encoding is decoded"
    return None


def _is_utf8(encoded: bytes) -> bool:
    try:
        unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        return False
    return True


def _add_headers(headers: MutableHeaders, status: int, request_id: str) -> None:
    headers["X-Request-ID"] = request_id
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if status >= 400:  # otherwise a cache may keep a 404 or a 410 of its own accord
        headers.setdefault("Cache-Control", "no-store")


def _request_id(given: str | None) -> str:
    """The caller's id if it is harmless in a log, else a new one."""
    if given and re.fullmatch(r"[A-Za-z0-9._-]{1,100}", given):
        return given
    return uuid.uuid4().hex
