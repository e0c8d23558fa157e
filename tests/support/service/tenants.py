"""Two projects with keys of every sort, and an API that knows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from app.access.keys import make_key, sha256_of
from app.api.examples.answers import DATASET
from app.db import Database, db_now
from app.db.tables import (
    ApiKey,
    Checkpoint,
    Dataset,
    Job,
    JobKind,
    Project,
    Status,
    Webhook,
    WebhookDelivery,
    new_id,
)
from app.jobs.state_machine import close, enqueue
from app.main import create_app
from app.service import Service
from app.settings import Settings
from surgery.schemas.data.dataset import DatasetReport
from tests.support.service.queued_jobs import RESOLVED

PREFIX = {
    JobKind.RANKING: "rk", JobKind.FINETUNE: "ft", JobKind.SEARCH: "se",
    JobKind.PREDICTION: "pd", JobKind.EXPORT: "ex", JobKind.COMPARISON: "cmp",
}  # fmt: skip


def make_project(database: Database, name: str, **limits: Any) -> str:
    """A new project's id."""
    row = Project(id=new_id("pr"), name=name, limits=limits)
    row.created_at = db_now()
    with database.write() as session:
        session.add(row)
    return row.id


def insert_key(database: Database, project: str, *scopes: str, **more: Any) -> str:
    """A new key of a project; ``more`` are columns, as they are when it has ended."""
    identifier, key = make_key()
    row = ApiKey(id=identifier, project=project, sha256=sha256_of(key), scopes=list(scopes))
    row.created_at = db_now()
    for name, value in more.items():
        setattr(row, name, value)
    with database.write() as session:
        session.add(row)
    return key


def insert_job(
    database: Database, project: str, kind: JobKind, status: Status = Status.QUEUED, **more: Any
) -> str:
    """A new job of a project. A comparison has a child, as every one does."""
    job = Job(
        id=new_id(PREFIX[kind]), project=project, kind=kind, spec={}, labels={}, model="m",
        dataset="d", digest="x", max_attempts=1, resolved=RESOLVED, **more,
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
        if status in {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}:
            close(session, job, status)
    if kind == JobKind.COMPARISON:
        insert_job(database, project, JobKind.FINETUNE, parent=job.id)
    return job.id


def insert_dataset(database: Database, project: str, size: int = 0) -> str:
    """A new dataset of a project, without files."""
    report = {name: value for name, value in DATASET.items() if name in DatasetReport.model_fields}
    row = Dataset(id=new_id("ds"), project=project, fingerprint=new_id("f"), report=report)
    row.path, row.bytes, row.created_at = f"datasets/{row.id}", size, db_now()
    with database.write() as session:
        session.add(row)
    return row.id


def insert_checkpoint(database: Database, job_id: str, size: int = 0) -> str:
    """A new checkpoint of a job, whose files are missing."""
    entry = {"bytes": size, "sha256": "0" * 64}
    row = Checkpoint(
        id=new_id("ck"), job_id=job_id, lease_epoch=0, step=1, epoch=1.0, form="delta",
        is_best=True, metrics={}, files={"delta.safetensors": entry}, bytes=size,
        path=f"jobs/{job_id}/1/checkpoint-1",
    )  # fmt: skip
    row.created_at = db_now()
    with database.write() as session:
        session.add(row)
    return row.id


def insert_webhook(database: Database, project: str) -> tuple[str, str]:
    """A new webhook of a project, and a delivery of it that has ended."""
    row = Webhook(id=new_id("wh"), project=project, url="https://example.com/", events=[])
    row.secret, row.created_at = "whsec_none", db_now()
    sent = WebhookDelivery(
        id=new_id("msg"), webhook=row.id, type="job.succeeded", body="{}", status="delivered",
        attempts=[],
    )  # fmt: skip
    sent.created_at = sent.ended_at = sent.retry_until = db_now()
    with database.write() as session:
        session.add(row)
        session.flush()
        session.add(sent)
    return row.id, sent.id


@dataclass
class Tenants:
    """An API with an owner's project, which has one of everything, and another's."""

    api: TestClient
    database: Database
    owner: str
    other: str
    keys: dict[str, str] = field(default_factory=dict)  # who → the key

    def service_of(self, project: str) -> Service:
        """The API's service, as a request of a project sees it."""
        return replace(self.api.app.state.service, project=project)  # type: ignore[attr-defined]

    def send(self, who: str, method: str, path: str, **more: Any) -> Any:
        """A request with somebody's key; nobody has none."""
        key = self.keys.get(who)
        headers = {**more.pop("headers", {}), **({"Authorization": f"Bearer {key}"} if key else {})}
        return self.api.request(method, path, headers=headers, **more)

    def get(self, who: str, path: str, **more: Any) -> Any:
        """A GET with somebody's key."""
        return self.send(who, "GET", path, **more)


@contextmanager
def tenants_on(database: Database, folder: Path, **settings: Any) -> Iterator[Tenants]:
    """Two projects, and keys by what is wrong with them."""
    owner, other = make_project(database, "owner"), make_project(database, "other")
    past = db_now(-3600)
    keys = {
        "owner": insert_key(database, owner, "admin"),
        "submitter": insert_key(database, owner, "submit"),
        "reader": insert_key(database, owner, "read"),
        "other": insert_key(database, other, "admin"),
        "operator": insert_key(database, "pr_default", "admin"),
        "expired": insert_key(database, owner, "admin", expires_at=past),
        "revoked": insert_key(database, owner, "admin", revoked_at=past),
        "unknown": make_key()[1],
    }
    given = Settings(data_dir=folder / "data", database_url=database.url, offline=True, **settings)
    app = create_app(given)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as api:
        yield Tenants(api, database, owner, other, keys)
