"""What the sweeper removes from a machine's disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from app.artifacts.storage import open_storage
from app.db import Database, db_now
from app.db.tables import (
    DEFAULT_PROJECT,
    AuditEvent,
    IdempotencyKey,
    Webhook,
    WebhookDelivery,
)
from app.jobs import state_machine
from app.jobs.deletion import delete_job
from app.settings import Settings
from surgery.io.folders import complete_folder
from tests.support.service.queued_jobs import submit
from worker.supervisor.environments import WorkerFolders
from worker.supervisor.upkeep.sweeper import Sweeper

DAY = 24 * 3600


def test_old_rows_of_logs_go(database: Database, tmp_path: Path) -> None:
    """Changes after the days that are set, keys after one, deliveries after thirty."""
    hook = Webhook(id="wh_1", project=DEFAULT_PROJECT, url="https://e.org", events=[], secret="s")
    hook.created_at = db_now()
    with database.write() as session:
        session.add(hook)
        session.flush()
        for days in (0, 2, 6, 8, 31):
            ago = db_now(-days * DAY)
            change = AuditEvent(project=DEFAULT_PROJECT, actor="a", action=str(days), data={})
            change.at = ago
            key = IdempotencyKey(
                project=DEFAULT_PROJECT, key=str(days), request_sha256="", holder="", status=200
            )
            key.created_at = ago
            delivery = WebhookDelivery(
                id=str(days), webhook="wh_1", type="t", body="", status="delivered", attempts=[]
            )
            delivery.created_at = delivery.retry_until = ago
            session.add_all([change, key, delivery])
    settings = Settings(data_dir=tmp_path / "data", audit_days=7)
    folders = WorkerFolders.new(tmp_path)
    Sweeper(settings, database, open_storage(settings), folders, None).collect_garbage()
    with database.read() as session:
        assert set(session.scalars(select(AuditEvent.action))) == {"0", "2", "6"}
        assert set(session.scalars(select(IdempotencyKey.key))) == {"0"}
        assert set(session.scalars(select(WebhookDelivery.id))) == {"0", "2", "6", "8"}


def test_folders_of_a_dead_worker_go_and_a_living_one_s_stay(
    database: Database, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    dead, idle = WorkerFolders.new(tmp_path), WorkerFolders.new(tmp_path)
    for folder in (dead.scratch, dead.inputs, idle.scratch, idle.inputs):
        os.utime(folder, (time.time() - 2 * DAY,) * 2)
    Sweeper(settings, database, open_storage(settings), idle, None).collect_garbage()
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == [idle.scratch.name]
    assert [path.name for path in (tmp_path / "inputs").iterdir()] == [idle.inputs.name]
    assert idle.home.is_dir()


def test_files_of_a_job_that_was_deleted_go_even_if_the_api_died_before_it_removed_them(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    storage, deleted = open_storage(settings), submit(database)
    for key in (f"logs/{deleted}/1", f"jobs/{deleted}/1/checkpoint-1", "logs/ft_deleted/1"):
        with complete_folder(tmp_path / "building") as folder:
            (folder / "file").write_text("x")
        storage.put_folder(tmp_path / "building", key)
    state_machine.cancel(database, deleted)
    assert delete_job(database, deleted, lambda _: None) == [f"jobs/{deleted}", f"logs/{deleted}"]
    other = submit(database)
    with complete_folder(tmp_path / "building") as folder:
        (folder / "file").write_text("x")
    storage.put_folder(tmp_path / "building", f"logs/{other}/1")
    monkeypatch.setattr("worker.supervisor.upkeep.sweeper.GARBAGE_AGE_SECONDS", -1.0)
    Sweeper(settings, database, storage, WorkerFolders.new(tmp_path), None).collect_garbage()
    artifacts = tmp_path / "data" / "artifacts"
    assert [path.parent.parent.name for path in artifacts.rglob("file")] == [other]
