"""What every request passes through: it gets an id, a limit on its body and a line in the log."""

from __future__ import annotations

import ipaddress
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
    """Checks and logs requests. It is plain ASGI, so that streamed answers stay streams."""

    def __init__(self, app: ASGIApp, upload_max_bytes: int, any_host: bool) -> None:
        self.app = app
        self.upload_max_bytes = upload_max_bytes
        self.any_host = any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()
        status = 500
        started = False

        async def tagged(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            if not self.any_host and not is_loopback(_host_name(headers.get("host", ""))):
                await self._refuse_host(scope, receive, tagged)
                return
            await self._limited(scope, receive, tagged, headers)
        except _BodyTooLarge:
            if started:
                raise
            await self._refuse(scope, receive, tagged)
        finally:
            spent = (time.perf_counter() - began) * 1000
            log.info(
                "%s %s %d %.0f ms %s", scope["method"], scope["path"], status, spent, request_id
            )

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

    async def _refuse_host(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a host name of a web page that resolves to this machine (DNS rebinding)."""
        detail = "without API keys, only requests to 127.0.0.1 or localhost are answered"
        await respond(Request(scope), 400, "wrong_host", detail)(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = f"the body is larger than {self._limit(scope):,} bytes"
        answer = respond(Request(scope), 413, "too_large", detail, headers={"Connection": "close"})
        await answer(scope, receive, send)


def _host_name(header: str) -> str:
    """The host in a Host header, without its port and without the brackets of IPv6."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether a host name or address is always this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _request_id(given: str | None) -> str:
    """The caller's id if it is harmless in a log, else a new one."""
    if given and re.fullmatch(r"[A-Za-z0-9._-]{1,100}", given):
        return given
    return uuid.uuid4().hex
