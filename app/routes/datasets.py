"""Datasets of one's own: uploaded, checked row by row, kept whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, Response, UploadFile
from pydantic import ValidationError
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from app.db import db_now
from app.deps import DatasetDep, Service, ServiceDep
from app.errors import Conflict, NotFound, Unprocessable
from app.ids import new_id
from app.pages import Cursor, Limit, Page, cut, decode_cursor, encode_cursor
from app.routes.examples import DATASET, DATASETS, answers
from app.tables import TERMINAL, Dataset, Job
from app.views import DatasetView, dataset_view
from surgery.dataset_spec import UploadSpec
from surgery.errors import SurgeryError
from surgery.faults import faults_of
from surgery.files import LIMITS, format_of, shown
from surgery.folder import complete_folder
from surgery.ingest import ingest
from surgery.schema import DatasetReport
from surgery.spec import nearest

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
        report = _ingest(service, Path(scratch), train, validation, wanted)
        row, new = _store(service, Path(scratch) / "data", report)
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


def _ingest(
    service: Service,
    scratch: Path,
    train: UploadFile,
    validation: UploadFile | None,
    spec: UploadSpec,
) -> DatasetReport:
    """Copy the parts to names of our own, then check and convert them."""
    files: dict[str, Any] = {"train": train, "validation": validation}
    paths = {}
    for role, upload in files.items():
        if upload is None:
            continue
        paths[role] = scratch / f"{role}.{format_of(upload.filename or role)}"
        with paths[role].open("wb") as target:
            shutil.copyfileobj(upload.file, target)
    formats = {role: format_of(path.name) for role, path in paths.items()}
    with _pointing_into_spec():
        return ingest(
            paths["train"], paths.get("validation"), scratch / "data",
            train_format=formats["train"], validation_format=formats.get("validation"),
            columns=spec.columns, problem=spec.problem, labels=spec.labels, seed=spec.seed,
            train_name=train.filename or "train",
            validation_name=(validation and validation.filename) or "validation",
            limits=replace(LIMITS, max_unpacked_bytes=service.settings.upload_max_bytes),
        )  # fmt: skip


@contextmanager
def _pointing_into_spec() -> Iterator[None]:
    """Say of columns and labels that they are fields of the form field spec."""
    try:
        yield
    except SurgeryError as error:
        error.faults = [
            replace(fault, pointer=f"/spec{fault.pointer}") if fault.pointer else fault
            for fault in error.faults
        ]
        raise


def _store(service: Service, folder: Path, report: DatasetReport) -> tuple[Dataset, bool]:
    """The row of this content; whether it is new."""
    known = _by_fingerprint(service, report.fingerprint)
    if known is not None:
        return known, False
    identifier = new_id("ds")
    row = Dataset(
        id=identifier, fingerprint=report.fingerprint, report=report.model_dump(mode="json"),
        path=f"datasets/{identifier}",
    )  # fmt: skip
    row.created_at = db_now()
    service.storage.put_folder(_sealed(folder), row.path)
    try:
        _insert(service, row)
    except IntegrityError:  # the unique fingerprint: an equal upload was faster
        service.storage.delete(row.path)
        known = _by_fingerprint(service, report.fingerprint)
        if known is None:  # and is deleted again
            raise Conflict("an equal dataset was deleted meanwhile; send it again") from None
        return known, False
    except BaseException:
        service.storage.delete(row.path)
        raise
    return row, True


def _sealed(folder: Path) -> Path:
    """The files as a complete folder."""
    sealed = folder.with_name("sealed")
    with complete_folder(sealed) as building:
        for path in folder.iterdir():
            path.rename(building / path.name)
    return sealed


def _insert(service: Service, row: Dataset) -> None:
    with service.database.write() as session:
        session.add(row)
        session.flush()
        session.refresh(row)


def _by_fingerprint(service: Service, fingerprint: str) -> Dataset | None:
    with service.database.read() as session:
        return session.scalar(select(Dataset).where(Dataset.fingerprint == fingerprint))


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
