"""Files of OpenAI's shape: datasets that are uploaded as one file."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile
from sqlalchemy import select

from app.api.deps import DatasetDep, ServiceDep
from app.api.examples.answers import answers
from app.api.examples.compat import DELETED_FILE, FILE, FILES
from app.api.http.idempotency import IdempotentRoute
from app.api.routes.compat.lists import After, no_such, older
from app.api.routes.compat.shapes import DeletedFile, FileObject, Listed
from app.api.routes.compat.translation import file_of
from app.api.routes.datasets import delete_dataset
from app.artifacts.machine import request_folder
from app.db.tables import Dataset
from app.errors import Unprocessable, WrongMediaType
from app.submissions.uploads import ingest_upload, store_dataset
from surgery.errors import printable
from surgery.schemas.data.dataset import UploadSpec

router = APIRouter(
    prefix="/compat/openai/v1/files", tags=["OpenAI's shapes"], route_class=IdempotentRoute
)
PARTS = ("file", "purpose")
MAX_NAMED = 5  # unknown parts that an error lists


async def check_form(request: Request) -> None:
    """Raises WrongMediaType or Unprocessable unless the body is a form with known parts."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise WrongMediaType(f"send the file as multipart/form-data, not {kind or 'untyped'!r}")
    names = [name for name, _ in (await request.form()).multi_items()]
    wrong = [name for name in dict.fromkeys(names) if name not in PARTS or names.count(name) > 1]
    if wrong:
        listed = ", ".join(printable(name[:100]) for name in islice(wrong, MAX_NAMED))
        detail = f"the form has {', '.join(PARTS)}, each once; send no other part: {listed}"
        raise Unprocessable(detail, errors=[{"pointer": "/", "detail": detail}])


@router.post(
    "",
    name="create_openai_file",
    summary="Store a file of rows (OpenAI's shape)",
    responses=answers(FILE, 409, 413, 415),
    dependencies=[Depends(check_form)],
)
def create_file(
    service: ServiceDep,
    file: Annotated[
        UploadFile,
        File(
            description="The rows, in any format of `POST /v1/datasets`; the file's name tells "
            "which. A tenth of them is set aside for validation."
        ),
    ],
    purpose: Annotated[Literal["fine-tune"], Form(description="Always `fine-tune`.")],  # noqa: ARG001  # named by the shape
) -> FileObject:
    """Checks every row and stores them as a dataset, whose columns and problem are inferred.

    It is the same as `POST /v1/datasets` with the file as `train`, which also takes a validation
    file and names for columns. The answer's id is a dataset's everywhere.
    """
    with request_folder(service.settings, "upload") as scratch:
        report = ingest_upload(service, scratch, file, None, UploadSpec())
        data = scratch / "data"
        return file_of(store_dataset(service, data, report, source=file.filename or "train").row)


@router.get(
    "", name="get_openai_files", summary="List files (OpenAI's shape)", responses=answers(FILES)
)
def get_files(
    service: ServiceDep,
    limit: Annotated[int, Query(ge=1, le=10_000, description="At most so many.")] = 100,
    after: After = None,
    purpose: Annotated[  # noqa: ARG001
        Literal["fine-tune"] | None, Query(description="Always `fine-tune`.")
    ] = None,
    order: Annotated[Literal["desc"] | None, Query(description="Newest first.")] = None,  # noqa: ARG001
) -> Listed[FileObject]:
    """Lists stored datasets as files, newest first."""
    place = (Dataset.created_at, Dataset.id)
    query = select(Dataset).where(Dataset.project == service.project)
    with service.database.read() as session:
        if after is not None:
            last = session.get(Dataset, after)
            if last is None or last.project != service.project:
                raise no_such(after, "file")
            query = query.where(older(place, last))
        ordered = query.order_by(*(column.desc() for column in place)).limit(limit + 1)
        found = session.scalars(ordered).all()
    return Listed(data=[file_of(row) for row in found[:limit]], has_more=len(found) > limit)


@router.get(
    "/{dataset_id}",
    name="get_openai_file",
    summary="Get a file (OpenAI's shape)",
    responses=answers(FILE, 404),
)
def get_file(row: DatasetDep) -> FileObject:
    """Answers a stored dataset as a file."""
    return file_of(row)


@router.delete(
    "/{dataset_id}",
    name="delete_openai_file",
    summary="Delete a file (OpenAI's shape)",
    responses=answers(DELETED_FILE, 404, 409),
)
def delete_file(row: DatasetDep, service: ServiceDep) -> DeletedFile:
    """Deletes a stored dataset, as `DELETE /v1/datasets/{id}` does."""
    delete_dataset(row, service)
    return DeletedFile(id=row.id)
