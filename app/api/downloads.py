"""The full form of a delta, put together from the base model on the way to its reader."""

from __future__ import annotations

import hashlib
import json
import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.artifacts.tar import Member
from app.errors import NotFound, Unprocessable
from app.jobs.checkpoints import missing, reading
from app.service import Service
from app.tables import Checkpoint, Job
from surgery.checkpoints.card import full_documents
from surgery.checkpoints.merge import DELTA, RECORD, MergedWeights, merge
from surgery.errors import UnsafeWeights
from surgery.io.folders import MANIFEST
from surgery.models.source.copy import checked_copy
from surgery.models.source.folder import WEIGHTS_FILE
from surgery.models.source.resolve import resolve_model
from surgery.schemas.resolved import Resolved

RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")  # one range; several are answered with the whole


def full_members(service: Service, row: Checkpoint) -> list[Member]:
    """The files of the full form, the manifest last: it tells what was read while streaming."""
    weights = full_weights(service, row)
    texts = full_texts(service, row)
    others = {name: entry for name, entry in row.files.items() if name not in {DELTA, *texts}}
    members = [
        Member(name, entry["bytes"], _reading(service, f"{row.path}/{name}"))
        for name, entry in others.items()
    ]
    members += [_text(name, text.encode()) for name, text in texts.items()]
    entries = others | {member.name: _entry(texts[member.name].encode()) for member in members
                        if member.name in texts}  # fmt: skip
    digest = hashlib.sha256()
    members.append(Member(WEIGHTS_FILE, weights.size, lambda: _hashing(weights, digest)))

    def manifest() -> bytes:
        whole = {WEIGHTS_FILE: {"bytes": weights.size, "sha256": digest.hexdigest()}}
        return json.dumps({"files": entries | whole}, indent=1).encode()

    # A digest has always the same length, so the size is known before the digest is.
    members.append(Member(MANIFEST, len(manifest()), lambda: iter([manifest()])))
    return members


def full_texts(service: Service, row: Checkpoint) -> dict[str, str]:
    """The files whose text tells the form, as the full form of a delta has them."""
    with reading(service.database, row):
        record = b"".join(service.storage.chunks(f"{row.path}/{RECORD}"))
    try:
        return full_documents(json.loads(record))
    except (ValueError, LookupError, TypeError) as error:
        raise UnsafeWeights(f"{RECORD} of checkpoint {row.id} is damaged") from error


def full_weights(service: Service, row: Checkpoint) -> MergedWeights:
    """A delta's weights laid out with those of the base.

    Raises Unprocessable where the base is no longer what was trained on, UnsafeWeights where the
    stored delta is damaged, and what ``missing`` says where it is gone.
    """
    sources = service.settings.sources
    with service.database.read() as session:
        job = session.get(Job, row.job_id)
    assert job is not None
    model = Resolved.of(job.resolved).model
    base = resolve_model(model.reference, sources)
    if base.fingerprint != model.fingerprint:
        raise Unprocessable(
            f"{model.id} is no longer the model this was trained on; download form=delta"
        )
    # Not the mirror's own files, whose place another file may take while they are read.
    copy = checked_copy(base, sources)
    weights = [copy / name for name in base.weights]
    with reading(service.database, row):
        held = service.storage.fetch_folder(row.path)
        if held is None:
            raise missing(service.database, row)
        try:
            merged = merge(held.path, weights)
        except BaseException:
            held.release()
            raise
    weakref.finalize(merged, held.release)  # they are read until the last answer of them has gone
    return merged


def answer_full_file(service: Service, row: Checkpoint, name: str, request: Request) -> Response:
    """A file of a delta's full form that the delta has not, or has otherwise. Raises NotFound."""
    if name == WEIGHTS_FILE:
        return answer_full_weights(service, row, request)
    texts = full_texts(service, row)
    if name not in texts:
        names = sorted({*row.files, *texts, WEIGHTS_FILE} - {DELTA})
        raise NotFound(
            f"the full form of checkpoint {row.id} has no file {name[:100]!r}; it has "
            f"{', '.join(names)}"
        )
    content = texts[name].encode()
    etag = f'"{hashlib.sha256(content).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": "private, immutable"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type="application/octet-stream")


def answer_full_weights(service: Service, row: Checkpoint, request: Request) -> Response:
    """`model.safetensors` of a delta, whole or one range of it."""
    etag = f'"full-{row.files[DELTA]["sha256"]}"'  # the delta belongs to one base alone
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, immutable"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    weights = full_weights(service, row)
    headers["Content-Disposition"] = f'attachment; filename="{WEIGHTS_FILE}"'
    wanted = None
    if request.headers.get("if-range", etag) == etag:
        wanted = RANGE.fullmatch(request.headers.get("range", ""))
    start, end, status = 0, weights.size, 200
    if wanted is not None and wanted[0] != "bytes=-":
        start, end = _bounds(wanted[1], wanted[2], weights.size)
        if start >= end:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{weights.size}"})
        status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{weights.size}"
    headers["Content-Length"] = str(end - start)
    return StreamingResponse(
        weights.chunks(start, end), status, headers, media_type="application/octet-stream"
    )


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """Of ``first-last``, ``first-`` or ``-count``; empty where nothing is there."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1 if last else size)


def _hashing(weights: MergedWeights, digest: Any) -> Iterator[bytes]:
    for chunk in weights.chunks():
        digest.update(chunk)
        yield chunk


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _reading(service: Service, key: str) -> Callable[[], Iterator[bytes]]:
    return lambda: service.storage.chunks(key)


def _text(name: str, content: bytes) -> Member:
    return Member(name, len(content), lambda: iter([content]))
