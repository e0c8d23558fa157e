"""Claims jobs and supervises the processes that run them. Never imports torch.

The supervisor runs one job at a time: it claims the job, gives it to the running child process,
renews the lease, stores what the child sends, and stops the child when asked. Every write checks
the lease. A supervisor that loses the lease kills the child and writes nothing more.
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

from app.db.tables import Job, JobKind
from app.errors import NotMigrated
from app.jobs import state_machine
from app.jobs.state_machine import Fenced, Lease
from app.process.logs import note_subject
from app.process.tracing import attempt_span
from app.submissions.destinations import destinations_of
from worker.supervisor.attempt.attempt import Attempt, Outcome, Processes
from worker.supervisor.attempt.context import WorkerContext
from worker.supervisor.attempt.heartbeat import WriteRefused
from worker.supervisor.child_process import ChildProcess, start_child, start_fetcher
from worker.supervisor.environments import WorkerFolders
from worker.supervisor.upkeep.deliverer import Deliverer
from worker.supervisor.upkeep.registration import Registration, facts_of
from worker.supervisor.upkeep.sweeper import Sweeper

log = logging.getLogger("surgeon.worker")
CLOCK_SECONDS = 1.0  # between asking the clocks of this machine and of the database


class Supervisor:
    """A worker: claims and runs jobs until it is told to stop."""

    def __init__(
        self,
        context: WorkerContext,
        kinds: Sequence[JobKind],
        ring: Callable[[Job], Any] | None = None,
    ) -> None:
        self.context = context
        self.settings, self.database = context.settings, context.database
        settings = context.settings
        self.kinds = list(kinds)
        self.owner = f"{socket.gethostname()}:{os.getpid()}"
        self.folders = WorkerFolders.new(settings.data_dir.resolve())
        self.stopping = threading.Event()
        self._bell = threading.Event()
        self._idle = threading.Event()
        self._child: ChildProcess | None = None
        self._fetcher: ChildProcess | None = None
        self._unanswered: float | None = None  # when the first claim was sent that had no answer
        self._unanswered_until = 0.0
        self._exports = destinations_of(settings)
        facts = facts_of(self.owner, kinds, context.gpus, self._exports)
        self._registration = Registration(settings, context.database, facts)
        self._sweeper = Sweeper(settings, context.database, context.storage, self.folders, ring)
        self._deliverer = Deliverer(settings, context.database)

    def ring(self) -> None:
        """Look for a waiting job now."""
        self._idle.clear()
        self._bell.set()

    def ring_and_wait(self) -> None:
        """Ring, and return when no job is left to claim: a busy worker needs no further rings."""
        self.ring()
        while not self._idle.wait(timeout=0.5):
            if self.stopping.is_set():
                return

    def stop(self) -> None:
        """Claim no more jobs; let the running job save its state, and return it to the queue."""
        self.stopping.set()
        self._bell.set()

    def run(self) -> None:
        """Claim and run jobs until told to stop.

        Raises NotMigrated, and claims no more, once another version has migrated the database.
        """
        log.info("worker %s serves %s", self.owner, ", ".join(self.kinds))
        self._sweeper.start()
        self._registration.start()
        self._deliverer.start()
        try:
            while not self.stopping.is_set():
                # Started before a job is claimed, so that the next job need not wait for them.
                self._warm_child()
                self._warm_fetcher()
                if not self._work_once():
                    self._idle.set()
                    self._bell.wait(self.settings.poll.total_seconds())
                    self._bell.clear()
        except NotMigrated as error:
            log.error("no job is claimed any more: %s", error)
            raise
        finally:
            self._idle.set()
            self._sweeper.stop()
            self._registration.stop()
            self._deliverer.stop()
            for process in (self._child, self._fetcher):
                if process is not None:
                    process.kill()
            self.folders.remove()
            log.info("worker %s stopped", self.owner)

    def _work_once(self) -> bool:
        """Claim and run one job. Returns False if no job was waiting."""
        sent = time.monotonic()  # the lease is never longer than from now on
        claimed = self._claim(sent)
        if claimed is None:
            return False
        lease, job = claimed
        note_subject(job_id=job.id, epoch=lease.epoch, request_id=job.request_id)
        log.info("%s claimed, epoch %d, request %s", job.id, lease.epoch, job.request_id)
        self._registration.set_job(job.id)
        try:
            outcome = self._traced(lease, job, sent)
        finally:
            self._registration.set_job(None)
        spent = time.monotonic() - sent
        log.info("%s %s after %.1f s, request %s", job.id, outcome, spent, job.request_id)
        note_subject()
        return True

    def _claim(self, sent: float) -> tuple[Lease, Job] | None:
        """Claim the next job, at this monotonic time. None if there is none, or no answer."""
        try:
            self._give_back_unanswered(sent)
            return state_machine.claim(
                self.database,
                self.owner,
                self.kinds,
                self.settings.lease,
                self.settings.limit_running_jobs,
                self._exports,
            )
        except SQLAlchemyError as error:
            log.warning("the database does not answer: %s", error)
            self._unanswered = self._unanswered or sent
            self._unanswered_until = time.monotonic() + self.settings.lease.total_seconds()
            return None

    def _give_back_unanswered(self, now: float) -> None:
        """Give jobs back that a claim has taken whose answer was lost, for as long as a lease.

        A statement may be carried out long after it was given up here.
        """
        if self._unanswered is None:
            return
        # Whatever had this name before this process began is another's.
        seconds = now - self._unanswered + CLOCK_SECONDS
        for job_id in state_machine.give_back(self.database, self.owner, seconds):
            log.warning("%s: given back, the answer to its claim was lost", job_id)
        if now > self._unanswered_until:
            self._unanswered = None

    def _traced(self, lease: Lease, job: Job, claimed_at: float) -> Outcome:
        """Make the attempt, in a span of the trace that the job's request began."""
        about: dict[str, str | int] = {"surgeon.job.id": job.id, "surgeon.job.kind": job.kind}
        about |= {"surgeon.job.epoch": lease.epoch}
        with attempt_span(job.traceparent, job.queued_at, about) as learned:
            outcome = self._attempt(lease, job, claimed_at)
            learned["surgeon.attempt.outcome"] = str(outcome)
            return outcome

    def _warm_child(self, *, multi_process: bool | None = None) -> ChildProcess:
        """A process ready for the next job; a new one if it has ended or has run many jobs.

        ``multi_process`` says whether it must be able to run a job on several processes, or must
        not, because the two are confined differently. None accepts either.
        """
        child = self._child
        if child is not None:
            if multi_process in {None, child.multi_process} and self._is_fit(child):
                return child
            child.kill()
        probe = self._registration.take_probe_request()
        self._child = start_child(
            self.settings, self.folders, multi_process=bool(multi_process), probe=probe
        )
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

    def _attempt(self, lease: Lease, job: Job, claimed_at: float) -> Outcome:
        multi_process = int(job.spec.get("processes") or 1) > 1
        processes = Processes(self._warm_fetcher(), self._warm_child(multi_process=multi_process))
        attempt = Attempt(
            self.context, lease, job, processes, self.folders, self.stopping, claimed_at
        )
        with attempt.log, attempt.guarded():
            try:
                outcome = self._run(attempt)
            except Fenced:
                attempt.say("the lease is lost: nothing more is stored", logging.WARNING)
                outcome = Outcome.FENCED
        if outcome in {Outcome.FENCED, Outcome.CRASHED, Outcome.KILLED}:
            attempt.current.kill()  # its work is of no use any more
        return outcome

    def _run(self, attempt: Attempt) -> Outcome:
        """Run an attempt to its end, whatever goes wrong. Raises Fenced."""
        try:
            return self._run_or_explain(attempt)
        except WriteRefused as refusal:
            log.exception("%s: the database will never take a write", attempt.job.id)
            return attempt.refused(refusal)
        finally:
            for folder in (attempt.scratch, attempt.inputs):
                shutil.rmtree(folder, ignore_errors=True)

    def _run_or_explain(self, attempt: Attempt) -> Outcome:
        try:
            return attempt.run()
        except OSError as error:
            log.exception("%s: storage failed", attempt.job.id)
            return attempt.storage_failed(error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # The job's process sent something that no such process sends.
            log.exception("%s: a message that cannot be read", attempt.job.id)
            return attempt.not_understood(error)
