"""Checkpoints of fine-tunes: list, pin, delete and download them."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, Field

from app.api.deps import CheckpointDep, JobDep, ServiceDep
from app.api.downloads import answer_full_file, full_members
from app.api.examples.answers import CHECKPOINT, CHECKPOINTS, answers, problems
from app.api.http.idempotency import IdempotentRoute
from app.api.views import CheckpointView, checkpoint_view
from app.artifacts.tar import Member, tar_size, tar_stream
from app.errors import Conflict, NotFound
from app.jobs import checkpoints
from app.jobs.checkpoints import explaining_missing_files, set_pinned
from app.jobs.records import checkpoints_of
from app.service import Service
from app.tables import Checkpoint
from surgery.checkpoints.card import CARD_FILE
from surgery.checkpoints.merge import DELTA, RECORD
from surgery.io.folders import MANIFEST

router = APIRouter(prefix="/v1", tags=["checkpoints"], route_class=IdempotentRoute)
TEXTS = (RECORD, CARD_FILE)  # their text depends on the checkpoint's form
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
TAR = {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}
FileName = Annotated[
    str, Path(max_length=200, description="The name of a file, as the checkpoint lists it.")
]
FileForm = Annotated[
    Literal["full"] | None,
    Query(
        description="`full`: the file as it is in the checkpoint's full form, where a delta's "
        "`model.safetensors` has the weights of the whole model. The answer is 409 for a LoRA "
        "adapter, which has no full form, and 404 for `delta.safetensors`, which the full form "
        "lacks. Default: the file as it is stored."
    ),
]
ArchiveForm = Annotated[
    Literal["delta", "full"] | None,
    Query(
        description="`full`: a plain transformers folder. `delta`: the trained tensors only. "
        "Default: the form in which the checkpoint is stored."
    ),
]


class CheckpointList(BaseModel):
    """All checkpoints of a job."""

    data: list[CheckpointView] = Field(description="The checkpoints in order of their steps.")


@router.get(
    "/jobs/{job_id}/checkpoints",
    summary="List a job's checkpoints",
    responses=answers(CHECKPOINTS, 404),
)
def get_checkpoints(job: JobDep, service: ServiceDep) -> CheckpointList:
    """Lists the checkpoints that a fine-tune has, even while it runs, in order of their steps."""
    rows = checkpoints_of(service.database, job.id)
    return CheckpointList(data=[checkpoint_view(row) for row in rows])


@router.get(
    "/checkpoints/{checkpoint_id}", summary="Get a checkpoint", responses=answers(CHECKPOINT, 404)
)
def get_checkpoint(row: CheckpointDep) -> CheckpointView:
    """Describes a checkpoint: its metrics, and its files with their sizes and SHA-256 digests."""
    return checkpoint_view(row)


@router.post(
    "/checkpoints/{checkpoint_id}/pin",
    summary="Pin a checkpoint",
    responses=answers({**CHECKPOINT, "pinned": True}, 404),
)
def pin_checkpoint(row: CheckpointDep, service: ServiceDep) -> CheckpointView:
    """Protects a checkpoint from deletion, also by its job's `checkpoints.keep`.

    Pinning a pinned checkpoint has no effect.
    """
    return checkpoint_view(set_pinned(service.database, row.id, pinned=True))


@router.delete(
    "/checkpoints/{checkpoint_id}/pin",
    summary="Unpin a checkpoint",
    responses=answers(CHECKPOINT, 404),
)
def unpin_checkpoint(row: CheckpointDep, service: ServiceDep) -> CheckpointView:
    """Ends the pin. While its job runs, `checkpoints.keep` applies to the checkpoint again.

    Unpinning a checkpoint that is not pinned has no effect.
    """
    return checkpoint_view(set_pinned(service.database, row.id, pinned=False))


@router.delete(
    "/checkpoints/{checkpoint_id}",
    summary="Delete a checkpoint",
    status_code=204,
    response_description="The checkpoint was deleted.",
    responses=problems(404, 409),
)
def delete_checkpoint(row: CheckpointDep, service: ServiceDep) -> None:
    """Deletes a checkpoint and its files. Its job's events and metrics stay.

    The answer is 409 while the checkpoint is pinned, while its job has not ended, and while
    another job that continues from it has not ended.
    """
    service.storage.delete(checkpoints.delete_checkpoint(service.database, row.id))


@router.get(
    "/checkpoints/{checkpoint_id}/files/{name}",
    summary="Download a file of a checkpoint",
    response_class=Response,
    responses={
        **problems(404, 409),
        200: {"content": BINARY, "description": "The file."},
        206: {"content": BINARY, "description": "The range of bytes that `Range` asked for."},
        304: {"description": "The file's ETag is the one in `If-None-Match`."},
        416: {"description": "The file does not have the bytes that `Range` asked for."},
    },
)
def get_file(
    row: CheckpointDep,
    service: ServiceDep,
    request: Request,
    name: FileName,
    form: FileForm = None,
) -> Response:
    """Answers one file with `Content-Length`, `ETag` and `Repr-Digest`.

    `Range` is honoured where the service stores checkpoints on a local disk.

    `model.safetensors?form=full` of a delta is merged with the base model while it is sent. It
    honours `Range`, but has no `Repr-Digest`, because its digest is not known before all of it was
    read; the archive has that digest in its `manifest.json`.
    """
    _check_form(row, form)
    shared = row.files.keys() - {DELTA, *TEXTS}  # equal in both forms
    if form == "full" and row.form == "delta" and name not in shared:
        return answer_full_file(service, row, name, request)
    return _stored_file(service, row, name, request)


def _stored_file(service: Service, row: Checkpoint, name: str, request: Request) -> Response:
    entry = row.files.get(name)
    if entry is None:
        raise NotFound(
            f"checkpoint {row.id} has no file {name[:100]!r}; it has {', '.join(row.files)}"
        )
    etag = f'"{entry["sha256"]}"'
    headers = {
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{_base64(entry['sha256'])}:",
        "Cache-Control": "private, immutable",
    }
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    key = f"{row.path}/{name}"
    with explaining_missing_files(service.database, row):
        service.storage.check(row.path, [name])
        path = service.storage.local_file(key)
        stat = path.stat() if path else None
    if path is not None:
        return FileResponse(path, headers=headers, filename=name, stat_result=stat)
    headers["Content-Length"] = str(entry["bytes"])
    return StreamingResponse(
        service.storage.chunks(key), headers=headers, media_type="application/octet-stream"
    )


def _base64(hexadecimal: str) -> str:
    return b64encode(bytes.fromhex(hexadecimal)).decode()


@router.get(
    "/checkpoints/{checkpoint_id}/archive",
    summary="Download a whole checkpoint as a tar archive",
    response_class=Response,
    responses={
        **problems(404, 409),
        200: {"content": TAR, "description": "The archive."},
        304: {"description": "The archive's ETag is the one in `If-None-Match`."},
    },
)
def get_archive(
    row: CheckpointDep, service: ServiceDep, request: Request, form: ArchiveForm = None
) -> Response:
    """Streams every file of a checkpoint, with `Content-Length` and `ETag` but without ranges.

    `manifest.json` in the archive has the SHA-256 of each file. The full form of a delta is merged
    with the base model while it is sent.
    """
    _check_form(row, form)
    kind = form or row.form
    etag = _archive_tag(row, kind)
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"ETag": etag})
    with explaining_missing_files(service.database, row):
        service.storage.check(row.path, row.files)
    if kind == row.form:
        members = [_member(service, row, name) for name in sorted(row.files)]
        manifest = json.dumps({"files": row.files}, indent=1).encode()
        members.append(Member(MANIFEST, len(manifest), lambda: iter([manifest])))
    else:
        members = full_members(service, row)
    headers = {
        "Content-Length": str(tar_size(members)),
        "Content-Disposition": f'attachment; filename="{row.id}-{kind}.tar"',
        "ETag": etag,
        "Cache-Control": "private, immutable",
    }
    stream = tar_stream(members, row.created_at.timestamp())
    return StreamingResponse(stream, headers=headers, media_type="application/x-tar")


def _check_form(row: Checkpoint, form: str | None) -> None:
    if form == "delta" and row.form == "full":
        raise Conflict(
            f"checkpoint {row.id} is stored in full form; a delta cannot be taken from it"
        )
    if form is not None and row.form == "adapter":
        raise Conflict(
            f"checkpoint {row.id} is a LoRA adapter, so leave form out: "
            "surgery.load(base, folder).save_pretrained(target) makes a full folder of the "
            "download; or train with checkpoints.form full"
        )


def _archive_tag(row: Checkpoint, kind: str) -> str:
    """The ETag of an archive: a digest of its form, its files and their time stamp."""
    content = json.dumps([kind, row.files, row.created_at.timestamp()], sort_keys=True)
    return f'"{hashlib.sha256(content.encode()).hexdigest()}"'


def _member(service: Service, row: Checkpoint, name: str) -> Member:
    chunks = partial(service.storage.chunks, f"{row.path}/{name}")
    return Member(name, row.files[name]["bytes"], chunks)
