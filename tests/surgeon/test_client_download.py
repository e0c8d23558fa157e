"""Downloads that do not end as they should, from whatever answers at the URL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from surgeon.client import ApiError, Client, InvalidRequest, Unreachable


@contextmanager
def answering(content: bytes, promised: int | None) -> Iterator[str]:
    """A server that promises so many bytes and sends others."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if promised is not None:
                self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_download_that_breaks_off_says_how_far_it_came(tmp_path: Path) -> None:
    told = pytest.raises(Unreachable, match=r"broke off after 100 of 5,000 bytes.*ask again")
    with answering(b"x" * 100, 5000) as url, Client(url) as client, told:
        client.download("ck_1", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("promised", [3, None])
def test_what_is_no_archive_is_an_unexpected_answer(tmp_path: Path, promised: int | None) -> None:
    told = pytest.raises(ApiError, match=r"Unexpected answer \(200\): no archive")
    with answering(b"hi!", promised) as url, Client(url) as client, told:
        client.download("ck_1", tmp_path)


def test_an_id_that_makes_no_url_is_refused(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(InvalidRequest):
        client.download("ck\n1", tmp_path)
