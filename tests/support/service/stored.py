"""Checkpoints in a service without workers, kept as a worker keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from fastapi.testclient import TestClient

from app.db.tables import Job, JobKind, new_id
from app.jobs import state_machine
from app.jobs.outputs import records
from app.jobs.state_machine import Lease, enqueue
from app.main import create_app
from app.settings import Settings
from surgery.checkpoints.checkpoint import write_checkpoint
from surgery.checkpoints.record import CheckpointRecord
from surgery.io.folders import read_manifest
from surgery.io.reporter import CheckpointSummary
from surgery.models.loading import LoadedModel
from surgery.schemas.enums import Problem
from surgery.schemas.resolved import Learned
from tests.support.models.checkpoints import LABELS, loaded_from, task
from tests.support.models.checkpoints import write_checkpoint as write_base
from tests.support.service.queued_jobs import RESOLVED


@dataclass(frozen=True)
class Stored:
    """A running fine-tune and its checkpoint."""

    lease: Lease
    id: str


def stored(
    api: TestClient, loaded: LoadedModel, problem: Problem, folder: Path, form: Any = "delta"
) -> Stored:
    """A checkpoint with another head than the model's."""
    with torch.no_grad():
        for parameter in loaded.head.values():
            parameter.add_(0.5)
    record = CheckpointRecord(
        layers=[], included=[], problem=problem.value, labels=LABELS[problem], metrics={},
        epoch=1, step=1, inputs=["text"], columns={"text": "sentence"}, max_length=16,
    )  # fmt: skip
    write_checkpoint(folder, loaded, list(loaded.head), form, record)
    service: Any = api.app.state.service  # type: ignore[attr-defined]
    job = _job(loaded, problem)
    with service.database.write() as session:
        enqueue(session, job)
    claimed = state_machine.claim(
        service.database, "worker", [JobKind.FINETUNE], timedelta(seconds=60)
    )
    assert claimed is not None
    files, key = read_manifest(folder), f"jobs/{job.id}/1/checkpoint-1"
    service.storage.put_folder(folder, key)
    summary = CheckpointSummary(epoch=1, step=1, form=form, metrics={}, is_best=True)
    row, _ = records.commit_checkpoint(service.database, claimed[0], key, files, summary)
    return Stored(claimed[0], row)


@dataclass
class Place:
    """A service with one checkpoint of a fine-tune that runs."""

    api: TestClient
    loaded: LoadedModel
    kept: Stored
    artifacts: Path

    @property
    def path(self) -> str:
        return f"/v1/checkpoints/{self.kept.id}"

    @property
    def service(self) -> Any:
        return self.api.app.state.service  # type: ignore[attr-defined]

    def finish(self) -> None:
        state_machine.finish(self.service.database, self.kept.lease, {}, Learned())


@contextmanager
def place_in(folder: Path, form: Any = "delta", **more: Any) -> Iterator[Place]:
    """A classifier of the model `tiny`; ``more`` are settings."""
    mirror = folder / "mirror"
    loaded = loaded_from(write_base(mirror / "models" / "tiny", "bert"), task())
    settings = Settings(data_dir=folder / "data", mirror_dir=str(mirror), offline=True, **more)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as api:
        kept = stored(api, loaded, Problem.CLASSIFICATION, folder / "ck", form)
        yield Place(api, loaded, kept, folder / "data" / "artifacts")


def _job(loaded: LoadedModel, problem: Problem) -> Job:
    source = loaded.source
    model = {"id": source.id, "revision": source.revision, "fingerprint": source.fingerprint}
    return Job(
        id=new_id("ft"), kind=JobKind.FINETUNE, spec={}, labels={}, model=source.id, dataset="d",
        digest="x", max_attempts=1,
        resolved=RESOLVED | {"model": model, "labels": LABELS[problem]},
    )  # fmt: skip
