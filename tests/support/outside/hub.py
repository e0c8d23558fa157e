"""A Hub on the loopback, which holds what a test puts there."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from surgery.schemas.data.dataset import HubDataset

SHA = "0123456789abcdef0123456789abcdef01234567"
TRAIN = b'{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n'
OWN = HubDataset(hub="me/own")


@dataclass
class FakeHub:
    """What the loopback Hub holds, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    error: str | None = None
    ranges: bool = True
    tokens: set[str | None] = field(default_factory=set)
    address: str = ""

    def info(self) -> bytes:
        """What the Hub's API says of its one repository."""
        siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
        whole = {"id": "me/own", "sha": SHA, "siblings": siblings, "cardData": self.card}
        return json.dumps(whole).encode()


def _part(body: bytes, asked: str | None) -> tuple[int, bytes]:
    if asked is None:
        return 200, body
    start, end = map(int, asked.removeprefix("bytes=").split("-"))
    return 206, body[start : end + 1]


@contextmanager
def served() -> Iterator[FakeHub]:
    """An empty Hub that answers at its address."""
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.tokens.add(self.headers.get("Authorization"))
            path = self.path.split("?", maxsplit=1)[0]
            name = path.partition(f"/resolve/{SHA}/")[2]
            info = path.startswith(("/api/datasets/me/own", "/api/models/me/own"))
            known = info or name in fake.files
            body = fake.files.get(name, b"") if name else fake.info()
            status, body = _part(body, self.headers.get("Range")) if fake.ranges else (200, body)
            if not known or fake.status != 200:
                status = fake.status if known else 404
            self.send_response(status)
            if fake.error:
                self.send_header("X-Error-Code", fake.error)
            self.send_header("X-Repo-Commit", SHA)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  # the names http.server looks for

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()
