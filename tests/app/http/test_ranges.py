"""Ranges, preconditions and digests of everything that is downloaded, wherever it is stored."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from base64 import b64decode
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.http import ranges
from app.api.http.ranges import MAX_RANGES, RangeNotSatisfiable, parse_ranges
from app.artifacts.tar import Member, Tar, in_memory
from tests.support.service.problems import problem
from tests.support.service.stored import Place, place_in

IGNORED = [
    "", "bytes", "bytes=", "bytes=-", "bytes=1", "bytes=a-b", "bytes=5-3", "bytes=0-1,5-3",
    "bytes=0-1,x", "lines=0-1", "bytes 0-1", "bytes=0--1", "bytes=-1-", "bytes=٣-٤",
    "bytes=" + ",".join(f"{n * 3}-{n * 3}" for n in range(MAX_RANGES + 1)),
    "bytes=" + ",".join(["0-"] * 1000),
]  # fmt: skip


@pytest.mark.parametrize("header", IGNORED)
def test_a_range_that_is_wrong_or_a_bomb_is_ignored(header: str) -> None:
    assert parse_ranges(header, 100) is None


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=0-9", [(0, 10)]), ("BYTES = 0-9", [(0, 10)]), ("bytes=90-", [(90, 100)]),
        ("bytes=90-1000", [(90, 100)]), ("bytes=-7", [(93, 100)]), ("bytes=-1000", [(0, 100)]),
        (f"bytes=0-{'9' * 5000}", [(0, 100)]), ("bytes=0-0,-1", [(0, 1), (99, 100)]),
        ("bytes=50-59 , 0-9", [(50, 60), (0, 10)]), ("bytes=,0-9,,", [(0, 10)]),
        ("bytes=0-9,5-20,99-", [(0, 21), (99, 100)]), ("bytes=0-,0-,0-,-100", [(0, 100)]),
        ("bytes=0-9,200-", [(0, 10)]), ("bytes=0-9,-0", [(0, 10)]),
    ],
)  # fmt: skip
def test_ranges_are_read(header: str, spans: list[tuple[int, int]]) -> None:
    assert parse_ranges(header, 100) == spans


@pytest.mark.parametrize(
    "header", ["bytes=100-", "bytes=-0", "bytes=100-200,300-", f"bytes={'9' * 5000}-"]
)
def test_a_range_that_is_not_there_is_told_the_size(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as raised:
        parse_ranges(header, 100)
    assert raised.value.headers == {"Content-Range": "bytes */100"}


@given(st.text(alphabet="bytes=0123456789-, \t٣", max_size=40), st.integers(0, 50))
def test_no_header_asks_for_more_than_there_is(header: str, size: int) -> None:
    for text in (header, f"bytes={header}"):
        try:
            spans = parse_ranges(text, size) or []
        except RangeNotSatisfiable:
            continue
        assert all(0 <= start < end <= size for start, end in spans)
        assert sum(end - start for start, end in spans) <= size


@given(st.lists(st.binary(max_size=1100), max_size=4), st.data())
def test_any_part_of_an_archive_is_that_of_the_whole(contents: list[bytes], data: Any) -> None:
    members = [Member(f"f{n}", len(each), in_memory(each)) for n, each in enumerate(contents)]
    tar = Tar(members, 1e9)
    whole = b"".join(tar.chunks(0, tar.size))
    assert len(whole) == tar.size
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        for name, content in zip(archive.getnames(), contents, strict=True):
            file = archive.extractfile(name)
            assert file is not None
            assert file.read() == content
    start = data.draw(st.integers(0, tar.size))
    end = data.draw(st.integers(start, tar.size))
    assert b"".join(tar.chunks(start, end)) == whole[start:end]


@pytest.fixture(params=["folder", "object store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A service with a delta, stored on a disk or in an object store."""
    store = request.param == "object store"
    with place_in(tmp_path, **({"artifacts_url": "memory://ranges"} if store else {})) as place:
        log = tmp_path / "log"
        log.mkdir()
        (log / "events.1").write_bytes(b"numbers" * 300)
        manifest = {"files": {"events.1": {"bytes": 2100, "sha256": ""}}}
        (log / "manifest.json").write_text(json.dumps(manifest))
        place.service.storage.put_folder(log, f"logs/{place.kept.lease.job_id}/1", replace=True)
        yield place
    if store:
        fsspec.filesystem("memory").rm("/ranges", recursive=True)


