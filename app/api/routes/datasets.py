"""Datasets of one's own: uploaded, checked row by row, kept whole or not at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Request, Response, UploadFile
from pydantic import ValidationError
from sqlalchemy import delete, select

from app.api.deps import DatasetDep, ServiceDep
from app.api.example_answers import DATASET, DATASETS, answers
from app.api.pages import Cursor, Limit, Page, cut, decode_cursor, encode_cursor
from app.api.views import DatasetView, dataset_view
from app.errors import Conflict, NotFound, Unprocessable
from app.submissions.uploads import ingest_upload, store_dataset
from app.tables import TERMINAL, Dataset, Job
from surgery.data.files.source import shown
from surgery.errors import nearest
from surgery.schemas.dataset import UploadSpec
from surgery.schemas.validation import faults_of

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

# Names that people give to the parts, beside misspelt ones.
_PARTS = {
    "train": "train", "training": "train", "data": "train", "dataset": "train", "file": "train",
    "files": "train", "upload": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "eval": "validation", "evaluation": "validation", "test": "validation",
    "spec": "spec", "options": "spec", "config": "spec",
}  # fmt: skip


async def check_parts(request: Request) -> None:
    """Refuse unknown parts of the form, and a part sent twice: neither may be ignored."""
    sent = [name for name, _ in (await request.form()).multi_items()]
    faults = [
        {"pointer": f"/{_escaped(name)}", "detail": _unknown_part(name)}
        for name in dict.fromkeys(sent)
        if name not in {"train", "validation", "spec"}
    ]
    faults += [
        {
            "pointer": f"/{name}",
            "detail": f"{name!r} was sent twice; send one file a split"
            if name != "spec"
            else "'spec' was sent twice; send one",
        }
        for name in ("train", "validation", "spec")
        if sent.count(name) > 1
    ]
    if faults:
        raise Unprocessable(faults[0]["detail"], errors=faults)


def _escaped(name: str) -> str:
    """As a JSON Pointer has it (RFC 6901)."""
    return shown(name).replace("~", "~0").replace("/", "~1")


def _unknown_part(name: str) -> str:
    if name in UploadSpec.model_fields:
        return f'unknown part {name!r}; it belongs in spec, as in {{"{name}": …}}'
    known = "the parts are train, validation and spec"
    near = nearest(name.lower(), list(_PARTS))
    return f"unknown part {shown(name)!r}; " + (
        f"did you mean {_PARTS[near]!r}?" if near else known
    )


@router.post(
    "",
    summary="Upload a dataset",
    status_code=201,
    dependencies=[Depends(check_parts)],
    responses=answers(DATASET, 409, 413, 422, status=201)
    | {200: {"model": DatasetView, "description": "The same rows were uploaded before."}},
)
def create_dataset(
    service: ServiceDep,
    response: Response,
    train: Annotated[
        UploadFile,
        File(description="CSV, TSV, JSON Lines (each also as .gz or .zst) or Parquet."),
    ],
    validation: Annotated[
        UploadFile | None, File(description="Without one, a seeded tenth of train is set aside.")
    ] = None,
    spec: Annotated[
        str,
        Form(
            max_length=100_000,
            description='JSON: `{"columns": {"text": …, "label": …}, "problem": …}`.',
        ),
    ] = "{}",
) -> DatasetView:
    """Every row is checked; with errors nothing is kept and the first 100 are answered.

    A dataset is its content: equal rows, from whatever files, answer 200 with the dataset there is.
    Parts of the form with another name, and a part sent twice, are refused.
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
        return UploadSpec.model_validate(json.loads(text))
    except ValidationError as error:
        faults = faults_of(error, root="/spec")
        raise Unprocessable("the form field spec has errors", errors=faults) from error
    except (ValueError, RecursionError) as error:
        detail = "the form field spec is not JSON"
        raise Unprocessable(detail, errors=[{"pointer": "/spec", "detail": detail}]) from error


@router.get("", summary="List uploaded datasets", responses=answers(DATASETS))
def get_datasets(
    service: ServiceDep, limit: Limit = 50, cursor: Cursor = None
) -> Page[DatasetView]:
    """Newest first."""
    query = select(Dataset).order_by(Dataset.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(Dataset.id < decode_cursor(cursor))
    with service.database.read() as session:
        rows, more = cut(session.scalars(query).all(), limit)
    following = encode_cursor(rows[-1].id) if more else None
    return Page(data=[dataset_view(row) for row in rows], next_cursor=following, has_more=more)


@router.get("/{dataset_id}", summary="Get an uploaded dataset", responses=answers(DATASET, 404))
def get_dataset(row: DatasetDep) -> DatasetView:
    """What reading it found."""
    return dataset_view(row)


@router.delete(
    "/{dataset_id}", summary="Delete an uploaded dataset", status_code=204,
    responses={code: value for code, value in answers({}, 404, 409).items() if code != 200},
)  # fmt: skip
def delete_dataset(row: DatasetDep, service: ServiceDep) -> None:
    """Frees its bytes. Refused while a job that uses it is queued or running.

    Jobs that are over stay, with their results.
    """
    with service.database.write() as session:
        # A submission holds this row until its job is there to be seen.
        held = session.scalar(select(Dataset.id).where(Dataset.id == row.id).with_for_update())
        if held is None:  # another deletion was first, and it removes the bytes
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
