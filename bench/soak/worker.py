"""A worker as the service has it, but for the process that would train: it only says that it does.

Claims, leases, heartbeats, writes, the store, sweeps and collection are the service's own.
"""

from __future__ import annotations

import math
import queue
import random
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, and_

from app.artifacts.storage import open_storage
from app.db import Database
from app.db.tables import Job, JobKind, Status
from app.jobs.state_machine import Lease, leases
from app.settings import Settings
from surgery.io.folders import complete_folder
from surgery.io.reporter import CheckpointSummary
from surgery.schemas.resolved import Learned, PeakMemory
from tests.support.service.finished_runs import finetune_result
from tests.support.service.laid_ready import LaidReady
from worker.protocol import CheckpointSaved, FinetuneOrder, Finished, PhaseBegun, Report, StateSaved
from worker.supervisor.attempt.context import WorkerContext
from worker.supervisor.attempt.heartbeat import Heartbeat
from worker.supervisor.child_process import ProcessEnded
from worker.supervisor.supervisor import Supervisor

STEPS = 6
STEP_SECONDS = 0.15  # on average


class Pretending:
    """In the place of the process that trains: a step is a short sleep, and a state."""

    alive, multi_process, overran, aborted = True, False, False, False

    def __init__(self) -> None:
        self.jobs = 0
        self._messages: queue.SimpleQueue[Report | ProcessEnded] = queue.SimpleQueue()
        self._ended = threading.Event()

    def begin_job(self, _: object) -> None:
        """Whatever was said before belongs to another job."""
        self._messages, self._ended = queue.SimpleQueue(), threading.Event()

    def peak_memory(self) -> PeakMemory:
        return PeakMemory()

    def send(self, order: Any) -> None:
        """Carry out an order to fine-tune; any other one ends it."""
        if not isinstance(order, FinetuneOrder):
            self.kill_group()
            return
        told = (order, self._messages, self._ended)
        threading.Thread(target=self._work, args=told, daemon=True).start()

    def _work(
        self,
        order: FinetuneOrder,
        messages: queue.SimpleQueue[Report | ProcessEnded],
        ended: threading.Event,
    ) -> None:
        messages.put(PhaseBegun(name="train"))
        begin = int((order.state_folder / "step").read_text()) if order.state_folder else 0
        for step in range(begin + 1, STEPS + 1):
            if ended.wait(random.uniform(0, 2 * STEP_SECONDS)):
                return
            path = order.scratch / f"state-{step}"
            _write(path, "step", str(step))
            messages.put(StateSaved(path=path, step=step))
        path = order.scratch / f"checkpoint-{STEPS}"
        _write(path, "weights.safetensors", order.id)
        summary = CheckpointSummary(STEPS, STEPS, "delta", metrics={}, is_best=True)
        messages.put(CheckpointSaved(path=path, summary=summary))
        # The scratch folder is called by the attempt, and so is the result.
        epoch = int(order.scratch.name.rpartition("-")[2])
        result = finetune_result(0.5, seconds=float(epoch)).model_dump(mode="json")
        messages.put(Finished(result=result, resolved=Learned()))

    def receive(self, seconds: float) -> Report | ProcessEnded | None:
        try:
            return self._messages.get(timeout=seconds)
        except queue.Empty:
            return None

    def how_it_ended(self) -> str:
        return "the pretended process was killed"

    def last_lines(self) -> list[str]:
        return []

    def kill(self) -> None:
        self.kill_group()

    def kill_group(self) -> None:
        self._ended.set()
        self._messages.put(ProcessEnded())


def _write(folder: Path, name: str, text: str) -> None:
    with complete_folder(folder) as building:
        (building / name).write_text(text)


class SoakedSupervisor(Supervisor):
    """A supervisor whose processes pretend."""

    def _warm_child(self, **_: Any) -> Any:
        return self.__dict__.setdefault("pretending", Pretending())

    def _warm_fetcher(self) -> Any:
        return self.__dict__.setdefault("fetching", LaidReady())


def work(settings: Settings, *, unfenced: bool) -> None:
    """Claim and run jobs until this process is killed."""
    if unfenced:
        remove_the_fence()
    database = Database(settings.resolved_database_url)
    context = WorkerContext(settings, database, open_storage(settings))
    SoakedSupervisor(context, [JobKind.FINETUNE]).run()


def remove_the_fence() -> None:
    """The planted fault: whoever once had a job may write for it, and no clock stops him."""

    def once_held(lease: Lease) -> ColumnElement[bool]:
        return and_(Job.id == lease.job_id, Job.status == Status.RUNNING)

    leases.lease_holds = once_held
    Heartbeat.guard = lambda *_: nullcontext()  # type: ignore[method-assign,assignment]
    Heartbeat._fence_at = lambda _: math.inf  # type: ignore[method-assign]  # noqa: SLF001


def epoch_of(result: dict[str, Any]) -> int:
    """Of the attempt that made this result."""
    return int(result["seconds"]["total"])


def now() -> float:
    """The time as the driver and the workers share it."""
    return time.time()