def downloads(place: Place) -> list[str]:
    return [
        f"{place.path}/files/delta.safetensors",
        f"{place.path}/files/config.json",
        f"{place.path}/files/model.safetensors?form=full",
        f"{place.path}/files/README.md?form=full",
        f"{place.path}/archive",
        f"{place.path}/archive?form=full",
        f"/v1/jobs/{place.kept.lease.job_id}/tensorboard",
    ]


def test_every_download_is_whole_proven_and_resumable(place: Place) -> None:
    for path in downloads(place):
        whole = place.api.get(path)
        size, etag = len(whole.content), whole.headers["etag"]
        assert whole.status_code == 200, whole.text
        assert int(whole.headers["content-length"]) == size
        assert whole.headers["accept-ranges"] == "bytes"
        assert digest_of(whole) == hashlib.sha256(whole.content).digest()
        for asked, start, end in (
            ("0-9", 0, 10), ("100-250", 100, 251), ("-7", size - 7, size), ("9-", 9, size),
            ("0-", 0, size),
        ):  # fmt: skip
            part = place.api.get(path, headers={"Range": f"bytes={asked}", "If-Range": etag})
            assert part.status_code == 206, (path, asked)
            assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
            assert part.content == whole.content[start:end]
            assert int(part.headers["content-length"]) == len(part.content)
            assert part.headers["etag"] == etag
            assert digest_of(part) == digest_of(whole)  # of the whole representation


def digest_of(answer: Any) -> bytes:
    value = answer.headers["repr-digest"]
    assert value.startswith("sha-256=:")
    return b64decode(value.removeprefix("sha-256=:").removesuffix(":"))


def test_head_tells_what_get_would_and_reads_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "SMALL_BYTES", 0)
    for path in downloads(place):
        head = place.api.head(path, headers={"Range": "bytes=0-9"})
        whole = place.api.get(path)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "accept-ranges", "etag", "content-type"):
            assert head.headers[name] == whole.headers[name], (path, name)


def test_several_ranges_are_the_parts_of_one_body(place: Place) -> None:
    for path in downloads(place):
        whole = place.api.get(path).content
        answer = place.api.get(path, headers={"Range": "bytes=300-309, 0-4, -5, 2-8"})
        assert answer.status_code == 206
        assert int(answer.headers["content-length"]) == len(answer.content)
        kind = answer.headers["content-type"]
        assert kind.startswith("multipart/byteranges; boundary=")
        document = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + answer.content)
        parts: Any = document.get_payload()
        size = len(whole)
        expected = [(0, 9), (300, 310), (size - 5, size)]
        assert [part["content-range"] for part in parts] == [
            f"bytes {start}-{end - 1}/{size}" for start, end in expected
        ]
        boundary = kind.partition("boundary=")[2].encode()
        bodies = [
            each.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            for each in answer.content.split(b"--" + boundary)[1:-1]
        ]
        assert bodies == [whole[start:end] for start, end in expected]


def test_what_is_not_there_is_a_problem_with_the_size(place: Place) -> None:
    for path in downloads(place):
        size = len(place.api.get(path).content)
        answer = place.api.get(path, headers={"Range": f"bytes={size}-"})
        assert f"{size:,} bytes" in problem(answer, 416, "range_not_satisfiable")["detail"]
        assert answer.headers["content-range"] == f"bytes */{size}"


