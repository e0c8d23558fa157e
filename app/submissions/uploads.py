"""Checks and converts uploaded files and datasets of the Hub, and stores each content once."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import UploadFile
from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from app.db import db_now, is_outage
from app.db.tables import Dataset, new_id
from app.errors import Conflict, NotFound, UploadDamaged
from app.service import Service
from app.submissions.admission import admit_bytes
from surgery.data.files.source import LIMITS, format_of, shown
from surgery.data.ingest.ingest import REPORT, ingest
from surgery.data.references import resolve_dataset, write_dataset
from surgery.errors import SurgeryError
from surgery.io.folders import complete_folder
from surgery.schemas.data.dataset import DatasetChanges, DatasetReport, HubDataset, UploadSpec

_SHA256 = re.compile(r"(?:^|[,\s])sha-256=:([A-Za-z0-9+/=]+):")
_PIECE_BYTES = 1 << 20


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
        _copy_checked(role, upload, paths[role])
    formats = {role: format_of(path.name) for role, path in paths.items()}
    with _pointing_at("/spec"):
        return ingest(
            paths["train"],
            paths.get("validation"),
            scratch / "data",
            train_format=formats["train"],
            validation_format=formats.get("validation"),
            columns=spec.columns,
            problem=spec.problem,
            labels=spec.labels,
            label_separator=spec.label_separator,
            seed=spec.seed,
            train_name=train.filename or "train",
            validation_name=(validation and validation.filename) or "validation",
            limits=replace(LIMITS, max_unpacked_bytes=service.settings.upload_max_bytes),
        )


def _copy_checked(role: str, upload: UploadFile, path: Path) -> None:
    """Copy a part to a file. Raises UploadDamaged if the part names another SHA-256 (RFC 9530)."""
    named = _SHA256.search(upload.headers.get("content-digest", ""))
    digest = hashlib.sha256()
    with path.open("wb") as target:
        while piece := upload.file.read(_PIECE_BYTES):
            target.write(piece)
            if named:
                digest.update(piece)
    if named and b64encode(digest.digest()).decode() != named[1]:
        fault = {"pointer": f"/{role}", "detail": "its SHA-256 is not that of its Content-Digest"}
        raise UploadDamaged(errors=[fault])


def ingest_reference(
    service: Service, folder: Path, reference: HubDataset
) -> tuple[DatasetReport, HubDataset]:
    """Check and convert a dataset of the Hub, and return its reference pinned to a commit."""
    sources = service.settings.sources
    given = HubDataset(**{name: getattr(reference, name) for name in HubDataset.model_fields})
    with _pointing_at("", instead_of="/dataset"):
        source = resolve_dataset(given, sources)
        write_dataset(source, sources, folder)
    report = DatasetReport.model_validate_json((folder / REPORT).read_text(encoding="utf-8"))
    return report, given.model_copy(update={"revision": source.revision})


@contextmanager
def _pointing_at(place: str, instead_of: str = "") -> Iterator[None]:
    """Lets faults point to where the request has what they are about."""
    try:
        yield
    except SurgeryError as error:
        error.faults = [
            replace(fault, pointer=f"{place}{fault.pointer.removeprefix(instead_of)}")
            if fault.pointer
            else fault
            for fault in error.faults
        ]
        raise


@dataclass(frozen=True)
class Stored:
    """A dataset in storage: one that is new, or the one with the same rows that was there."""

    row: Dataset
    new: bool
    note: str | None = None  # what is different from the request


def store_dataset(
    service: Service,
    folder: Path,
    report: DatasetReport,
    name: str | None = None,
    *,
    source: str,
    reference: HubDataset | None = None,
) -> Stored:
    """Store the content of a folder, unless it is stored already.

    Without a name, a new dataset is called as its ``source``: its train file, or its id on the Hub.
    A dataset that was stored without a name is given this one; any other keeps its name.
    """
    known = _by_fingerprint(service, report.fingerprint)
    if known is not None:
        return _stored_before(service, known, name)
    identifier = new_id("ds")
    whole = {**report.model_dump(mode="json"), "source": shown(source)}
    if reference is not None:
        whole["reference"] = reference.model_dump(mode="json")
    row = Dataset(
        id=identifier,
        project=service.project,
        name=name or shown(source),
        fingerprint=report.fingerprint,
        report=whole,
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
        return _stored_before(service, known, name)
    except BaseException as error:
        # After an outage the row may be there although no answer came. If it is not, the sweeper
        # removes the folder.
        if not (isinstance(error, SQLAlchemyError) and is_outage(error)):
            service.storage.delete(row.path)
        raise
    return Stored(row, new=True)


def _stored_before(service: Service, row: Dataset, name: str | None) -> Stored:
    if name is None or name == row.name:
        return Stored(row, new=False)
    with service.database.write() as session:
        by_itself = or_(Dataset.name.is_(None), Dataset.name == row.report.get("source"))
        unnamed = update(Dataset).where(Dataset.id == row.id, by_itself)
        session.execute(unnamed.values(name=name))
        now = session.get(Dataset, row.id, populate_existing=True)
    if now is None:
        raise Conflict("an equal dataset was deleted meanwhile; send it again")
    note = None
    if now.name != name:
        note = (
            f"these rows were stored before, as {now.name!r}; PATCH /v1/datasets/{now.id} renames"
        )
    return Stored(now, new=False, note=note)


def rename_dataset(
    service: Service, dataset_id: str, changes: DatasetChanges, check: Callable[[int], None]
) -> Dataset:
    """Change the name of a dataset. ``check`` may refuse its version. Raises NotFound."""
    with service.database.write() as session:
        query = select(Dataset).where(Dataset.id == dataset_id).with_for_update()
        row = session.scalar(query)
        if row is None:
            raise NotFound(f"no dataset {dataset_id!r}; GET /v1/datasets lists them")
        check(row.version)
        if "name" in changes.model_fields_set and changes.name != row.name:
            row.name = changes.name
            session.flush()
            session.refresh(row)
        return row


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
