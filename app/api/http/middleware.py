"""What every request passes through: it gets an id, a limit on its body and a line in the log."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.http.problems import respond

log = logging.getLogger("surgeon.api")
JSON_BODY_BYTES = 1_000_000
UPLOAD_PATH = "/v1/datasets"


class _BodyTooLarge(Exception):
    """The body is larger than the service allows."""


class RequestMiddleware:
    """Gives requests an id and a line in the log. Plain ASGI, so that streams stay streams."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()
        status = 500

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, tagged)
        finally:
            spent = (time.perf_counter() - began) * 1000
            log.info(
                "%s %s %d %.0f ms %s", scope["method"], scope["path"], status, spent, request_id
            )


class BodyLimitMiddleware:
    """Refuses bodies that are too large, before they are parsed."""

    def __init__(self, app: ASGIApp, upload_max_bytes: int) -> None:
        self.app = app
        self.upload_max_bytes = upload_max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._limited(scope, receive, watched, Headers(scope=scope))
        except _BodyTooLarge:
            if started:
                raise
            await self._refuse(scope, receive, send)

    def _limit(self, scope: Scope) -> int:
        return self.upload_max_bytes if scope["path"] == UPLOAD_PATH else JSON_BODY_BYTES

    async def _limited(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        limit = self._limit(scope)
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            raise _BodyTooLarge
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _BodyTooLarge
            return message

        await self.app(scope, counted, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = f"the body is larger than {self._limit(scope):,} bytes"
        answer = respond(Request(scope), 413, "too_large", detail, headers={"Connection": "close"})
        await answer(scope, receive, send)


def _request_id(given: str | None) -> str:
    """The caller's id if it is harmless in a log, else a new one."""
    if given and re.fullmatch(r"[A-Za-z0-9._-]{1,100}", given):
        return given
    return uuid.uuid4().hex
