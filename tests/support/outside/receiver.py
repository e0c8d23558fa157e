"""A receiver of webhooks: a real server on this machine, which answers as it is told."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

LOOPBACK = "127.0.0.0/8"


@dataclass(frozen=True)
class Received:
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> Any:
        """The payload; raises WebhookVerificationError unless the secret signed it."""
        return Webhook(secret).verify(self.body, self.headers)

    def is_signed_with(self, secret: str) -> bool:
        try:
            self.verified(secret)
        except WebhookVerificationError:
            return False
        return True


@dataclass
class Receiver:
    """What arrived, and what the next requests are answered: a status, a body and headers."""

    url: str
    received: list[Received] = field(default_factory=list)
    answers: list[tuple[int, bytes, dict[str, str]]] = field(default_factory=list)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    silent: threading.Event = field(default_factory=threading.Event)  # take, and never answer

    def will_answer(self, *statuses: int, body: bytes = b"", **headers: str) -> None:
        self.answers += [(status, body, headers) for status in statuses]

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].partition("/")[0])

    def wait(self, count: int = 1, seconds: float = 30) -> Received:
        """The newest request, after so many more have arrived."""
        for _ in range(count):
            assert self.arrived.acquire(timeout=seconds), "nothing arrived"
        return self.received[-1]


@contextmanager
def receiver(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver that answers 204 unless it is told otherwise; with ``tls`` by HTTPS."""
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            own.received.append(Received(headers, body))
            own.arrived.release()
            if own.silent.is_set():
                released.wait(60)
                return
            status, answer, more = own.answers.pop(0) if own.answers else (204, b"", {})
            self.send_response(status)
            for name, value in {"content-length": str(len(answer)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # a sender need not read all of it
                self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    own = Receiver(f"{scheme}://127.0.0.1:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield own
    finally:
        released.set()
        server.shutdown()
        thread.join()
        server.server_close()
