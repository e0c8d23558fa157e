"""What is true of the jobs, files and processes when a soak is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import psutil
from sqlalchemy import select

from app.artifacts.storage import open_storage
from app.db import Database
from app.db.tables import TERMINAL, Attempt, Checkpoint, Job, JobEvent, Status
from app.settings import Settings
from bench.soak.worker import STEPS, epoch_of
from worker.supervisor.environments import WorkerFolders
from worker.supervisor.upkeep import sweeper


@dataclass(frozen=True)
class Strike:
    """A worker that was killed, or paused for longer than its lease."""

    kind: str
    worker: str
    at: float  # seconds since 1970


@dataclass
class Verdict:
    """What was found; all of it but ``recoveries`` has to be empty."""

    lost: list[str] = field(default_factory=list)  # jobs that did not succeed
    stale: list[str] = field(default_factory=list)  # whose result is not of the last attempt
    twice: list[str] = field(default_factory=list)  # that ended more than once
    files: list[str] = field(default_factory=list)  # that no row names, or that are missing
    processes: list[str] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)  # seconds from a strike to the next claim

    @property
    def faults(self) -> int:
        """How many things are wrong."""
        return sum(map(len, (self.lost, self.stale, self.twice, self.files, self.processes)))


def judge(settings: Settings, ids: list[str], strikes: list[Strike]) -> Verdict:
    """Look at everything after the last worker was killed."""
    verdict, database = Verdict(), Database(settings.resolved_database_url)
    _judge_jobs(verdict, database, ids)
    _judge_files(verdict, database, settings)
    verdict.recoveries = sorted(_recoveries(database, strikes))
    database.close()
    own = psutil.Process()
    verdict.processes = [
        str(each.pid)
        for each in own.children(recursive=True)
        if "postgres" not in each.name() and each.status() != psutil.STATUS_ZOMBIE
    ]
    return verdict


def _judge_jobs(verdict: Verdict, database: Database, ids: list[str]) -> None:
    with database.read() as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
        ends: dict[str, int] = {}
        for event in session.scalars(select(JobEvent).where(JobEvent.type == "status")):
            if event.data["status"] in TERMINAL:
                ends[event.job_id] = ends.get(event.job_id, 0) + 1
    for each in ids:
        job = jobs.get(each)
        if job is None or job.status != Status.SUCCEEDED or job.result is None:
            verdict.lost.append(each)
        elif epoch_of(job.result) != job.lease_epoch:
            verdict.stale.append(each)
    verdict.twice = [each for each, count in ends.items() if count > 1]


def _judge_files(verdict: Verdict, database: Database, settings: Settings) -> None:
    """Collect, then compare the whole store with the rows."""
    collect(settings, database)
    with database.read() as session:
        named = {
            f"{path}/{name}"
            for path in session.scalars(select(Checkpoint.path))
            for name in ("weights.safetensors", "manifest.json")
        }
        logs = set(session.scalars(select(Attempt.log_path)))
        count = len(session.scalars(select(Checkpoint.id).where(Checkpoint.step == STEPS)).all())
    root = Path(settings.resolved_artifacts_url)
    there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    kept = {path for path in there if path.rpartition("/")[0] not in logs}
    verdict.files = sorted(kept ^ named)
    verdict.files += [str(path) for path in (settings.data_dir / "scratch").iterdir()]
    assert count == len(named) // 2, "a checkpoint of each job"


def collect(settings: Settings, database: Database) -> None:
    """Remove what no row names, as if a day had passed."""
    age = sweeper.GARBAGE_AGE_SECONDS
    sweeper.GARBAGE_AGE_SECONDS = -60.0
    folders = WorkerFolders.new(settings.data_dir)
    sweeper.Sweeper(settings, database, open_storage(settings), folders, None).collect_garbage()
    sweeper.GARBAGE_AGE_SECONDS = age


def _recoveries(database: Database, strikes: list[Strike]) -> list[float]:
    with database.read() as session:
        rows = session.scalars(select(Attempt).order_by(Attempt.job_id, Attempt.epoch)).all()
    following = {(row.job_id, row.epoch - 1): row.started_at.timestamp() for row in rows}
    found = []
    for row in rows:
        again = following.get((row.job_id, row.epoch))
        # The last strike at this attempt's worker before the job was claimed again.
        hit = [
            strike.at
            for strike in strikes
            if again is not None
            and strike.worker == row.worker
            and row.started_at.timestamp() <= strike.at <= again
        ]
        if again is not None and hit:
            found.append(again - hit[0])
    return found
