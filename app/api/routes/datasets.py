"""Uploaded datasets: every row is checked before anything is stored."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Request, Response, UploadFile
from pydantic import ValidationError
from sqlalchemy import delete, select
from starlette.datastructures import UploadFile as Uploaded

from app.api.deps import DatasetDep, ServiceDep
from app.api.examples.answers import DATASET, DATASETS, answers, problems
from app.api.http.documents import NotJson, parse_json, unstorable, wrong_text
from app.api.http.idempotency import IdempotentRoute
from app.api.pages import Page, PagingDep
from app.api.views import DatasetView, dataset_view
from app.errors import Conflict, NotFound, Unprocessable
from app.submissions.uploads import ingest_upload, store_dataset
from app.tables import TERMINAL, Dataset, Job
from surgery.data.files.source import shown
from surgery.errors import MAX_FAULTS, nearest, printable
from surgery.schemas.dataset import UploadSpec
from surgery.schemas.validation import faults_of, pointer_step

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=IdempotentRoute)

# Other names that people give to the parts of the form.
_SYNONYMS = {
    "train": ("training", "data", "dataset", "file", "files", "upload"),
    "validation": ("valid", "val", "dev", "eval", "evaluation", "test"),
    "spec": ("options", "config"),
}
LONGEST_FILE_NAME = 255  # bytes, as on most file systems
_PARTS = {name: part for part, names in _SYNONYMS.items() for name in (part, *names)}


async def check_parts(request: Request) -> None:
    """Raises Unprocessable for unknown parts of the form and for parts that were sent twice."""
    parts = (await request.form()).multi_items()
    sent = [name for name, _ in parts]
    unknown = (name for name in dict.fromkeys(sent) if name not in {"train", "validation", "spec"})
    faults = [
        {"pointer": f"/{_escaped(name)}", "detail": _unknown_part(name)}
        for name in islice(unknown, MAX_FAULTS)
    ]
    faults += [
        {"pointer": f"/{_escaped(name)}", "detail": f"the name of this file {said}"}
        for name, part in parts
        if isinstance(part, Uploaded) and (said := _wrong_name(part.filename or ""))
    ]
    faults += [
        {
            "pointer": f"/{name}",
            "detail": f"{name!r} was sent twice; send one file for each split"
            if name != "spec"
            else "'spec' was sent twice; send one",
        }
        for name in ("train", "validation", "spec")
        if sent.count(name) > 1
    ]
    if faults:
        raise Unprocessable(faults[0]["detail"], errors=faults)


def _wrong_name(filename: str) -> str | None:
    if len(filename.encode("utf-8", "replace")) > LONGEST_FILE_NAME:
        return f"is longer than {LONGEST_FILE_NAME} bytes"
    return wrong_text(filename)


def _escaped(name: str) -> str:
    """A name as a part of a JSON Pointer (RFC 6901)."""
    return pointer_step(shown(name))


def _unknown_part(name: str) -> str:
    if name in UploadSpec.model_fields:
        return f'unknown part {name!r}; it belongs in spec, as in {{"{name}": …}}'
    known = "the parts are train, validation and spec"
    near = nearest(name.lower(), list(_PARTS))
    return f"unknown part {shown(printable(name))!r}; " + (
        f"did you mean {_PARTS[near]!r}?" if near else known
    )


@router.post(
    "",
    summary="Upload a dataset",
    status_code=201,
    dependencies=[Depends(check_parts)],
    responses=answers(DATASET, 409, 413, status=201)
    | {200: {"model": DatasetView, "description": "The dataset with these rows, stored earlier."}},
)
def create_dataset(
    service: ServiceDep,
    response: Response,
    train: Annotated[
        UploadFile,
        File(
            description="The training rows: CSV, TSV or JSON Lines, each also compressed as .gz "
            "or .zst, or Parquet. The file's name tells the format."
        ),
    ],
    validation: Annotated[
        UploadFile | None,
        File(
            description="The validation rows, in any of these formats. Without this part, a tenth "
            "of the training rows is drawn for validation."
        ),
    ] = None,
    spec: Annotated[
        str,
        Form(
            max_length=100_000,
            description="How to read the files, as JSON: "
            '`{"columns": {"text": …, "label": …}, "problem": …, "labels": …, "seed": …}`. '
            "Whatever is left out is inferred from the files.",
        ),
    ] = "{}",
) -> DatasetView:
    """Checks every row and stores the dataset, or answers the first 100 errors and stores nothing.

    A dataset is identified by its content: if the same rows were uploaded before, in whatever
    files, the answer is 200 with the dataset that is stored already. A form with other parts, or
    with a part sent twice, is refused.
    """
    wanted = _parse_spec(spec)
    service.settings.data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="upload-", dir=service.settings.data_dir) as scratch:
        report = ingest_upload(service, Path(scratch), train, validation, wanted)
        row, new = store_dataset(service, Path(scratch) / "data", report)
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/datasets/{row.id}"
    return dataset_view(row)


def _parse_spec(text: str) -> UploadSpec:
    try:
        document = parse_json(text, "the form field spec")
        faults = [{**f, "pointer": f"/spec{f['pointer']}"} for f in unstorable(document)]
        if not faults:
            return UploadSpec.model_validate(document)
    except ValidationError as error:
        faults = faults_of(error, root="/spec")
    except NotJson as error:
        detail = str(error)
        raise Unprocessable(detail, errors=[{"pointer": "/spec", "detail": detail}]) from error
    raise Unprocessable("the form field spec has errors", errors=faults)


@router.get("", summary="List uploaded datasets", responses=answers(DATASETS))
def get_datasets(service: ServiceDep, paging: PagingDep) -> Page[DatasetView]:
    """Lists every uploaded dataset, newest first."""
    query = select(Dataset).where(Dataset.project == service.project)
    order = (Dataset.created_at, Dataset.id)
    return paging.page(service.database, query, order, dataset_view)


@router.get("/{dataset_id}", summary="Get an uploaded dataset", responses=answers(DATASET, 404))
def get_dataset(row: DatasetDep) -> DatasetView:
    """Describes an uploaded dataset: its columns, labels, rows, and what its files contained."""
    return dataset_view(row)


@router.delete(
    "/{dataset_id}",
    summary="Delete an uploaded dataset",
    status_code=204,
    response_description="The dataset was deleted.",
    responses=problems(404, 409),
)
def delete_dataset(row: DatasetDep, service: ServiceDep) -> None:
    """Deletes a dataset and its files. The answer is 409 while a job that uses it has not ended.

    Jobs that have ended keep their results.
    """
    with service.database.write() as session:
        # A submission locks this row until its job is inserted, so no job can be missed below.
        locked = session.scalar(select(Dataset.id).where(Dataset.id == row.id).with_for_update())
        if locked is None:  # another request deleted it first and removes its files
            raise NotFound(f"no dataset {row.id!r}; GET /v1/datasets lists them")
        users = session.scalars(
            select(Job.id)
            .where(Job.dataset == row.id, Job.status.not_in(TERMINAL))
            .order_by(Job.id)
        ).all()
        if users:
            raise Conflict(_in_use(users), errors=[{"detail": f"{job} uses it"} for job in users])
        session.execute(delete(Dataset).where(Dataset.id == row.id))
    service.storage.delete(row.path)


def _in_use(jobs: Sequence[str]) -> str:
    more = f" and {len(jobs) - 10:,} more" if len(jobs) > 10 else ""
    return f"in use by {', '.join(jobs[:10])}{more}; cancel them or wait"
