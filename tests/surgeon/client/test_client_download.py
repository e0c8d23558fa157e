"""Downloads that do not end as they should, from whatever answers at the URL."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from surgeon.client import ApiError, Client, DamagedDownload, InvalidRequest, Unreachable

CONTENT = bytes(range(256)) * 40


def archive(content: bytes = CONTENT, digest: str | None = None) -> bytes:
    """A checkpoint's archive, with its manifest last, as the service writes it."""
    entry = {"bytes": len(content), "sha256": digest or hashlib.sha256(content).hexdigest()}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, member in (
            ("weights", content),
            ("manifest.json", json.dumps({"files": {"weights": entry}}).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(member)
            tar.addfile(info, io.BytesIO(member))
    return packed.getvalue()


@dataclass
class Answers:
    """What a server sends for an archive, and what it was asked for.

    It breaks off after ``pieces`` bytes of each answer, and knows ranges if the archive has an
    ETag.
    """

    content: bytes
    promised: int | None
    tag: str | None = None
    pieces: int | None = None
    digest: bytes | None = None
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)

    def send(self, handler: BaseHTTPRequestHandler) -> None:
        wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        self.asked.append((wanted, condition))
        partial = bool(self.tag and wanted and condition == self.tag)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if partial and wanted else 0
        handler.send_response(206 if partial else 200)
        if self.promised is not None:
            handler.send_header("Content-Length", str(self.promised - start))
        for name, value in (("ETag", self.tag), ("Repr-Digest", self._digest())):
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        end = None if self.pieces is None else start + self.pieces
        handler.wfile.write(self.content[start:end])

    def _digest(self) -> str | None:
        return f"sha-256=:{b64encode(self.digest).decode()}:" if self.digest else None


@contextmanager
def answering(answers: Answers) -> Iterator[str]:
    """A server that sends these answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.send(self)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_download_that_breaks_off_says_how_far_it_came_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = archive()
    told = pytest.raises(Unreachable, match=r"broke off after 9,000 of 20,480 bytes.*goes on")
    broken = Answers(whole, len(whole), '"a"', pieces=9000)
    with answering(broken) as url, Client(url, patience=0) as client, told:
        client.download("ck_1", tmp_path)
    assert broken.asked == [(None, None)]
    assert {path.name for path in tmp_path.iterdir()} == {".ck_1-stored.part", ".ck_1-stored.etag"}
    rest = Answers(whole, len(whole), '"a"', pieces=9000, digest=hashlib.sha256(whole).digest())
    with answering(rest) as url, Client(url) as client:
        client.download("ck_1", tmp_path, progress=True)
    assert rest.asked == [("bytes=9000-", '"a"'), ("bytes=18000-", '"a"')]
    assert "ck_1: 100 % of 20.5 kB" in capsys.readouterr().err
    assert (tmp_path / "weights").read_bytes() == CONTENT
    assert {path.name for path in tmp_path.iterdir()} == {"weights", "manifest.json"}


def test_another_archive_is_received_from_its_beginning(tmp_path: Path) -> None:
    old, new = archive(b"old" * 5000), archive()
    broken = Answers(old, len(old), '"old"', pieces=9000)
    with answering(broken) as url, Client(url, patience=0) as client, pytest.raises(Unreachable):
        client.download("ck_1", tmp_path)
    answers = Answers(new, len(new), '"new"')
    with answering(answers) as url, Client(url) as client:
        client.download("ck_1", tmp_path)
    assert answers.asked == [("bytes=9000-", '"old"')]
    assert (tmp_path / "weights").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("whole", "digest", "named"),
    [
        (archive(), bytes(32), "the archive"),  # the digest of an answer
        (archive(digest="0" * 64), None, "weights"),  # that of the manifest
    ],
)
def test_a_digest_that_differs_is_told_and_nothing_unpacked(
    whole: bytes, digest: bytes | None, named: str, tmp_path: Path
) -> None:
    answers = Answers(whole, len(whole), '"a"', digest=digest)
    told = pytest.raises(DamagedDownload, match=f"{named} was damaged")
    with answering(answers) as url, Client(url) as client, told:
        client.download("ck_1", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("promised", [3, None])
def test_what_is_no_archive_is_an_unexpected_answer(tmp_path: Path, promised: int | None) -> None:
    told = pytest.raises(ApiError, match=r"Unexpected answer \(200\): no archive")
    with answering(Answers(b"hi!", promised)) as url, Client(url) as client, told:
        client.download("ck_1", tmp_path)


def test_an_id_that_makes_no_url_is_refused(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(InvalidRequest):
        client.download("ck\n1", tmp_path)
