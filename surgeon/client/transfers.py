"""Uploads and downloads, as flows. A download that broke off goes on where it did, and is checked
against the service's digests before anything is unpacked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import httpx2

from surgeon.client.answers import checked, parsed, unexpected
from surgeon.client.calls import Service, call, seconds_until_next
from surgeon.client.errors import ApiError, DamagedDownload, Unreachable
from surgeon.client.requests import Request, json_of
from surgeon.client.retries import Retries
from surgeon.client.steps import Flow, Opened, open_answer, read, sleep, work
from surgery.schemas.answers.dataset import DatasetView

OnBytes = Callable[[int, int], None]
"""Called with the bytes moved so far and their total."""

MANIFEST = "manifest.json"  # the last file of an archive, with the digests of the others
_PIECE_BYTES = 1 << 20
_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")


class _Counted:
    """A file that tells how far it has been read."""

    def __init__(self, file: IO[bytes], on_read: Callable[[], None]) -> None:
        self._file, self._on_read = file, on_read
        self.seek, self.tell, self.fileno = file.seek, file.tell, file.fileno

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._on_read()
        return piece


def upload(
    service: Service,
    train: Path | str,
    validation: Path | str | None = None,
    *,
    spec: Mapping[str, Any] | None = None,
    name: str | None = None,
    progress: bool = False,
) -> Flow[DatasetView]:
    """Upload a dataset; ``spec`` has the fields of its `UploadSpec`, ``name`` is for lists.

    The service compares what arrives with the SHA-256 that is sent along with each file. An upload
    that broke off is sent again as a whole, under the same idempotency key.
    ``progress`` shows a bar on standard error, or lines where that is no terminal.
    """
    paths = {"train": Path(train)} | (
        {} if validation is None else {"validation": Path(validation)}
    )
    data = {"spec": json.dumps(json_of(spec or {}))} | ({} if name is None else {"name": name})
    with contextlib.ExitStack() as stack:
        on_update = stack.enter_context(_display(progress, paths["train"].name))
        opened = {part: stack.enter_context(path.open("rb")) for part, path in paths.items()}
        total = sum(path.stat().st_size for path in paths.values())

        def on_read() -> None:
            if on_update:
                on_update(sum(file.tell() for file in opened.values()), total)

        digests = yield from work(partial(_digests_of, opened))
        files = {
            part: (paths[part].name, _Counted(file, on_read), None, digests[part])
            for part, file in opened.items()
        }
        stored = yield from call(service, "POST", "/v1/datasets", files=files, data=data)
    return parsed(DatasetView, stored)


def _digests_of(files: Mapping[str, BufferedReader]) -> dict[str, dict[str, str]]:
    """The header of each file's part that names its SHA-256 (RFC 9530)."""
    digests = {part: hashlib.file_digest(file, "sha256") for part, file in files.items()}
    for file in files.values():
        file.seek(0)
    return {
        part: {"Content-Digest": f"sha-256=:{b64encode(digest.digest()).decode()}:"}
        for part, digest in digests.items()
    }


def _display(progress: bool, name: str) -> AbstractContextManager[OnBytes | None]:
    if not progress:
        return contextlib.nullcontext()
    from surgeon.terminal.progress import transfer_progress

    return transfer_progress(name)


@dataclass(frozen=True)
class _Part:
    """What has been received of an archive, with the ETag that it has at the service."""

    path: Path
    tag_path: Path

    @classmethod
    def of(cls, folder: Path, checkpoint_id: str, form: str | None) -> _Part:
        name = re.sub(r"[^\w-]", "_", f"{checkpoint_id}-{form or 'stored'}")
        return cls(folder / f".{name}.part", folder / f".{name}.etag")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def range_headers(self) -> dict[str, str]:
        """Ask for the rest, if the archive is still the same; nothing if there is no beginning."""
        if not self.size or not self.tag_path.exists():
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self.tag_path.read_text()}

    def begin(self, tag: str | None) -> None:
        """Begin anew. Without an ETag, what comes cannot be gone on with later."""
        self.discard()
        self.path.touch()
        if tag:
            self.tag_path.write_text(tag)

    def discard(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)
        self.tag_path.unlink(missing_ok=True)


