"""After kills, deletions and a collection there is exactly what rows name, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from sqlalchemy import delete, select, update

from app.artifacts.storage import Storage, open_storage
from app.db import Database, db_now
from app.db.tables import (
    DEFAULT_PROJECT,
    Attempt,
    Base,
    Checkpoint,
    Dataset,
    ExportFolder,
    Job,
    JobKind,
    Status,
    new_id,
)
from app.jobs import state_machine
from app.jobs.deletion import RECORDS, delete_job
from app.jobs.outputs.exports import reserve_folder
from app.settings import Settings
from surgery.io.folders import complete_folder
from tests.support.faults.told_attempts import SPEC
from tests.support.outside.object_store import (
    BUCKET,
    PREFIX,
    keys_in_bucket,
    unfinished_uploads,
)
from tests.support.service.queued_jobs import RESOLVED, look, submit, take
from worker.supervisor.environments import WorkerFolders
from worker.supervisor.upkeep.sweeper import Sweeper

ROOT = Path(__file__).parents[4]
POINTS = ("before_the_row", "half_way", "before_the_old_state_goes", "at_the_end", "at_the_end")
FILES = ("config.json", "weights.safetensors", "manifest.json")


@pytest.fixture
def settings(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Settings:
    """A store of each kind; a folder beside SQLite, S3 beside Postgres."""
    data = tmp_path / "data"
    if database.engine.dialect.name == "sqlite":
        return Settings(data_dir=data, database_url=database.url)
    url = request.getfixturevalue("s3_url")
    return Settings(data_dir=data, database_url=database.url, artifacts_url=url)


@pytest.fixture(autouse=True)
def everything_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a day had passed, and for what an API leaves, too."""
    monkeypatch.setattr("worker.supervisor.upkeep.sweeper.GARBAGE_AGE_SECONDS", -60.0)
    monkeypatch.setattr("app.artifacts.machine.REQUESTS_AGE_SECONDS", -60.0)


def stored_files(settings: Settings) -> set[str]:
    """The keys of every stored file."""
    if settings.artifacts_url:
        return keys_in_bucket()
    root = settings.data_dir / "artifacts"
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def put(storage: Storage, folder: Path, key: str) -> None:
    with complete_folder(folder) as building:
        for name in FILES[:2]:
            (building / name).write_text(key)
    storage.put_folder(folder, key)


def of(key: str) -> set[str]:
    return {f"{key}/{name}" for name in FILES}


def collect(database: Database, settings: Settings) -> None:
    folders = WorkerFolders.new(settings.data_dir)
    Sweeper(settings, database, open_storage(settings), folders, None).collect_garbage()


def kill_everything(database: Database, settings: Settings) -> list[str]:
    """Jobs in the order of POINTS, whose workers were killed there; and an API in an upload."""
    ids = [submit(database, JobKind.FINETUNE, spec=SPEC, resolved=RESOLVED) for _ in POINTS]
    script = ROOT / "tests/support/processes/killed_workers.py"
    arguments = (database.url, str(settings.data_dir), settings.artifacts_url, *POINTS, "upload")
    command = [sys.executable, str(script), *arguments]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    with database.write() as session:
        running = update(Job).where(Job.status == Status.RUNNING)
        session.execute(running.values(lease_expires_at=db_now(-1)))
    assert set(state_machine.reap(database, settings.retry_backoff)) == set(ids[:3])
    assert [look(database, job).status for job in ids] == ["queued"] * 3 + ["succeeded"] * 2
    return ids


def add_dataset(database: Database, storage: Storage, tmp_path: Path) -> str:
    """One that a row names; another was stored by an API that died before it wrote the row."""
    for name in ("ds_named", "ds_unnamed"):
        put(storage, tmp_path / name, f"datasets/{name}")
    row = Dataset(
        id="ds_named", project=DEFAULT_PROJECT, fingerprint="f", report={}, path="datasets/ds_named",
        bytes=1,
    )  # fmt: skip
    row.created_at = db_now()
    with database.write() as session:
        session.add(row)
    return "datasets/ds_named"


def add_exports(database: Database, storage: Storage, tmp_path: Path) -> str:
    """A folder that was written, and one whose job failed when it was half written."""
    for name in ("whole", "half"):
        submit(database, JobKind.RANKING, priority=9)
        lease = take(database)
        path = reserve_folder(database, lease, DEFAULT_PROJECT, name, name, 1).path
        if name == "whole":
            put(storage, tmp_path / name, path)
            with database.write() as session:
                session.execute(
                    update(ExportFolder).where(ExportFolder.name == name).values(complete=True)
                )
        else:
            storage.put_file(f"{path}/config.json", b"{")
        state_machine.fail(database, lease, {"code": "worker_lost", "detail": "gone"})
    return f"exports/{DEFAULT_PROJECT}/whole"


