"""Hands over what an export has put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.artifacts.storage import Storage
from app.db import Database
from app.db.tables import Job
from app.jobs.outputs import exports
from app.jobs.state_machine import Lease
from surgery.io.digests import json_digest
from surgery.io.folders import MANIFEST, is_intact, read_manifest
from surgery.schemas.jobs.export import ExportedFile, ExportResult, ExportSpec
from surgery.schemas.resolved import ResolvedExport
from worker.protocol import Exported
from worker.supervisor.attempt.writes import LeaseWrites

Json = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """Where the model is now, and whether it was written rather than there already."""

    location: str
    created: bool
    version: str | None = None


def exported(database: Database, job: Job) -> Exported:
    """What an export's model is called. What the export does not say, its fine-tune does."""
    trained = ResolvedExport.of(job.resolved).checkpoint.job
    with database.read() as session:
        origin = session.get_one(Job, trained)
    return Exported(
        export=job.id,
        job=trained,
        name=job.name or origin.name,
        metadata={**origin.labels, **job.labels},
    )


@dataclass(frozen=True)
class Delivery:
    """A complete folder to hand over, and the request that asks for it."""

    spec: ExportSpec
    project: str
    folder: Path
    files: Mapping[str, Json]  # size and SHA-256 of each, checked

    @classmethod
    def of(cls, job: Job, folder: Path) -> Delivery:
        """What a job hands over. Raises OSError if the folder is not what its manifest says.

        The process that wrote both is not trusted.
        """
        if not is_intact(folder):
            raise OSError("the export that was put together is damaged")
        files = read_manifest(folder)
        if {path.name for path in folder.iterdir()} != {*files, MANIFEST}:
            raise OSError("the export that was put together has files that it does not list")
        return cls(ExportSpec.model_validate(job.spec), job.project, folder, files)

    @property
    def digest(self) -> str:
        """The digest of the content, whatever the order in which its files were written."""
        return f"sha256:{json_digest({name: each['sha256'] for name, each in self.files.items()})}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["bytes"]) for entry in self.files.values())

    def to_folder(
        self, database: Database, storage: Storage, lease: Lease, writes: LeaseWrites
    ) -> Written:
        """Write a folder of the object store, unless this very content is there.

        Its manifest is written last: without one, readers find no folder. Raises ExportRefused,
        OSError and what ``writes`` raises.
        """
        name, digest, size = self.spec.target, self.digest, self.size
        reserved = writes.write(
            lambda: exports.reserve_folder(database, lease, self.project, name, digest, size)
        )
        if reserved.complete and set(storage.names(reserved.path)) == set(self.files):
            return Written(reserved.path, created=False)
        storage.delete(reserved.path)  # what an attempt that was killed has left
        storage.put_folder(self.folder, reserved.path)
        writes.write(lambda: exports.complete_folder_of(database, lease, name))
        return Written(reserved.path, created=True)

    def result(self, written: Written, seconds: Mapping[str, float]) -> Json:
        """The result of the job."""
        files = [
            ExportedFile(name=name, bytes=entry["bytes"], sha256=entry["sha256"])
            for name, entry in sorted(self.files.items())
        ]
        result = ExportResult(
            to=self.spec.to,
            target=self.spec.target,
            form=self.spec.form,
            location=written.location,
            version=written.version,
            digest=self.digest,
            bytes=self.size,
            files=files,
            created=written.created,
            seconds=dict(seconds),
        )
        return result.model_dump(mode="json")
