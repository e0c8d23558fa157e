"""What the workers can run: a job that none of them could is refused before it is queued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from app.errors import NotRunnable
from app.jobs.workers import heard_within
from app.service import Service
from app.settings import Settings
from app.tables import WORKER_KINDS, JobKind
from surgery.schemas.enums import TrainingPrecision
from surgery.schemas.finetune import FinetuneSpec
from surgery.schemas.ranking import RankingSpec
from surgery.training.devices import cores_here, gpus_here

Json = dict[str, Any]
RECENT = timedelta(days=1)
"""Workers of this time count, also those that have ended: whoever runs them starts them again."""


@dataclass(frozen=True)
class Capacity:
    """What one worker can run."""

    name: str
    kinds: Sequence[str]
    devices: Sequence[str]  # their names
    precisions: Sequence[str]
    max_processes: int
    alive: bool

    def computes(self, job: Needs) -> bool:
        """Whether its devices can compute in the number format of a job."""
        if job.precision is None or job.precision in self.precisions:
            return True
        # A CPU scores in any format, though slowly.
        return job.kind is JobKind.RANKING and "cpu" in self.devices

    def __str__(self) -> str:
        devices = ", ".join(self.devices)
        return f"{self.name} ({devices}; {self.max_processes} processes)"


@dataclass(frozen=True)
class Needs:
    """What a job needs of a worker, and where its request says so."""

    kind: JobKind
    processes: int
    precision: str | None
    precision_pointer: str

    @classmethod
    def of(cls, spec: RankingSpec | FinetuneSpec) -> Self:
        """The needs of a submission."""
        if isinstance(spec, RankingSpec):
            return cls(JobKind.RANKING, 1, spec.precision, "/precision")
        precision = spec.training.precision
        return cls(JobKind.FINETUNE, spec.processes, precision, "/training/precision")


@dataclass(frozen=True)
class Fleet:
    """The workers of the last day. ``registered`` is false if they are only expected."""

    workers: Sequence[Capacity]
    registered: bool

    @classmethod
    def of(cls, service: Service) -> Self:
        """The workers that have registered; of an embedded service without any, this machine."""
        rows = heard_within(service.database, RECENT, service.settings.lease)
        known = [
            Capacity(
                name=row.id,
                kinds=row.kinds,
                devices=[device["name"] for device in row.devices],
                precisions=row.precisions,
                max_processes=row.max_processes,
                alive=alive,
            )
            for row, alive in rows
        ]
        if not known and service.settings.embedded:
            return cls([_this_machine(service.settings)], registered=False)
        return cls(known, registered=bool(known))

    def check(self, spec: RankingSpec | FinetuneSpec) -> list[Json]:
        """What a submission should know of the workers. Raises NotRunnable if none can run it."""
        needs = Needs.of(spec)
        if self.workers:
            able = self._able(needs)
            if self.registered:
                return [] if any(worker.alive for worker in able) else [NONE_ALIVE]
        return [NONE_REGISTERED]

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
        others = " of those with enough devices" if len(wide) < len(serving) else ""
        detail = f"no worker{others} computes in {needs.precision}"
        raise self._refused(needs.precision_pointer, detail)

    def _refused(self, pointer: str, detail: str) -> NotRunnable:
        there_are = "; ".join(str(worker) for worker in self.workers[:SHOWN])
        more = len(self.workers) - SHOWN
        detail = f"{detail}; there are: {there_are}" + (f" and {more} more" if more > 0 else "")
        return NotRunnable(detail, errors=[{"pointer": pointer, "detail": detail}])


SHOWN = 5  # workers in one message
NONE_REGISTERED: Json = {
    "code": "no_worker",
    "detail": "no worker has registered within the last day, so it is not known whether one can "
    "run this job; it waits until a worker is started: surgeon worker",
}
NONE_ALIVE: Json = {
    "code": "no_worker_alive",
    "detail": "no worker that could run this job is alive now; it waits until one is started again",
}


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
    )
