"""Counts and times the requests of this process, for /metrics."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from starlette.types import ASGIApp, Message, Receive, Scope, Send

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, for nothing
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class RequestMeter:
    """The numbers of all requests by method and route, so that an id in a path is no label."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "surgeon_http_requests",
            "Requests that were answered.",
            ("method", "route", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "surgeon_http_request_seconds",
            "Seconds from a request to the beginning of its answer.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=registry,
        )


class MeasuringMiddleware:
    """Counts each request when its answer begins. Plain ASGI, so that streams stay streams."""

    def __init__(self, app: ASGIApp, meter: RequestMeter) -> None:
        self.app, self.meter = app, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, measured)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        # What was refused before a route was looked for has none.
        route = getattr(scope.get("route"), "path", None) or "none"
        self.meter.requests.labels(method, route, status).inc()
        self.meter.seconds.labels(method, route).observe(seconds)