def download(
    service: Service,
    checkpoint_id: str,
    folder: Path | str,
    form: str | None = None,
    *,
    progress: bool = False,
) -> Flow[Path]:
    """Download a checkpoint and unpack it into a folder, which is created if it does not exist.

    One that broke off, now or in an earlier call, goes on where it did. ``progress`` shows a bar on
    standard error, or lines where that is no terminal. Raises DamagedDownload if a digest differs.
    """
    folder = Path(folder)
    options = {"params": {"form": form} if form else {}}
    request = Request("GET", f"/v1/checkpoints/{checkpoint_id}/archive", options)
    folder.mkdir(parents=True, exist_ok=True)
    part = _Part.of(folder, checkpoint_id, form)
    with _display(progress, checkpoint_id) as on_update:
        answer = yield from _fetched(service, request, part, on_update)
    try:
        yield from work(partial(_unpack, part.path, folder, answer))
    finally:
        part.discard()
    return folder


def _fetched(
    service: Service, request: Request, part: _Part, on_update: OnBytes | None
) -> Flow[httpx2.Response]:
    """Receive the whole archive; returns the head of the last answer."""
    retries, total, most = Retries(service.patience), 0, 0
    while True:
        try:
            opened = yield from _opened(service, request, part)
            if opened is None:
                continue
            total = part.size + int(opened.response.headers.get("content-length", 0))
            yield from _receive(opened, part, total, on_update)
            return opened.response
        except (Unreachable, ApiError) as error:
            if part.size > most:
                retries.succeeded()  # it has come further
            most = max(most, part.size)
            try:
                delay = seconds_until_next(service, retries, error)
            except Unreachable:
                raise _broken_off(part.size, total, error) from error
            yield from sleep(delay)


def _broken_off(done: int, total: int, error: Exception) -> Exception:
    if not done:
        return error
    return Unreachable(
        f"the download broke off after {done:,} of {total:,} bytes ({error}): the service may have "
        "stopped, or the checkpoint was deleted; ask again, and it goes on from there"
    )


def _opened(service: Service, request: Request, part: _Part) -> Flow[Opened | None]:
    """An answer with what is missing; None if what is there fits no longer and was discarded."""
    headers = {"Accept-Encoding": "identity", **part.range_headers}
    opened = yield from open_answer(
        Request(request.method, request.path, {**request.options, "headers": headers})
    )
    answer = opened.response
    if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
        part.discard()
        return None
    checked(answer)
    service.reached = True
    if answer.status_code != HTTPStatus.PARTIAL_CONTENT:
        part.begin(answer.headers.get("etag"))
    return opened


def _receive(opened: Opened, part: _Part, total: int, on_update: OnBytes | None) -> Flow[None]:
    done = part.size
    with part.path.open("ab") as file:
        while piece := (yield from read(opened)):
            file.write(piece)
            done += len(piece)
            if on_update:
                on_update(done, max(total, done))


def _digest_of(answer: httpx2.Response) -> bytes | None:
    """The SHA-256 of the whole archive, if the answer names it (RFC 9530)."""
    found = _DIGEST.search(answer.headers.get("repr-digest", ""))
    return b64decode(found[1]) if found else None


def _unpack(packed: Path, folder: Path, answer: httpx2.Response) -> None:
    """Unpack an archive once it was checked: as a whole, or each of its files."""
    digest = _digest_of(answer)
    if digest is not None:
        with packed.open("rb") as file:
            if hashlib.file_digest(file, "sha256").digest() != digest:
                raise DamagedDownload(_damaged("the archive"))
    try:
        with tarfile.open(packed, mode="r:") as archive:
            if digest is None:
                _check_files(archive)
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, ValueError, LookupError) as error:
        raise unexpected(answer.status_code, f"no archive: {error}") from error


def _check_files(archive: tarfile.TarFile) -> None:
    """Compare each file with the archive's manifest. Raises DamagedDownload."""
    found = {name: _sha256(file) for name, file in _files(archive) if name != MANIFEST}
    listed = next((file for name, file in _files(archive) if name == MANIFEST), None)
    if listed is None:
        return  # a service of an early version, which writes none
    for name, entry in json.load(listed)["files"].items():
        if found.get(name) != entry["sha256"]:
            raise DamagedDownload(_damaged(name))


def _files(archive: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for member in archive.getmembers():
        file = archive.extractfile(member)
        if file is not None:
            yield member.name, file


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def _damaged(what: str) -> str:
    return f"{what} was damaged on the way: its SHA-256 is not the service's; ask again"
