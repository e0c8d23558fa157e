"""A lean load generator: clients that keep a connection open and send as soon as they are answered.

It is written on uvloop and httptools, since generators on pip that are written in Python take more
time for a request than the service does, and those that do not are no wheels.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import httptools
import uvloop


@dataclass
class Load:
    """What a number of clients were answered, and how long each answer took."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """The latency in milliseconds that this share of the answers stays below."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def add(self, other: Load) -> None:
        """Count another round in."""
        self.seconds += other.seconds
        self.latencies += other.latencies
        self.statuses += other.statuses


class _Client(asyncio.Protocol):
    """One connection, with one request on its way at a time."""

    def __init__(self, load: Load, requests: Iterator[bytes], until: float) -> None:
        self.load, self.requests, self.until = load, requests, until
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is of no class of asyncio
        self._send()

    def _send(self) -> None:
        request = next(self.requests, None)
        if request is None or time.perf_counter() > self.until:
            self.transport.close()
            self.done.set_result(None)
            return
        self.parser = httptools.HttpResponseParser(self)
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))

    def on_message_complete(self) -> None:
        self.load.latencies.append(time.perf_counter() - self.sent)
        self.load.statuses[self.parser.get_status_code()] += 1
        asyncio.get_running_loop().call_soon(self._send)


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """The bytes of a request; an underscore in a header's name stands for a hyphen."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if body:
        headers |= {"content_type": "application/json", "content_length": str(len(body))}
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def run(port: int, requests: Iterator[bytes], clients: int, seconds: float) -> Load:
    """Send requests from so many clients, for a time or until there are none left."""

    async def everything() -> Load:
        load = Load()
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        until = began + seconds
        open_all = (
            loop.create_connection(lambda: _Client(load, requests, until), "127.0.0.1", port)
            for _ in range(clients)
        )
        protocols = [client for _, client in await asyncio.gather(*open_all)]
        await asyncio.gather(*(client.done for client in protocols))
        load.seconds = time.perf_counter() - began
        return load

    return uvloop.run(everything())
