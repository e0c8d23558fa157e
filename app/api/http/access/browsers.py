"""What web pages may do: nothing from other sites without keys, and CORS where it is set up."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import CrossSite, WrongHost

METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")
EXPOSED = (
    "ETag",
    "Location",
    "Retry-After",
    "X-Request-ID",
    "Idempotent-Replayed",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Content-Disposition",
    "Repr-Digest",
)


class CrossOriginMiddleware:
    """Lets pages of the given origins call the API. Other pages are answered without CORS."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app = app
        self.origins = frozenset(origins)
        self.cors = CORSMiddleware(
            app,
            allow_origins=list(origins),
            allow_methods=METHODS,
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        known = scope["type"] == "http" and Headers(scope=scope).get("origin") in self.origins
        await (self.cors if known else self.app)(scope, receive, send)


def refuse_wrong_host(headers: Headers) -> None:
    """Raises WrongHost if a foreign host name resolves to this machine (DNS rebinding)."""
    if not is_loopback(_host_name(headers.get("host", ""))):
        raise WrongHost


def refuse_other_sites(headers: Headers, allowed: Sequence[str] = ()) -> None:
    """Raises CrossSite if a browser says that a page of another site sends this request.

    Such a page could otherwise submit and delete jobs with the rights of whoever opened it.
    """
    origin = headers.get("origin")
    if origin in allowed:
        return
    site = headers.get("sec-fetch-site", "none")
    own = {f"{scheme}://{headers.get('host', '')}" for scheme in ("http", "https")}
    if site not in {"none", "same-origin"} or (origin is not None and origin not in own):
        raise CrossSite


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
