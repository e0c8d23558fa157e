"""Uploaded datasets: every row is checked before anything is stored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Header, Query, Response, UploadFile
from sqlalchemy import delete, select

from app.api.answers.views import dataset_view
from app.api.deps import DatasetDep, ServiceDep, require_merge_patch
from app.api.examples.answers import DATASET, DATASETS, PREVIEW, answers, body_examples, problems
from app.api.examples.bodies import DATASET_BODIES, DATASET_CHANGES
from app.api.http.bodies.dataset_forms import ReferenceDep, parse_spec
from app.api.http.idempotency import IdempotentRoute
from app.api.http.preconditions import check_version, version_tag
from app.api.pages import Page, PagingDep
from app.artifacts.machine import request_folder
from app.db.tables import TERMINAL, Dataset, Job, JobKind
from app.errors import Conflict, NotFound, Unprocessable
from app.submissions.previews import Split, preview
from app.submissions.uploads import (
    ingest_reference,
    ingest_upload,
    rename_dataset,
    store_dataset,
)
from surgery.schemas.answers.dataset import DatasetView
from surgery.schemas.data.dataset import DatasetChanges
from surgery.schemas.data.preview import Preview

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=IdempotentRoute)
IfMatch = Annotated[
    str | None,
    Header(
        max_length=1000,
        description="The `ETag` of the dataset as you have read it: if it has changed since, the "
        "request is refused with 412.",
    ),
]
REFERENCE_BODY = {
    "schema": {"$ref": "#/components/schemas/DatasetReference"},
    "examples": DATASET_BODIES,
}
NameFilter = Annotated[
    list[Annotated[str, Query(max_length=200)]] | None,
    Query(description="Only datasets with this name. Given several times: with any of them."),
]


@router.post(
    "",
    summary="Store a dataset",
    status_code=201,
    responses=answers(DATASET, 409, 413, 415, 503, status=201)
    | {200: {"model": DatasetView, "description": "The dataset with these rows, stored earlier."}},
    openapi_extra={"requestBody": {"content": {"application/json": REFERENCE_BODY}}},
)
def create_dataset(
    service: ServiceDep,
    response: Response,
    reference: ReferenceDep,
    train: Annotated[
        UploadFile | None,
        File(
            description="The training rows, which every form has: CSV, TSV or JSON Lines, each "
            "also compressed as .gz or .zst, or Parquet. The file's name tells the format."
        ),
    ] = None,
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
            '`{"columns": {"text": …, "label": …}, "problem": …, "labels": …, '
            '"label_separator": …, "seed": …}`. Whatever is left out is inferred from the files, '
            "but for the separator of several labels in one text.",
        ),
    ] = "{}",
    name: Annotated[
        str | None,
        Form(min_length=1, max_length=200, description="A name of your choice, for lists."),
    ] = None,
) -> DatasetView:
    """Checks every row and stores the dataset, or answers the first 100 errors and stores nothing.

    The rows come as files of a form or, with a JSON body, from a dataset of the Hugging Face Hub
    (or of a mirror), which is pinned to its present commit.

    A dataset is identified by its content: if the same rows were stored before, from whatever
    files, the answer is 200 with the dataset that is stored already. It keeps the name that it has,
    and `note` says so; if it has none, it is given this one. A form with other parts, or with a
    part sent twice, is refused. A file whose part has the header `Content-Digest`
    (`sha-256=:…:`, RFC 9530) is compared with it; 422 `upload_damaged` says that it differs.
    """
    with request_folder(service.settings, "upload") as scratch:
        data = scratch / "data"
        if reference is not None:
            report, pinned = ingest_reference(service, data, reference)
            stored = store_dataset(
                service, data, report, reference.name, source=reference.hub, reference=pinned
            )
        elif train is None:
            detail = "the form has no part train; send the training rows as a file"
            raise Unprocessable(detail, errors=[{"pointer": "/train", "detail": detail}])
        else:
            report = ingest_upload(service, scratch, train, validation, parse_spec(spec))
            source = train.filename or "train"
            stored = store_dataset(service, data, report, name, source=source)
    response.status_code = 201 if stored.new else 200
    response.headers["Location"] = f"/v1/datasets/{stored.row.id}"
    return dataset_view(stored.row, stored.note)


@router.get("", summary="List stored datasets", responses=answers(DATASETS))
def get_datasets(
    service: ServiceDep, paging: PagingDep, name: NameFilter = None
) -> Page[DatasetView]:
    """Lists every stored dataset, newest first."""
    query = select(Dataset).where(Dataset.project == service.project)
    if name:
        query = query.where(Dataset.name.in_(name))
    order = (Dataset.created_at, Dataset.id)
    return paging.page(service.database, query, order, dataset_view)


@router.get("/{dataset_id}", summary="Get an uploaded dataset", responses=answers(DATASET, 404))
def get_dataset(row: DatasetDep, response: Response) -> DatasetView:
    """Describes an uploaded dataset: its columns, labels, rows, and what its files contained."""
    response.headers["ETag"] = version_tag(row.version)
    return dataset_view(row)


@router.patch(
    "/{dataset_id}",
    summary="Rename a stored dataset",
    responses=answers(DATASET, 404, 412, 415),
    dependencies=[Depends(require_merge_patch)],
)
def change_dataset(
    row: DatasetDep,
    service: ServiceDep,
    response: Response,
    changes: Annotated[DatasetChanges, body_examples(DATASET_CHANGES)],
    if_match: IfMatch = None,
) -> DatasetView:
    """Changes the name of a dataset. The body is a JSON Merge Patch (RFC 7396).

    The rows of a dataset never change: send others as another dataset.
    """
    check = partial(check_version, if_match)
    renamed = rename_dataset(service, row.id, changes, check)
    response.headers["ETag"] = version_tag(renamed.version)
    return dataset_view(renamed)


@router.post(
    "/{dataset_id:path}/preview",  # presets have a slash in their names, and an answer of their own
    summary="Show rows as a model will see them",
    responses=answers(PREVIEW, 404, 409, 503),
)
def preview_dataset(
    row: DatasetDep,
    service: ServiceDep,
    model: Annotated[
        str,
        Query(
            max_length=300,
            description="The model whose tokenizer is used: its id, or `id@revision`.",
        ),
    ],
    split: Annotated[Split, Query(description="The split whose rows are shown.")] = "train",
    limit: Annotated[int, Query(ge=1, le=20, description="How many rows are shown.")] = 5,
    max_length: Annotated[
        int,
        Query(ge=4, le=8192, description="The most tokens of a row, as a job would be given it."),
    ] = 128,
) -> Preview:
    """Tokenises the first rows of a split exactly as a job with this model would.

    Shows the tokens, what `max_length` cuts off and what the labels mean, and how long the rows
    are in this model's tokens, counted over at most 1,000 rows at equal distances. Nothing is
    stored. The tokenizer runs in a process of its own, which takes some seconds.
    """
    return preview(service, row, model, split, limit, max_length)


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
            .where(
                Job.dataset == row.id,
                Job.kind.not_in([JobKind.PREDICTION, JobKind.EXPORT]),  # these do not read it
                Job.status.not_in(TERMINAL),
            )
            .order_by(Job.id)
        ).all()
        if users:
            raise Conflict(_in_use(users), errors=[{"detail": f"{job} uses it"} for job in users])
        session.execute(delete(Dataset).where(Dataset.id == row.id))
    service.storage.delete(row.path)


def _in_use(jobs: Sequence[str]) -> str:
    more = f" and {len(jobs) - 10:,} more" if len(jobs) > 10 else ""
    return f"in use by {', '.join(jobs[:10])}{more}; cancel them or wait"
