"""The registry of workers: what each can run, and when it was last heard of.

A job that none of them could run is refused before it is queued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Self

from sqlalchemy import ColumnElement, Select, and_, delete, select, update

from app.db import Database, db_now
from app.db.tables import WORKER_KINDS, JobKind, Worker
from app.errors import NotRunnable
from app.service import Service
from app.settings import Settings
from app.submissions.destinations import MISSING, destinations_of
from surgery.schemas import JobWarning
from surgery.schemas.enums import TrainingPrecision
from surgery.schemas.jobs.estimate import Probe
from surgery.schemas.jobs.export import Destination, ExportSpec
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.prediction import PredictionSpec
from surgery.schemas.jobs.ranking import RankingSpec
from surgery.schemas.jobs.search import SearchSpec
from surgery.training.costs.devices import cores_here, gpus_here

Json = dict[str, Any]
WorkerSpec = RankingSpec | FinetuneSpec | SearchSpec | PredictionSpec | ExportSpec
TRAINING_KINDS = {JobKind.FINETUNE.value, JobKind.SEARCH.value}
KEPT = timedelta(days=7)
"""Workers that were not heard of for longer are forgotten."""
PROBE_LASTS = timedelta(days=1)
"""A worker that starts measures its devices again if the last probe of them is older."""
RECENT = timedelta(days=1)
"""Workers of this time count, also those that have ended: whoever runs them starts them again."""


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker says about itself."""

    id: str
    kinds: list[str]
    devices: list[Json]  # name, and memory_bytes
    precisions: list[str]  # number formats in which the devices multiply
    max_processes: int
    version: str
    probe_key: str = ""  # what the result of a probe depends on: host, devices, torch …
    exports: list[str] = field(default_factory=list)  # where it can export to


def register(database: Database, facts: WorkerFacts) -> bool:
    """Enter a worker that starts, over one that had the same name.

    Returns whether a probe of its devices is known, of the last day and by whichever worker: the
    entry has it then.
    """
    with database.write() as session:
        row = session.get(Worker, facts.id) or Worker(id=facts.id)
        earlier = session.execute(_fresh_probe(facts.probe_key)).first()
        for name, value in asdict(facts).items():
            setattr(row, name, value)
        row.job = row.stopped_at = None
        row.restarts = {}
        row.started_at = row.heartbeat_at = db_now()
        row.probe, row.probed_at = earlier or (None, None)
        session.add(row)
    return earlier is not None


def _fresh_probe(key: str) -> Select[Any]:
    """Selects the newest probe with this key, and when it was made, unless it is a day old."""
    recent = Worker.probed_at > db_now(-PROBE_LASTS.total_seconds())
    query = select(Worker.probe, Worker.probed_at).where(Worker.probe_key == key, recent)
    return query.order_by(Worker.probed_at.desc()).limit(1)


def store_probe(database: Database, worker: str, probe: Probe) -> None:
    """Keep what a worker has measured now."""
    measured = {"probe": probe.model_dump(mode="json"), "probed_at": db_now()}
    with database.write() as session:
        session.execute(update(Worker).where(Worker.id == worker).values(**measured))


@dataclass(frozen=True)
class Probed:
    """A worker, and what it has measured; None if it has not yet."""

    id: str
    device: str  # the name of its first one
    precisions: Sequence[str]
    probe: Probe | None
    probed_at: datetime | None


def probed_workers(database: Database) -> list[Probed]:
    """All workers, also those that have ended: first those that train, the newest before others."""
    facts = (Worker.id, Worker.kinds, Worker.devices, Worker.precisions)
    query = select(*facts, Worker.probe, Worker.probed_at)
    newest = database.rows(query.order_by(Worker.heartbeat_at.desc(), Worker.id), {})
    rows = sorted(newest, key=lambda row: not TRAINING_KINDS & set(row.kinds))
    return [
        Probed(
            id=row.id,
            device=row.devices[0]["name"],
            precisions=row.precisions,
            probe=None if row.probe is None else Probe.model_validate(row.probe),
            probed_at=row.probed_at,
        )
        for row in rows
    ]


def beat(
    database: Database, worker: str, job: str | None, restarts: Mapping[str, int] | None = None
) -> bool:
    """Note that a worker is alive and which job it runs; False if it is not registered.

    ``restarts`` is how often each of its threads has died.
    """
    now = {"heartbeat_at": db_now(), "job": job, "restarts": dict(restarts or {})}
    with database.write() as session:
        changed = update(Worker).where(Worker.id == worker).values(**now)
        return session.scalar(changed.returning(Worker.id)) is not None


def mark_stopped(database: Database, worker: str) -> None:
    """Note that a worker has ended as it should."""
    with database.write() as session:
        ended = {"heartbeat_at": db_now(), "stopped_at": db_now(), "job": None}
        session.execute(update(Worker).where(Worker.id == worker).values(**ended))


def forget_workers(database: Database) -> None:
    """Remove the workers that were not heard of for a long time."""
    old = Worker.heartbeat_at < db_now(-KEPT.total_seconds())
    with database.read() as session:
        if session.scalar(select(Worker.id).where(old).limit(1)) is None:
            return
    with database.write() as session:
        session.execute(delete(Worker).where(old))


def is_alive(lease: timedelta) -> ColumnElement[bool]:
    """Whether a worker was heard of within the time of a lease, by the database's clock."""
    heard = Worker.heartbeat_at > db_now(-lease.total_seconds())
    return and_(Worker.stopped_at.is_(None), heard)


