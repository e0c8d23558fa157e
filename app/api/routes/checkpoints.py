"""Checkpoints of fine-tunes: list, pin, delete and download them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from app.api.answers.views import checkpoint_view
from app.api.deps import CheckpointDep, JobDep, ServiceDep
from app.api.downloads import answer_archive, answer_full_file, answer_stored_file
from app.api.examples.answers import CHECKPOINT, CHECKPOINTS, answers, problems
from app.api.http.idempotency import IdempotentRoute
from app.db.tables import Checkpoint
from app.errors import Conflict
from app.jobs.outputs import checkpoints
from app.jobs.outputs.checkpoints import set_pinned
from app.jobs.outputs.records import checkpoints_of
from surgery.checkpoints.card import CARD_FILE
from surgery.checkpoints.merge import DELTA, RECORD
from surgery.schemas.answers.checkpoint import CheckpointView

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
    another job that continues from it, predicts with it or exports it has not ended.
    """
    service.storage.delete(checkpoints.delete_checkpoint(service.database, row.id))


SIGNED = (
    "The file as it is stored is at the address in `Location`, which is signed and needs no API "
    "key. Only with `SURGEON_SIGNED_DOWNLOAD_SECONDS`."
)


def _downloads(content: dict[str, Any], what: str, *refusals: int) -> dict[int | str, Any]:
    """The documented answers of a download."""
    return {
        **problems(*refusals, 412, 416),
        200: {"content": content, "description": f"The {what}."},
        206: {
            "content": {**content, "multipart/byteranges": {"schema": {"type": "string"}}},
            "description": "What `Range` asked for: one range of bytes, or several as parts of a "
            "body of type multipart/byteranges.",
        },
        304: {"description": f"The {what}'s ETag is among those in `If-None-Match`."},
    }


@router.get(
    "/checkpoints/{checkpoint_id}/files/{name}",
    summary="Download a file of a checkpoint",
    response_class=Response,
    responses=_downloads(BINARY, "file", 404, 409) | {307: {"description": SIGNED}},
)
def get_file(
    row: CheckpointDep,
    service: ServiceDep,
    request: Request,
    name: FileName,
    form: FileForm = None,
) -> Response:
    """Answers one file with `Content-Length`, `ETag` and `Repr-Digest`, or ranges of its bytes.

    `Range`, `If-Range`, `If-Match` and `If-None-Match` are honoured. Up to 16 ranges can be asked
    for; ranges that overlap are sent as one, and more of them are answered with the whole file.

    `model.safetensors?form=full` of a delta is merged with the base model while it is sent. If it
    is larger than 64 MiB, it has a `Repr-Digest` once it was sent as a whole, or if
    `Want-Repr-Digest: sha-256=1` asks for one.
    """
    _check_form(row, form)
    shared = row.files.keys() - {DELTA, *TEXTS}  # equal in both forms
    if form == "full" and row.form == "delta" and name not in shared:
        return answer_full_file(service, row, name, request)
    return answer_stored_file(service, row, name, request)


@router.get(
    "/checkpoints/{checkpoint_id}/archive",
    summary="Download a whole checkpoint as a tar archive",
    response_class=Response,
    responses=_downloads(TAR, "archive", 404, 409),
)
def get_archive(
    row: CheckpointDep, service: ServiceDep, request: Request, form: ArchiveForm = None
) -> Response:
    """Streams every file of a checkpoint, or ranges of the archive, as for a single file.

    `manifest.json` in the archive has the SHA-256 of each file. The full form of a delta is merged
    with the base model while it is sent. An archive of more than 64 MiB has a `Repr-Digest` once
    it was sent as a whole, or if `Want-Repr-Digest: sha-256=1` asks for one.
    """
    _check_form(row, form)
    return answer_archive(service, row, form or row.form, request)


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