def test_after_kills_deletions_and_collection_only_what_rows_name_is_left(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    storage = open_storage(settings)
    row, half, paused, done, deleted = kill_everything(database, settings)
    dataset = add_dataset(database, storage, tmp_path)
    exported = add_exports(database, storage, tmp_path)
    state_machine.cancel(database, half)
    delete_job(database, deleted, lambda _: None)  # whose API dies before it removes the files
    if settings.artifacts_url:
        boto3.client("s3").create_multipart_upload(
            Bucket=BUCKET, Key=f"{PREFIX}/jobs/{row}/1/checkpoint-3/weights.safetensors"
        )
    before = stored_files(settings)
    assert any(f"/{deleted}/" in key for key in before), "there is something to collect"
    for folder in ("scratch", "inputs", "requests"):
        assert list((settings.data_dir / folder).iterdir())

    collect(database, settings)
    collect(database, settings)  # a second finds nothing more to do

    expected = {
        *of(dataset), *of(exported),
        *of(f"jobs/{row}/1/checkpoint-1"), *of(f"jobs/{half}/1/checkpoint-1"),
        *of(f"jobs/{done}/1/checkpoint-1"), *of(f"jobs/{paused}/1/state-2"),
        *of(f"logs/{done}/1"),
    }  # fmt: skip
    # What a worker says is stored every two seconds: those were killed within the first two.
    left = stored_files(settings)
    assert {key for key in left if "/log/segment-" not in key} == expected
    on_disk = {
        path.name
        for path in settings.data_dir.rglob("*")
        if path.is_file() and "artifacts" not in path.relative_to(settings.data_dir).parts
    }
    assert on_disk == set()
    if settings.artifacts_url:
        assert unfinished_uploads() == set()
    else:
        empty = [p for p in (settings.data_dir / "artifacts").rglob("*") if p.is_dir()
                 and not list(p.iterdir())]  # fmt: skip
        assert empty == []
    assert rows_about(database, deleted) == 0


def rows_about(database: Database, job_id: str) -> int:
    """In all tables that name jobs."""
    with database.read() as session:
        return sum(
            len(session.execute(select(table).where(table.c[column] == job_id)).all())
            for table in Base.metadata.tables.values()
            for column in ("job_id", "id", "parent", "waits_for")
            if column in table.c
        )


def test_every_table_that_names_a_job_is_cleared_with_it() -> None:
    """A table added later has to be cleared too, or to say here why not."""
    named = {
        table.name
        for table in Base.metadata.tables.values()
        if any(key.column.table.name == "jobs" for key in table.foreign_keys)
    }
    cleared = {str(table.__tablename__) for table in RECORDS}
    assert named - cleared == {"jobs", "export_folders"}  # which have code of their own


def referencing_rows(database: Database, storage: Storage, tmp_path: Path) -> dict[str, str]:
    """A row of each kind that names a folder, and a job that is over."""
    job = submit(database, JobKind.FINETUNE)
    lease = take(database)
    paths = {
        "checkpoint": f"jobs/{job}/1/checkpoint-1",
        "state": f"jobs/{job}/1/state-1",
        "log": f"jobs/{job}/1/log",
        "dataset": "datasets/ds_1",
    }
    for kind, path in paths.items():
        put(storage, tmp_path / kind, path)
    with database.write() as session:
        row = Checkpoint(
            id=new_id("ck"), job_id=job, lease_epoch=lease.epoch, step=1, epoch=1.0, form="delta",
            is_best=True, metrics={}, files={}, bytes=1, path=paths["checkpoint"],
        )  # fmt: skip
        row.created_at = db_now()
        dataset = Dataset(
            id="ds_1", project=DEFAULT_PROJECT, fingerprint="f", report={}, path=paths["dataset"],
            bytes=1,
        )  # fmt: skip
        dataset.created_at = db_now()
        state = {"path": paths["state"], "step": 1, "bytes": 1}
        session.execute(update(Job).where(Job.id == job).values(state=state))
        session.add_all([row, dataset])
    return paths


def test_each_kind_of_row_protects_its_folder_and_nothing_else_does(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    """Whatever the age of the files; without its row, each folder goes."""
    storage = open_storage(settings)
    paths = referencing_rows(database, storage, tmp_path)
    everything = set().union(*map(of, paths.values()))
    collect(database, settings)
    assert stored_files(settings) == everything
    unname = {
        "checkpoint": delete(Checkpoint),
        "state": update(Job).values(state=None),
        "log": update(Attempt).values(log_path=None),
        "dataset": delete(Dataset),
    }
    for kind, statement in unname.items():
        with database.write() as session:
            session.execute(statement)
        everything -= of(paths[kind])
        collect(database, settings)
        assert stored_files(settings) == everything, kind
