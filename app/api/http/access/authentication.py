"""Who sends a request: decided from its headers, before a byte of its body is read."""

from __future__ import annotations

from sqlalchemy.exc import OperationalError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.keys import Keyring
from app.access.limits import limits_in_force
from app.access.principal import Principal
from app.access.rates import RateLimiter
from app.api.http.access.browsers import refuse_other_sites, refuse_wrong_host
from app.api.http.access.scopes import PREFIXES, scope_of
from app.api.http.problems import answer_error
from app.errors import Forbidden, NotFound, RateLimited, ServiceError
from app.settings import Settings


class AuthenticationMiddleware:
    """Lets a request pass if its key has the operation's scope, and notes who sends it.

    A service without keys belongs to whoever reaches it on this machine. It answers no web page of
    another site, which a browser would let reach it, too.
    """

    def __init__(
        self, app: ASGIApp, keyring: Keyring, rates: RateLimiter, settings: Settings
    ) -> None:
        self.app = app
        self.keyring = keyring
        self.rates = rates
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and "rate" in state:
                MutableHeaders(scope=message).update(state["rate"].headers)
            await send(message)

        try:
            await self._check(scope, Headers(scope=scope))
        except (ServiceError, OperationalError) as error:
            await _refusal(scope, error)(scope, receive, told)
            return
        await self.app(scope, receive, told)

    async def _check(self, scope: Scope, headers: Headers) -> None:
        path: str = scope["path"]
        if not path.startswith(PREFIXES):
            # Such as /healthz, which must not wait for the database.
            if self.keyring.believed_open:
                refuse_wrong_host(headers)
            return
        principal = await self.keyring.anonymous()
        if principal is not None:
            refuse_wrong_host(headers)
            refuse_other_sites(headers, self.settings.cors_origins)
        else:
            principal = await self.keyring.holder_of(headers.get("authorization"))
        await self._count(scope, principal)
        check_scope(principal, scope["method"], path)
        scope["state"]["principal"] = principal

    async def _count(self, scope: Scope, principal: Principal) -> None:
        """Count this request. Raises RateLimited."""
        limit = limits_in_force(self.settings, principal.limits).requests_per_minute
        if limit is None:
            return
        rate = await self.rates.take(principal.actor, limit)
        scope["state"]["rate"] = rate
        if not rate.allowed:
            raise RateLimited(
                f"this key may send {rate.limit:,} requests a minute and has sent them; wait "
                f"{rate.wait_seconds} s",
                headers={"Retry-After": str(rate.wait_seconds)},
            )


def check_scope(principal: Principal, method: str, path: str) -> None:
    """Raises Forbidden unless the caller may do this, and NotFound if there is no such resource."""
    wanted = scope_of(method, path)
    if wanted is None:
        raise NotFound("there is no such path; /openapi.json lists them")
    if wanted not in principal.scopes:
        held = ", ".join(sorted(principal.scopes)) or "none"
        raise Forbidden(
            f"this needs a key with the scope {wanted.value!r}; yours has: {held}",
            headers={
                "WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{wanted.value}"'
            },
        )


def _refusal(scope: Scope, error: Exception) -> Response:
    answer = answer_error(Request(scope), error)
    headers = Headers(scope=scope)
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        answer.headers["Connection"] = "close"  # the body will never be read
    return answer
