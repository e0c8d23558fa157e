"""What every request that reads has in common: an ETag, a 304 for who has it already, and HEAD."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TAG = re.compile(r'(?:W/)?("[^"]*")')
CACHING = "private, no-cache"  # keep it, but ask each time whether it is still right
# What a 304 repeats of the headers that the whole answer would have (RFC 9110, section 15.4.5).
# A browser takes the headers of a 304 over into what it has kept: a page would get the policy of
# answers that are no page.
REPEATED = (
    b"cache-control",
    b"content-location",
    b"content-security-policy",
    b"date",
    b"etag",
    b"expires",
    b"vary",
)


def has_current(headers: Headers, tag: str) -> bool:
    """Whether ``If-None-Match`` says that the caller has what this ETag stands for.

    The header is a list of ETags or ``*``; weak ones count as strong ones (RFC 9110, 13.1.2).
    """
    given = ", ".join(headers.getlist("if-none-match"))
    return given.strip() == "*" or tag.removeprefix("W/") in TAG.findall(given)


def json_answer(
    document: Any,
    tag: str | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A document of JSON types and moments, written as it is, without checking it once more."""
    given = {**(headers or {}), **({"ETag": tag} if tag else {})}
    return Response(to_json(document, inf_nan_mode="null"), status, given, "application/json")


def not_modified(tag: str) -> Response:
    """The answer to a caller that has the current state already."""
    return Response(status_code=304, headers={"ETag": tag})


class _Enough(OSError):
    """The rest of the answer is not wanted."""


class ReadMiddleware:
    """Completes the answers to GET, and answers HEAD as GET is answered, without the body.

    An answer of JSON without an ETag gets a digest of its body. Whatever has an ETag, files too, is
    answered with 304 if the caller has it already. It is plain ASGI, so that streams stay streams.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] not in {"GET", "HEAD"}:
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        if answer.without_body:
            # From version 2.4 on, a stream ends as soon as something cannot be sent.
            asgi = {**scope.get("asgi", {}), "spec_version": "2.4"}
            # Ranges are defined for GET alone (RFC 9110, section 14.2).
            headers = [each for each in scope["headers"] if each[0] != b"range"]
            scope = {**scope, "method": "GET", "asgi": asgi, "headers": headers}
            answer.answered = scope
        try:
            await self.app(scope, receive, answer.send)
        except (_Enough, ClientDisconnect):
            if not answer.ended:
                raise


class _Answer:
    """One answer on its way out."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.asked = self.answered = scope  # for HEAD, another request is answered: a GET
        self.headers = Headers(scope=scope)
        self.without_body = scope["method"] == "HEAD"
        self.ended = False
        self._forward = send
        self._start: Message | None = None  # held back until its body has given it an ETag

    async def send(self, message: Message) -> None:
        """Pass a message on, completed."""
        if self.ended:
            raise _Enough
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] == "http.response.body" and self._start is not None:
            await self._tag(self._start, message)
        elif self.without_body and message["type"] == "http.response.body":
            await self._end()
        else:
            await self._forward(message)

    async def _begin(self, start: Message) -> None:
        headers = MutableHeaders(scope=start)
        if start["status"] in {200, 206, 304}:
            headers.setdefault("Cache-Control", CACHING)
            headers.add_vary_header("Authorization")  # which decides whose objects are shown
            tagged = "etag" in headers
            if not tagged and headers.get("content-type") == "application/json":
                self._start = start
                return
        await self._open(start)

    async def _tag(self, start: Message, body: Message) -> None:
        self._start = None
        if not body.get("more_body", False):
            digest = hashlib.sha256(body.get("body", b"")).hexdigest()[:32]
            MutableHeaders(scope=start)["ETag"] = f'"{digest}"'
        await self._open(start)
        if not self.ended:
            await self.send(body)

    async def _open(self, start: Message) -> None:
        if "route" in self.answered:  # by which requests are counted
            self.asked["route"] = self.answered["route"]
        tag = MutableHeaders(scope=start).get("etag")
        if start["status"] in {200, 206} and tag and has_current(self.headers, tag):
            kept = [(name, value) for name, value in start["headers"] if name in REPEATED]
            await self._forward({**start, "status": 304, "headers": kept})
            await self._end()
        else:
            await self._forward(start)

    async def _end(self) -> None:
        self.ended = True
        await self._forward({"type": "http.response.body", "body": b""})