@lru_cache
def _heard_of_lately(lease: timedelta) -> Select[Any]:
    """Selects the workers that count, newest first, and whether they are alive."""
    facts = (Worker.id, Worker.kinds, Worker.devices, Worker.precisions, Worker.max_processes)
    query = select(*facts, Worker.exports, is_alive(lease).label("alive"))
    recent = Worker.heartbeat_at > db_now(-RECENT.total_seconds())
    return query.where(recent).order_by(Worker.started_at.desc(), Worker.id.desc())


@dataclass(frozen=True)
class Capacity:
    """What one worker can run."""

    name: str
    kinds: Sequence[str]
    devices: Sequence[str]  # their names
    precisions: Sequence[str]
    max_processes: int
    alive: bool
    exports: Sequence[str] = ()

    def computes(self, job: Needs) -> bool:
        """Whether it exports to where a job does, and its devices have the job's number format."""
        if job.destination is not None and job.destination not in self.exports:
            return False
        if job.precision is None or job.precision in self.precisions:
            return True
        # A CPU scores in any format, though slowly.
        return job.kind is JobKind.RANKING and "cpu" in self.devices

    def __str__(self) -> str:
        devices = ", ".join(self.devices)
        return f"{self.name} ({devices}; {self.max_processes} processes)"


def registered_workers(database: Database, lease: timedelta) -> list[Capacity]:
    """The workers that were heard of within the last day, newest first."""
    return [
        Capacity(
            name=row.id,
            kinds=row.kinds,
            devices=[device["name"] for device in row.devices],
            precisions=row.precisions,
            max_processes=row.max_processes,
            alive=row.alive,
            exports=row.exports,
        )
        for row in database.rows(_heard_of_lately(lease), {})
    ]


@dataclass(frozen=True)
class Needs:
    """What a job needs of a worker, and where its request says so."""

    kind: JobKind
    processes: int
    precision: str | None
    precision_pointer: str
    destination: Destination | None = None  # of an export

    @classmethod
    def of(cls, spec: WorkerSpec) -> Self:
        """The needs of a submission."""
        if isinstance(spec, PredictionSpec):
            return cls(JobKind.PREDICTION, 1, None, "")
        if isinstance(spec, ExportSpec):
            return cls(JobKind.EXPORT, 1, None, "", spec.to)
        if isinstance(spec, RankingSpec):
            return cls(JobKind.RANKING, 1, spec.precision, "/precision")
        precision, pointer = spec.training.precision, "/training/precision"
        if isinstance(spec, SearchSpec):
            return cls(JobKind.SEARCH, 1, precision, pointer)
        return cls(JobKind.FINETUNE, spec.processes, precision, pointer)


@dataclass(frozen=True)
class Fleet:
    """The workers of the last day. ``registered`` is false if they are only expected."""

    workers: Sequence[Capacity]
    registered: bool

    @classmethod
    def of(cls, service: Service) -> Self:
        """The workers that have registered; of an embedded service without any, this machine."""
        known = registered_workers(service.database, service.settings.lease)
        if not known and service.settings.embedded:
            return cls([_this_machine(service.settings)], registered=False)
        return cls(known, registered=bool(known))

    def check(self, spec: WorkerSpec) -> list[Json]:
        """What a submission should know of the workers. Raises NotRunnable if none can run it."""
        needs = Needs.of(spec)
        if self.workers:
            able = self._able(needs)
            if self.registered:
                return [] if any(worker.alive for worker in able) else [NONE_ALIVE.model_dump()]
        return [NONE_REGISTERED.model_dump()]

    def _able(self, needs: Needs) -> list[Capacity]:
        """The workers that can run a job. Raises NotRunnable if there is none."""
        serving = [worker for worker in self.workers if needs.kind in worker.kinds]
        wide = [worker for worker in serving if worker.max_processes >= needs.processes]
        able = [worker for worker in wide if worker.computes(needs)]
        if able:
            return able
        if not serving:
            raise self._refused("", f"no worker runs jobs of kind {needs.kind}")
        if not wide:
            most = max(worker.max_processes for worker in serving)
            detail = f"{needs.processes} processes are more than the {most} that a worker can run"
            raise self._refused("/processes", detail)
        if needs.destination is not None:
            raise self._refused("/to", f"no worker {MISSING[needs.destination]}")
        others = " of those with enough devices" if len(wide) < len(serving) else ""
        detail = f"no worker{others} computes in {needs.precision}"
        raise self._refused(needs.precision_pointer, detail)

    def _refused(self, pointer: str, detail: str) -> NotRunnable:
        there_are = "; ".join(str(worker) for worker in self.workers[:SHOWN])
        more = len(self.workers) - SHOWN
        detail = f"{detail}; there are: {there_are}" + (f" and {more} more" if more > 0 else "")
        return NotRunnable(detail, errors=[{"pointer": pointer, "detail": detail}])


SHOWN = 5  # workers in one message
NONE_REGISTERED = JobWarning(
    code="no_worker",
    message="no worker has registered within the last day, so it is not known whether one can "
    "run this job; it waits until a worker is started",
    remedy="start a worker: surgeon worker",
)
NONE_ALIVE = JobWarning(
    code="no_worker_alive",
    message="no worker that could run this job is alive now; it waits until one is started again",
    remedy="start a worker: surgeon worker",
)


def _this_machine(settings: Settings) -> Capacity:
    """What a worker on this machine could run, before it has registered."""
    gpus = min(gpus_here(), settings.gpus_per_worker)
    cpu = (TrainingPrecision.FP32, TrainingPrecision.BF16)
    return Capacity(
        name="this machine",
        kinds=WORKER_KINDS,
        devices=["GPU"] * gpus or ["cpu"],
        precisions=list(TrainingPrecision) if gpus else list(cpu),
        max_processes=gpus or cores_here(),
        alive=False,
        exports=destinations_of(settings),
    )
