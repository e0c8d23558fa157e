"""Checks and converts uploaded files, and stores each content once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import UploadFile
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from app.db import db_now
from app.errors import Conflict
from app.service import Service
from app.submissions.admission import admit_bytes
from app.tables import Dataset, new_id
from surgery.data.files.source import LIMITS, format_of
from surgery.data.ingest.ingest import ingest
from surgery.errors import SurgeryError
from surgery.io.folders import complete_folder
from surgery.schemas.dataset import DatasetReport, UploadSpec


def ingest_upload(
    service: Service,
    scratch: Path,
    train: UploadFile,
    validation: UploadFile | None,
    spec: UploadSpec,
) -> DatasetReport:
    """Copy the parts of an upload to safe names, then check and convert them."""
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
            paths["train"],
            paths.get("validation"),
            scratch / "data",
            train_format=formats["train"],
            validation_format=formats.get("validation"),
            columns=spec.columns,
            problem=spec.problem,
            labels=spec.labels,
            seed=spec.seed,
            train_name=train.filename or "train",
            validation_name=(validation and validation.filename) or "validation",
            limits=replace(LIMITS, max_unpacked_bytes=service.settings.upload_max_bytes),
        )


@contextmanager
def _pointing_into_spec() -> Iterator[None]:
    """Lets faults point into the form field ``spec``, which has the columns and labels."""
    try:
        yield
    except SurgeryError as error:
        error.faults = [
            replace(fault, pointer=f"/spec{fault.pointer}") if fault.pointer else fault
            for fault in error.faults
        ]
        raise


def store_dataset(service: Service, folder: Path, report: DatasetReport) -> tuple[Dataset, bool]:
    """The dataset with the content of a folder, and whether it is new."""
    known = _by_fingerprint(service, report.fingerprint)
    if known is not None:
        return known, False
    identifier = new_id("ds")
    row = Dataset(
        id=identifier,
        project=service.project,
        fingerprint=report.fingerprint,
        report=report.model_dump(mode="json"),
        path=f"datasets/{identifier}",
        bytes=sum(path.stat().st_size for path in folder.iterdir()),
    )
    row.created_at = db_now()
    service.storage.put_folder(_sealed(folder), row.path)
    try:
        _insert(service, row)
    except IntegrityError:  # another upload of the same content was faster
        service.storage.delete(row.path)
        known = _by_fingerprint(service, report.fingerprint)
        if known is None:  # and it was deleted again
            raise Conflict("an equal dataset was deleted meanwhile; send it again") from None
        return known, False
    except BaseException:
        service.storage.delete(row.path)
        raise
    return row, True


def _sealed(folder: Path) -> Path:
    """Move a folder's files into a complete folder, which has a manifest."""
    sealed = folder.with_name("sealed")
    with complete_folder(sealed) as building:
        for path in folder.iterdir():
            path.rename(building / path.name)
    return sealed


def _insert(service: Service, row: Dataset) -> None:
    with service.database.write() as session:
        admit_bytes(session, service, row.bytes)
        session.add(row)
        session.flush()
        session.refresh(row)


def _by_fingerprint(service: Service, fingerprint: str) -> Dataset | None:
    with service.database.read() as session:
        return session.scalar(
            select(Dataset).where(
                Dataset.project == service.project, Dataset.fingerprint == fingerprint
            )
        )
