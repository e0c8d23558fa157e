"""Claims jobs and watches over the process that runs them. Never imports torch.

One job at a time: claim it, hand it to the warm child, renew the lease, store what the child sends,
stop it when asked. Every write is fenced by the lease; a supervisor that loses it kills the child
and writes nothing more.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from app.jobs import state_machine
from app.jobs.state_machine import Fenced, Lease
from app.tables import Job, Kind
from worker.supervisor.attempt import Attempt, Outcome, Parts, Processes
from worker.supervisor.child_process import ChildProcess, start_child, start_fetcher
from worker.supervisor.environments import WorkerFolders
from worker.supervisor.sweeper import Sweeper

log = logging.getLogger("surgeon.worker")


class Supervisor:
    """A worker: claims until it is told to stop."""

    def __init__(
        self, parts: Parts, kinds: Sequence[Kind], ring: Callable[[Job], Any] | None = None
    ) -> None:
        self.parts = parts
        self.settings, self.database = parts.settings, parts.database
        settings = parts.settings
        self.kinds = list(kinds)
        self.owner = f"{socket.gethostname()}:{os.getpid()}"
        self.folders = WorkerFolders.new(settings.data_dir.resolve())
        self.stopping = threading.Event()
        self._bell = threading.Event()
        self._idle = threading.Event()
        self._child: ChildProcess | None = None
        self._fetcher: ChildProcess | None = None
        self._sweeper = Sweeper(settings, parts.database, parts.storage, self.folders, ring)

    def ring(self) -> None:
        """Something may wait: look now."""
        self._idle.clear()
        self._bell.set()

    def ring_and_wait(self) -> None:
        """Ring, and return when nothing is left to claim: a busy worker hears no further bells."""
        self.ring()
        while not self._idle.wait(timeout=0.5):
            if self.stopping.is_set():
                return

    def stop(self) -> None:
        """Claim nothing more; let the running job save its state and give it back."""
        self.stopping.set()
        self._bell.set()

    def run(self) -> None:
        """Until told to stop."""
        log.info("worker %s serves %s", self.owner, ", ".join(self.kinds))
        self._sweeper.start()
        try:
            while not self.stopping.is_set():
                # At once after a crash, so that the next job does not wait.
                self._warm_child()
                self._warm_fetcher()
                if not self._work_once():
                    self._idle.set()
                    self._bell.wait(self.settings.poll.total_seconds())
                    self._bell.clear()
        finally:
            self._idle.set()
            self._sweeper.stop()
            for process in (self._child, self._fetcher):
                if process is not None:
                    process.kill()
            self.folders.remove()
            log.info("worker %s stopped", self.owner)

    def _work_once(self) -> bool:
        """Claim and run one job; False when there was none."""
        try:
            claimed = state_machine.claim(
                self.database, self.owner, self.kinds, self.settings.lease
            )
        except SQLAlchemyError as error:
            log.warning("the database does not answer: %s", error)
            return False
        if claimed is None:
            return False
        lease, job = claimed
        log.info("%s claimed, epoch %d", job.id, lease.epoch)
        began = time.monotonic()
        outcome = self._attempt(lease, job, began)
        log.info("%s %s after %.1f s", job.id, outcome, time.monotonic() - began)
        return True

    def _warm_child(self, *, several: bool | None = None) -> ChildProcess:
        """A process ready for the next job, replaced when it is gone or has run many.

        ``several`` asks for one that may, or may not, run a job on several processes: the two are
        confined otherwise.
        """
        child = self._child
        if child is not None and several in {None, child.several} and self._is_fit(child):
            return child
        if child is not None:
            child.kill()
        self._child = start_child(self.settings, self.folders, several=bool(several))
        return self._child

    def _warm_fetcher(self) -> ChildProcess:
        """A process ready to fetch for the next job."""
        if self._fetcher is None or not self._is_fit(self._fetcher):
            if self._fetcher is not None:
                self._fetcher.kill()
            self._fetcher = start_fetcher(self.settings)
        return self._fetcher

    def _is_fit(self, process: ChildProcess) -> bool:
        return process.alive and process.jobs < self.settings.jobs_per_child

    def _attempt(self, lease: Lease, job: Job, began: float) -> Outcome:
        several = int(job.spec.get("processes") or 1) > 1
        processes = Processes(self._warm_fetcher(), self._warm_child(several=several))
        attempt = Attempt(self.parts, lease, job, processes, self.folders, self.stopping, began)
        try:
            outcome = attempt.run()
        except Fenced:
            outcome = Outcome.FENCED
        except OSError as error:
            log.exception("%s: storage failed", job.id)
            outcome = attempt.storage_failed(error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # What the job's process said is not what such a process says.
            log.exception("%s: a message that cannot be understood", job.id)
            outcome = attempt.not_understood(error)
        finally:
            for folder in (attempt.scratch, attempt.inputs):
                shutil.rmtree(folder, ignore_errors=True)
        if outcome in {Outcome.FENCED, Outcome.CRASHED, Outcome.KILLED}:
            attempt.current.kill()  # whatever it is doing is nobody's business any more
        return outcome