def test_a_range_of_another_version_gets_the_whole(place: Place) -> None:
    for path in downloads(place):
        whole = place.api.get(path)
        etag = whole.headers["etag"]
        for condition in ('"other"', f"W/{etag}", "Sun, 06 Nov 1994 08:49:37 GMT", "*"):
            answer = place.api.get(path, headers={"Range": "bytes=0-9", "If-Range": condition})
            assert (answer.status_code, answer.content) == (200, whole.content), condition
        for header in IGNORED:
            answer = place.api.get(path, headers={"Range": header.replace("٣-٤", "x")})
            assert answer.status_code == 200, header


def test_preconditions(place: Place) -> None:
    for path in downloads(place):
        etag = place.api.get(path).headers["etag"]
        for known in (etag, f"W/{etag}", f'"a", {etag}', "*"):
            answer = place.api.get(path, headers={"If-None-Match": known, "Range": "bytes=0-1"})
            assert (answer.status_code, answer.content) == (304, b""), known
            assert answer.headers["etag"] == etag
        assert place.api.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
        for known, status in ((etag, 200), ("*", 200), (f'"a", {etag}', 200), (f"W/{etag}", 412)):
            assert place.api.get(path, headers={"If-Match": known}).status_code == status, known
        answer = place.api.get(path, headers={"If-Match": '"other"'})
        problem(answer, 412, "changed")
        assert answer.headers["etag"] == etag


def test_the_digest_of_a_large_archive_is_known_once_it_was_sent(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "SMALL_BYTES", 0)
    for path in downloads(place)[2:3] + downloads(place)[4:6]:
        assert "repr-digest" not in place.api.get(path, headers={"Range": "bytes=0-9"}).headers
        first = place.api.get(path)
        assert "repr-digest" not in first.headers
        assert digest_of(place.api.get(path)) == hashlib.sha256(first.content).digest()


def test_who_wants_a_digest_gets_it_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SMALL_BYTES", 0)
    path = downloads(place)[5]
    for refused in ("sha-512=1", "sha-256=0", "sha-2560=1"):
        wants = {"Want-Repr-Digest": refused, "Range": "bytes=0-9"}
        assert "repr-digest" not in place.api.get(path, headers=wants).headers
    wants = {"Want-Repr-Digest": "sha-512=3, sha-256=10", "Range": "bytes=-512"}
    part = place.api.get(path, headers=wants)
    whole = place.api.get(path)
    assert digest_of(part) == digest_of(whole) == hashlib.sha256(whole.content).digest()
    assert part.content == whole.content[-512:]


def test_the_end_of_an_archive_can_be_read_first(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest has the digest of weights that nobody has read yet."""
    monkeypatch.setattr(ranges, "SMALL_BYTES", 0)
    path = f"{place.path}/archive?form=full"
    end = place.api.get(path, headers={"Range": "bytes=-3000"}).content
    whole = place.api.get(path).content
    assert end == whole[-3000:]
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        weights = archive.extractfile("model.safetensors")
        manifest = archive.extractfile("manifest.json")
        assert weights is not None
        assert manifest is not None
        told = json.loads(manifest.read())["files"]["model.safetensors"]["sha256"]
        assert told == hashlib.sha256(weights.read()).hexdigest()


def test_only_the_members_that_a_range_touches_are_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "SMALL_BYTES", 0)
    storage, read = place.service.storage, []
    plain = storage.chunks

    def chunks(key: str, *part: int) -> Iterator[bytes]:
        read.append(key.rpartition("/")[2])
        return plain(key, *part)  # type: ignore[no-any-return]

    monkeypatch.setattr(storage, "chunks", chunks)
    place.api.get(f"{place.path}/archive", headers={"Range": "bytes=-1024"})
    assert read == []
    place.api.get(f"{place.path}/archive", headers={"Range": "bytes=512-520"})
    assert read == ["README.md"]
