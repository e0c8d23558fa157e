"""Checkpoints: what a fine-tune left, file by file or as an archive."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel

from app.api.deps import CheckpointDep, JobDep, ServiceDep
from app.api.downloads import answer_full_file, full_members
from app.api.example_answers import CHECKPOINT, CHECKPOINTS, answers
from app.api.views import CheckpointView, checkpoint_view
from app.artifacts.tar import Member, tar_size, tar_stream
from app.errors import Conflict, NotFound
from app.jobs import checkpoints
from app.jobs.checkpoints import reading, set_pinned
from app.jobs.records import checkpoints_of
from app.service import Service
from app.tables import Checkpoint
from surgery.checkpoints.card import CARD_FILE
from surgery.checkpoints.merge import DELTA, RECORD
from surgery.io.folders import MANIFEST

router = APIRouter(prefix="/v1", tags=["checkpoints"])
TEXTS = (RECORD, CARD_FILE)  # differ by form
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
TAR = {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}


class CheckpointList(BaseModel):
    """A job's checkpoints, oldest first."""

    data: list[CheckpointView]


@router.get(
    "/jobs/{job_id}/checkpoints", summary="List a job's checkpoints",
    responses=answers(CHECKPOINTS, 404),
)  # fmt: skip
def get_checkpoints(job: JobDep, service: ServiceDep) -> CheckpointList:
    """In order of their step. While the job runs, those so far."""
    rows = checkpoints_of(service.database, job.id)
    return CheckpointList(data=[checkpoint_view(row) for row in rows])


@router.get(
    "/checkpoints/{checkpoint_id}", summary="Get a checkpoint", responses=answers(CHECKPOINT, 404)
)
def get_checkpoint(row: CheckpointDep) -> CheckpointView:
    """Its metrics and its files with their SHA-256."""
    return checkpoint_view(row)


@router.post(
    "/checkpoints/{checkpoint_id}/pin", summary="Pin a checkpoint",
    responses=answers({**CHECKPOINT, "pinned": True}, 404),
)  # fmt: skip
def pin_checkpoint(row: CheckpointDep, service: ServiceDep) -> CheckpointView:
    """Whatever its job keeps, a pinned checkpoint stays, and it cannot be deleted.

    A checkpoint that is pinned already stays so.
    """
    return checkpoint_view(set_pinned(service.database, row.id, pinned=True))


@router.delete(
    "/checkpoints/{checkpoint_id}/pin", summary="Let a pinned checkpoint go",
    responses=answers(CHECKPOINT, 404),
)  # fmt: skip
def unpin_checkpoint(row: CheckpointDep, service: ServiceDep) -> CheckpointView:
    """Its job drops it at the next evaluation if `checkpoints.keep` says so."""
    return checkpoint_view(set_pinned(service.database, row.id, pinned=False))


@router.delete(
    "/checkpoints/{checkpoint_id}", summary="Delete a checkpoint", status_code=204,
    responses={code: value for code, value in answers({}, 404, 409).items() if code != 200},
)  # fmt: skip
def delete_checkpoint(row: CheckpointDep, service: ServiceDep) -> None:
    """Frees its bytes; its job's history keeps its id and its metrics.

    Refused while it is pinned, while its own job is not over, and while another job continues from
    it. A second time it is not found.
    """
    service.storage.delete(checkpoints.delete_checkpoint(service.database, row.id))


@router.get(
    "/checkpoints/{checkpoint_id}/files/{name}",
    summary="Download a file of a checkpoint",
    response_class=Response,
    responses={
        **answers({}, 404, 409, 422),
        200: {"content": BINARY, "description": "The file."},
        206: {"content": BINARY, "description": "The range of it that was asked for."},
        304: {"description": "`If-None-Match` names the ETag."},
        416: {"description": "There are no such bytes."},
    },
)
def get_file(
    row: CheckpointDep, service: ServiceDep, request: Request,
    name: Annotated[str, Path(max_length=200)],
    form: Annotated[
        Literal["full"] | None,
        Query(
            description="The file as the full form has it: of a delta, `model.safetensors` is the "
            "whole model's weights. 409 for a LoRA adapter, which has no full form, and 404 for "
            "`delta.safetensors`, which is not in it."
        ),
    ] = None,
) -> Response:  # fmt: skip
    """With `Content-Length`, `ETag`, `Repr-Digest`; a local store answers ranges too.

    `model.safetensors?form=full` of a delta is put together from the base model on the way: it
    answers ranges, and has no `Repr-Digest`, which only reading all of it would tell. The archive
    has its SHA-256 in `manifest.json`.
    """
    _check_form(row, form)
    shared = row.files.keys() - {DELTA, *TEXTS}  # the same in both forms
    if form == "full" and row.form == "delta" and name not in shared:
        return answer_full_file(service, row, name, request)
    return _kept_file(service, row, name, request)


def _kept_file(service: Service, row: Checkpoint, name: str, request: Request) -> Response:
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
    with reading(service.database, row):
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
    responses={**answers({}, 404, 409, 422), 200: {"content": TAR, "description": "The archive."}},
)
def get_archive(
    row: CheckpointDep,
    service: ServiceDep,
    request: Request,
    form: Annotated[
        Literal["delta", "full"] | None,
        Query(description="`full` makes a plain transformers folder; default: as it is kept."),
    ] = None,
) -> Response:
    """Streamed, with `Content-Length` and `ETag`; no ranges. `manifest.json` has every SHA-256.

    `full` of a delta is put together from the base model on the way.
    """
    _check_form(row, form)
    kind = form or row.form
    etag = _archive_tag(row, kind)
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"ETag": etag})
    with reading(service.database, row):
        service.storage.check(row.path, row.files)
    if kind == row.form:
        members = [_stored(service, row, name) for name in sorted(row.files)]
        manifest = json.dumps({"files": row.files}, indent=1).encode()
        members.append(Member(MANIFEST, len(manifest), lambda: iter([manifest])))
    else:
        members = full_members(service, row)
    headers = {
        "Content-Length": str(tar_size(members)),
        "Content-Disposition": f'attachment; filename="{row.id}-{kind}.tar"',
        "ETag": etag, "Cache-Control": "private, immutable",
    }  # fmt: skip
    stream = tar_stream(members, row.created_at.timestamp())
    return StreamingResponse(stream, headers=headers, media_type="application/x-tar")


def _check_form(row: Checkpoint, form: str | None) -> None:
    if form == "delta" and row.form == "full":
        raise Conflict(
            f"checkpoint {row.id} was kept in full form; a delta cannot be taken from it"
        )
    if form is not None and row.form == "adapter":
        raise Conflict(
            f"checkpoint {row.id} is a LoRA adapter: download it without form, then surgery.load("
            "base, folder).save_pretrained(target) makes a full folder of it; or train with "
            "checkpoints.form full"
        )


def _archive_tag(row: Checkpoint, kind: str) -> str:
    """Of its form, its files and the moment they were written, which the archive has too."""
    content = json.dumps([kind, row.files, row.created_at.timestamp()], sort_keys=True)
    return f'"{hashlib.sha256(content.encode()).hexdigest()}"'


def _stored(service: Service, row: Checkpoint, name: str) -> Member:
    chunks = partial(service.storage.chunks, f"{row.path}/{name}")
    return Member(name, row.files[name]["bytes"], chunks)
