"""What checkpoints are downloaded as: their files, in either form, and archives of them.

A delta's full form is stored nowhere: its weights are merged with the base model's on the way.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from app.api.http.ranges import Download, answer_download, answer_early, with_digest
from app.artifacts.tar import Chunks, Member, Tar, in_memory
from app.db.tables import Checkpoint, Job
from app.errors import NotFound, Unprocessable
from app.jobs.outputs.checkpoints import explaining_missing_files, missing_files_error
from app.service import Service
from surgery.checkpoints.card import full_documents
from surgery.checkpoints.merge import DELTA, RECORD, MergedWeights, merge
from surgery.errors import UnsafeWeights, printable
from surgery.io.folders import MANIFEST
from surgery.models.source.copy import checked_copy
from surgery.models.source.folder import WEIGHTS_FILE
from surgery.models.source.resolve import resolve_model
from surgery.schemas.resolved import Resolved

BINARY = "application/octet-stream"
TAR = "application/x-tar"


def answer_stored_file(service: Service, row: Checkpoint, name: str, request: Request) -> Response:
    """A file as it is stored, or a part of it, or where the store has it. Raises NotFound."""
    entry = row.files.get(name)
    if entry is None:
        names = ", ".join(row.files)
        raise NotFound(f"checkpoint {row.id} has no file {printable(name)!r}; it has {names}")
    etag = f'"{entry["sha256"]}"'
    early = answer_early(request, etag)
    if early is not None:
        return early
    with explaining_missing_files(service.database, row):
        service.storage.check(row.path, [name])
    seconds = service.settings.signed_download_seconds
    if seconds is not None:
        url = service.storage.signed_url(f"{row.path}/{name}", seconds)
        return RedirectResponse(url, 307, headers={"Cache-Control": "no-store"})
    chunks, digest = _stored(service, row, name), bytes.fromhex(entry["sha256"])
    return answer_download(request, Download(name, BINARY, etag, entry["bytes"], chunks, digest))


def answer_full_file(service: Service, row: Checkpoint, name: str, request: Request) -> Response:
    """A file of a delta's full form that the delta lacks or has differently. Raises NotFound."""
    if name == WEIGHTS_FILE:
        return _answer_full_weights(service, row, request)
    texts = full_texts(service, row)
    if name not in texts:
        names = sorted({*row.files, *texts, WEIGHTS_FILE} - {DELTA})
        raise NotFound(
            f"the full form of checkpoint {row.id} has no file {printable(name)!r}; it has "
            f"{', '.join(names)}"
        )
    content = texts[name].encode()
    digest = hashlib.sha256(content)
    etag, chunks = f'"{digest.hexdigest()}"', in_memory(content)
    download = Download(name, BINARY, etag, len(content), chunks, digest.digest())
    return answer_download(request, download)


def _answer_full_weights(service: Service, row: Checkpoint, request: Request) -> Response:
    etag = _weights_tag(row)
    early = answer_early(request, etag)
    if early is not None:
        return early
    weights = full_weights(service, row)
    download = Download(WEIGHTS_FILE, BINARY, etag, weights.size, weights.chunks)
    return answer_download(request, with_digest(request, service.storage.digests, download))


def answer_archive(service: Service, row: Checkpoint, form: str, request: Request) -> Response:
    """A tar archive of all files in one form, or a part of it."""
    etag = _archive_tag(row, form)
    early = answer_early(request, etag)
    if early is not None:
        return early
    with explaining_missing_files(service.database, row):
        service.storage.check(row.path, row.files)
    members = _stored_members(service, row) if form == row.form else _full_members(service, row)
    tar = Tar(members, row.created_at.timestamp())
    download = Download(f"{row.id}-{form}.tar", TAR, etag, tar.size, tar.chunks)
    with explaining_missing_files(service.database, row):
        download = with_digest(request, service.storage.digests, download)
    return answer_download(request, download)


