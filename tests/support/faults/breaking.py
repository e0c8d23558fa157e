"""A TCP proxy in front of the service that ends connections in the middle of what they carry."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.support.faults.proxy import Proxy, _State, serving


@dataclass
class Breaking(Proxy):
    """Ends each next connection after so many bytes of requests, or of answers; later ones go on.

    ``requests`` has what each connection began with. ``damage`` is a word of requests, and what
    becomes of it once.
    """

    sent: list[int] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    damage: tuple[bytes, bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.getsockname()[1]}"

    def _send(self, client: socket.socket, upstream: socket.socket, _: _State) -> None:
        left = self.sent.pop(0) if self.sent else None
        self.requests.append(b"")
        place = len(self.requests) - 1
        for data in map(self._damaged, self._chunks(client)):
            self.requests[place] = (self.requests[place] + data)[:4096]
            upstream.sendall(data if left is None else data[:left])
            left = None if left is None else left - len(data)
            if left is not None and left <= 0:
                return

    def _damaged(self, data: bytes) -> bytes:
        if self.damage is None or self.damage[0] not in data:
            return data
        (word, other), self.damage = self.damage, None
        return data.replace(word, other, 1)

    def _answer(self, client: socket.socket, upstream: socket.socket, _: _State) -> None:
        left = self.received.pop(0) if self.received else None
        for data in self._chunks(upstream):
            client.sendall(data if left is None else data[:left])
            left = None if left is None else left - len(data)
            if left is not None and left <= 0:
                return


@contextmanager
def breaking(url: str) -> Iterator[Breaking]:
    """Such a proxy to the service at this URL."""
    place = urlsplit(url)
    target = {"host": str(place.hostname), "port": str(place.port)}
    with serving(Breaking, target) as proxy:
        yield proxy
