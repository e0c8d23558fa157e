"""Keeps a worker's entry in the registry, on a thread of its own, also while it has no job."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version

from sqlalchemy.exc import SQLAlchemyError

from app.db import Database
from app.db.tables import JobKind
from app.process.restarts import RESTARTS, lasting_thread
from app.settings import Settings
from app.submissions import fleet
from app.submissions.fleet import WorkerFacts
from surgery import __version__
from surgery.schemas.enums import TrainingPrecision
from surgery.schemas.jobs.estimate import Probe
from surgery.training.costs.devices import cores_here
from worker.confinement import machine_memory
from worker.supervisor.child_process import ProbeRequest
from worker.supervisor.gpus import Gpu

log = logging.getLogger("surgeon.worker")
KEY_LENGTH = 500  # characters of the column
AMPERE = (8, 0)  # the first compute capability with bfloat16 and TensorFloat-32


def facts_of(
    owner: str, kinds: Sequence[JobKind], gpus: Sequence[Gpu], exports: Sequence[str] = ()
) -> WorkerFacts:
    """What a worker with these GPUs can run; without any, it runs jobs on the CPU.

    ``exports`` names where it can export to.
    """
    devices = [{"name": gpu.name, "memory_bytes": gpu.memory_bytes} for gpu in gpus]
    return WorkerFacts(
        id=owner,
        kinds=[kind.value for kind in kinds],
        devices=devices or [{"name": "cpu", "memory_bytes": machine_memory()}],
        precisions=[precision.value for precision in precisions_of(gpus)],
        exports=list(exports),
        max_processes=len(gpus) or cores_here(),
        version=__version__,
        probe_key=probe_key(gpus),
    )


def probe_key(gpus: Sequence[Gpu]) -> str:
    """What the speed of a device depends on, so that a probe of it holds for others alike."""
    devices = ", ".join(gpu.name for gpu in gpus) or "cpu"
    threads = os.environ.get("OMP_NUM_THREADS") or cores_here()
    torch = version("torch")  # of the installed package: torch itself is not imported
    return f"{socket.gethostname()}; {devices}; {threads} threads; torch {torch}"[:KEY_LENGTH]


def precisions_of(gpus: Sequence[Gpu]) -> list[TrainingPrecision]:
    """The number formats in which each of these GPUs, or else the CPU, can train."""
    if not gpus:
        return [TrainingPrecision.FP32, TrainingPrecision.BF16]
    if min(gpu.capability for gpu in gpus) >= AMPERE:
        return list(TrainingPrecision)
    return [TrainingPrecision.FP32, TrainingPrecision.FP16]


class Registration:
    """Enters a worker into the registry, and says at each heartbeat that it is alive."""

    def __init__(self, settings: Settings, database: Database, facts: WorkerFacts) -> None:
        self._settings, self._database, self._facts = settings, database, facts
        self._job: str | None = None
        self._measured: Probe | None = None  # that is not stored yet
        self._asks = False
        self._news, self._stop = threading.Event(), threading.Event()
        self._thread = lasting_thread("registration", self._keep, self._stop)

    def start(self) -> None:
        """Enter the worker now."""
        self._asks = True
        self._try(self._register)
        self._thread.start()

    def take_probe_request(self) -> ProbeRequest | None:
        """The request to measure the device, if no probe of it is known; asked once."""
        if not self._asks:
            return None
        self._asks = False
        return ProbeRequest(self._facts.precisions, self._on_probe)

    def _register(self) -> None:
        if fleet.register(self._database, self._facts):
            self._asks = False

    def _on_probe(self, probe: Probe) -> None:
        """Log what was measured, and have it stored at the next heartbeat, which is now."""
        for speed in probe.speeds:
            rate = speed.operations_per_second / 1e9
            log.info("%s trains at %.0f GFLOP/s in %s", probe.device, rate, speed.precision)
        for precision, why in probe.failures.items():
            log.warning("the speed of %s in %s is not known: %s", probe.device, precision, why)
        self._measured = probe
        self._news.set()

    def set_job(self, job: str | None) -> None:
        """Say which job the worker runs now; None if it waits for one."""
        self._job = job
        self._news.set()

    def stop(self) -> None:
        """Note that the worker has ended as it should."""
        self._stop.set()
        self._news.set()
        self._thread.join(timeout=self._settings.heartbeat.total_seconds())
        self._try(lambda: fleet.mark_stopped(self._database, self._facts.id))

    def _keep(self) -> None:
        while True:
            self._news.wait(self._settings.heartbeat.total_seconds())
            self._news.clear()
            if self._stop.is_set():
                return
            self._try(self._beat)

    def _beat(self) -> None:
        if not fleet.beat(self._database, self._facts.id, self._job, RESTARTS.counted()):
            fleet.register(self._database, self._facts)
        if self._measured is not None:
            fleet.store_probe(self._database, self._facts.id, self._measured)
            self._measured = None

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except SQLAlchemyError as error:
            log.warning("the registry of workers was not written, trying again: %s", error)
