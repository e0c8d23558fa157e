"""The soak finds what it is for; and a short one finds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import update

from app.artifacts.storage import open_storage
from app.db import Database
from app.db.tables import Job, JobKind
from app.jobs import state_machine
from app.jobs.attempts import attempts_of
from app.jobs.outputs import records
from app.jobs.state_machine import Lease, record_event
from app.settings import Settings
from bench.soak.oracle import Strike, judge
from bench.soak.worker import STEPS
from surgery.io.folders import complete_folder, read_manifest
from surgery.io.reporter import CheckpointSummary
from surgery.schemas.resolved import Learned
from tests.support.service.deployment import ROOT
from tests.support.service.finished_runs import finetune_result
from tests.support.service.queued_jobs import LEASE, submit_many, take


@pytest.fixture
def settings(database: Database, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=database.url)


def finished(database: Database, settings: Settings, folder: Path) -> Lease:
    """The next job, carried out as a worker of the soak does."""
    lease = take(database)
    with complete_folder(folder) as building:
        (building / "weights.safetensors").write_text("w")
    key, files = f"jobs/{lease.job_id}/{lease.epoch}/checkpoint-{STEPS}", read_manifest(folder)
    open_storage(settings).put_folder(folder, key)
    summary = CheckpointSummary(STEPS, STEPS, "delta", metrics={}, is_best=True)
    records.commit_checkpoint(database, lease, key, files, summary)
    result = finetune_result(0.5, seconds=float(lease.epoch)).model_dump(mode="json")
    state_machine.finish(database, lease, result, Learned())
    return lease


def test_each_fault_is_found(database: Database, settings: Settings, tmp_path: Path) -> None:
    ids = submit_many(database, 4, spec={}, resolved={}, max_attempts=9)
    for number in range(3):
        finished(database, settings, tmp_path / f"made-{number}")
    sound = judge(settings, ids[:3], [])
    # Processes are not looked at: other tests' services are children of this one too.
    assert (sound.lost, sound.stale, sound.twice, sound.files) == ([], [], [], [])
    with database.write() as session:
        session.execute(update(Job).where(Job.id == ids[0]).values(lease_epoch=2))
        record_event(session, ids[1], 1, "status", {"status": "succeeded"})
    [row] = records.checkpoints_of(database, ids[2])
    (settings.data_dir / "artifacts" / row.path / "weights.safetensors").unlink()
    verdict = judge(settings, ids, [])
    assert (verdict.lost, verdict.stale, verdict.twice) == ([ids[3]], [ids[0]], [ids[1]])
    assert verdict.files == [f"{row.path}/weights.safetensors"]


def test_recovery_is_counted_from_the_strike(database: Database, settings: Settings) -> None:
    [job] = submit_many(database, 1, spec={}, resolved={}, max_attempts=9)
    settings.data_dir.mkdir()
    state_machine.claim(database, "struck", [JobKind.FINETUNE], -LEASE)
    began = attempts_of(database, job)[0].started_at.timestamp()
    state_machine.reap(database, LEASE * 0)
    take(database)
    verdict = judge(settings, [], [Strike("kill", "struck", began), Strike("kill", "other", began)])
    assert len(verdict.recoveries) == 1
    assert 0 <= verdict.recoveries[0] < LEASE.total_seconds()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_short_soak_loses_nothing(kind: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bench.soak", "--jobs", "30", "--only", kind, "--without-control"],
        cwd=ROOT, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cancels_leave_nothing(tmp_path: Path) -> None:
    """The soak of cancels, short."""
    command = [sys.executable, "-m", "bench.soak.cancels", "--jobs", "30"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 ended otherwise, 0 processes and 0 files left" in ended.stdout