def _archive_tag(row: Checkpoint, form: str) -> str:
    """The ETag of an archive: a digest of its form, its files and their time stamp."""
    content = json.dumps([form, row.files, row.created_at.timestamp()], sort_keys=True)
    return f'"{hashlib.sha256(content.encode()).hexdigest()}"'


def _weights_tag(row: Checkpoint) -> str:
    return f'"full-{row.files[DELTA]["sha256"]}"'  # a delta has only one base model


def _stored_members(service: Service, row: Checkpoint) -> list[Member]:
    members = [
        Member(name, row.files[name]["bytes"], _stored(service, row, name))
        for name in sorted(row.files)
    ]
    manifest = json.dumps({"files": row.files}, indent=1).encode()
    return [*members, Member(MANIFEST, len(manifest), in_memory(manifest))]


def _full_members(service: Service, row: Checkpoint) -> list[Member]:
    """The files of the full form. The manifest is last: its digest is known once all is sent."""
    weights = full_weights(service, row)
    texts = full_texts(service, row)
    others = {name: entry for name, entry in row.files.items() if name not in {DELTA, *texts}}
    members = [
        Member(name, entry["bytes"], _stored(service, row, name)) for name, entry in others.items()
    ]
    members += [_text(name, text.encode()) for name, text in texts.items()]
    entries = others | {name: _entry(text.encode()) for name, text in texts.items()}
    parts = (_weights_tag(row), weights.size, weights.chunks)
    digests = service.storage.digests
    members.append(Member(WEIGHTS_FILE, weights.size, digests.watching(*parts)))

    def manifest(digest: bytes) -> bytes:
        whole = {WEIGHTS_FILE: {"bytes": weights.size, "sha256": digest.hex()}}
        return json.dumps({"files": entries | whole}, indent=1).encode()

    # Every digest has the same length, so the manifest's size is known before the digest is.
    size = len(manifest(bytes(32)))

    def described(start: int, end: int) -> Iterator[bytes]:
        yield manifest(digests.computed(*parts))[start:end]

    return [*members, Member(MANIFEST, size, described)]


def full_texts(service: Service, row: Checkpoint) -> dict[str, str]:
    """The texts that describe the checkpoint's form, as the full form of a delta has them."""
    with explaining_missing_files(service.database, row):
        record = b"".join(service.storage.chunks(f"{row.path}/{RECORD}"))
    try:
        return full_documents(json.loads(record))
    except (ValueError, LookupError, TypeError) as error:
        raise UnsafeWeights(f"{RECORD} of checkpoint {row.id} is damaged") from error


def full_weights(service: Service, row: Checkpoint) -> MergedWeights:
    """A delta's weights merged with those of its base model.

    Raises Unprocessable if the base model has changed since the training, UnsafeWeights if the
    stored delta is damaged, and what ``missing_files_error`` returns if it is gone.
    """
    sources = service.settings.sources
    with service.database.read() as session:
        job = session.get(Job, row.job_id)
    assert job is not None
    model = Resolved.of(job.resolved).model
    base = resolve_model(model.reference, sources)
    if base.fingerprint != model.fingerprint:
        raise Unprocessable(
            f"{model.id} has changed since this checkpoint was trained; download form=delta"
        )
    # A verified copy is read: the mirror's own files could be replaced meanwhile.
    copy = checked_copy(base, sources)
    weights = [copy / name for name in base.weights]
    with explaining_missing_files(service.database, row):
        held = service.storage.fetch_folder(row.path)
        if held is None:
            raise missing_files_error(service.database, row)
        try:
            merged = merge(held.path, weights)
        except BaseException:
            held.release()
            raise
    weakref.finalize(merged, held.release)  # the last answer that reads them has been sent by then
    return merged


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _stored(service: Service, row: Checkpoint, name: str) -> Chunks:
    return partial(service.storage.chunks, f"{row.path}/{name}")


def _text(name: str, content: bytes) -> Member:
    return Member(name, len(content), in_memory(content))
