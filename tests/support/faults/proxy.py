"""A TCP proxy in front of Postgres that hangs, or loses a reply, when a test says so."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from psycopg.conninfo import conninfo_to_dict

CHUNK_BYTES = 1 << 16
Pump = Callable[[socket.socket, socket.socket, "_State"], None]


@dataclass
class Proxy:
    """Between a client and a server; ``url`` is where clients of SQLAlchemy find it."""

    server: socket.socket
    target: dict[str, str]
    flowing: threading.Event = field(default_factory=threading.Event)
    lost: threading.Event = field(default_factory=threading.Event)
    _lose_after: list[bytes] = field(default_factory=list)
    _open: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        user = self.target.get("user") or "postgres"
        password = f":{self.target['password']}" if self.target.get("password") else ""
        port = self.server.getsockname()[1]
        return (
            f"postgresql+psycopg://{user}{password}@127.0.0.1:{port}/{self.target['dbname']}"
            "?sslmode=disable&gssencmode=disable"
        )

    def hang(self) -> None:
        """Accept connections and bytes, and pass nothing on."""
        self.flowing.clear()

    def resume(self) -> None:
        """Pass on what has come meanwhile, and what comes."""
        self.flowing.set()

    def lose_the_reply(self, *words: bytes) -> None:
        """Once a client has sent all of these, in this order, end it in the place of the reply.

        The server has then carried out what it was sent.
        """
        self.lost.clear()
        self._lose_after = list(words)

    def accept(self) -> None:
        """Serve until the socket is closed."""
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            upstream = self._connect()
            self._open += [client, upstream]
            state = _State()
            for pump in (self._send, self._answer):
                ends = (pump, client, upstream, state)
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _connect(self) -> socket.socket:
        host = self.target.get("host") or "127.0.0.1"
        port = int(self.target.get("port") or 5432)
        if host.startswith("/"):
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(str(Path(host) / f".s.PGSQL.{port}"))
            return upstream
        return socket.create_connection((host, port))

    def _pump(
        self, pump: Pump, client: socket.socket, upstream: socket.socket, state: _State
    ) -> None:
        with contextlib.suppress(OSError):  # the other end is gone
            pump(client, upstream, state)
        for each in (client, upstream):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _send(self, client: socket.socket, upstream: socket.socket, state: _State) -> None:
        for data in self._chunks(client):
            if self._lose_after and state.wanted is None:
                state.wanted = list(self._lose_after)
            while state.wanted and state.wanted[0] in data:
                state.wanted.pop(0)
            state.losing = state.wanted == [] and bool(self._lose_after)
            upstream.sendall(data)

    def _answer(self, client: socket.socket, upstream: socket.socket, state: _State) -> None:
        for data in self._chunks(upstream):
            if state.losing:
                self._lose_after = []
                self.lost.set()
                return
            client.sendall(data)

    def _chunks(self, source: socket.socket) -> Iterator[bytes]:
        while data := source.recv(CHUNK_BYTES):
            self.flowing.wait()
            yield data

    def close(self) -> None:
        """End every connection."""
        self.resume()
        for each in (self.server, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@dataclass
class _State:
    """Of one connection: which words it has still to send, and whether its reply is lost."""

    wanted: list[bytes] | None = None
    losing: bool = False


P = TypeVar("P", bound=Proxy)


@contextlib.contextmanager
def proxy_to(dsn: str) -> Iterator[Proxy]:
    """A proxy to the database of this DSN."""
    target = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value}
    with serving(Proxy, target) as proxy:
        yield proxy


@contextlib.contextmanager
def serving(kind: type[P], target: dict[str, str]) -> Iterator[P]:
    """A proxy of this kind while it serves."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = kind(server, target)
        proxy.resume()
        accepting = threading.Thread(target=proxy.accept, daemon=True)
        accepting.start()
        try:
            yield proxy
        finally:
            proxy.close()
            accepting.join(5)
