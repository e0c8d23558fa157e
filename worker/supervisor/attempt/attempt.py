"""One attempt at one job, from its claim to its end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from app.db.tables import Job, JobKind
from app.jobs import state_machine
from app.jobs.progress import JobProgress
from app.jobs.state_machine import Fenced, Lease
from surgery.errors import (
    ArtifactsFailed,
    DeadlineExceeded,
    ModelUnsupported,
    SurgeryError,
    Unstorable,
    WorkerLost,
)
from surgery.schemas.answers.usage import Usage
from surgery.schemas.enums import POLICIES, Policy
from surgery.schemas.jobs.export import Destination
from surgery.schemas.jobs.finetune import FinetuneResult
from surgery.schemas.resolved import ResolvedFinetune
from surgery.training.tracking.services import BROKEN_OFF_SECONDS, TrackerServices, config_of
from worker.protocol import (
    EXPORTED,
    Cancel,
    Drain,
    Ending,
    Failed,
    Fetched,
    FetchOrder,
    Finished,
    Halted,
    JobOrder,
    PhaseBegun,
    Probed,
    Progress,
    Published,
    PublishOrder,
    Ready,
    ReportedProblem,
)
from worker.supervisor.attempt.context import LeasedJob, WorkerContext
from worker.supervisor.attempt.delivery import Delivery, Written
from worker.supervisor.attempt.heartbeat import Heartbeat, WriteRefused
from worker.supervisor.attempt.orders import Orders
from worker.supervisor.attempt.reports import Reports
from worker.supervisor.attempt.writes import Interrupted, LeaseWrites
from worker.supervisor.child_process import (
    ChildProcess,
    ProcessEnded,
    Received,
    UnreadableMessage,
    start_publisher,
)
from worker.supervisor.environments import WorkerFolders
from worker.supervisor.job_log import JobLog, Scrubber
from worker.supervisor.meter import Meter

Json = dict[str, Any]

log = logging.getLogger("surgeon.worker")
TICK_SECONDS = 0.2  # between two checks of the limits
READING_PHASES = {"load", "tokenize"}  # in which libraries read the model's files


class Outcome(StrEnum):
    """How an attempt ended. It is written to the log and decides whether the child is killed."""

    FETCHED = "fetched"  # the job's model and data are in the cache; the attempt goes on
    ASSEMBLED = "assembled"  # what shall be exported lies in the scratch folder; it goes on
    PUBLISHED = "published"  # it is where it shall be; the attempt goes on
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the job's process reported an error; the process itself is fine
    STOPPED = "stopped"  # cancelled or drained within a step
    KILLED = "killed"  # the process did not stop within the grace period, or exceeded a limit
    CRASHED = "crashed"  # the process died
    FENCED = "lost its lease"


@dataclass(frozen=True)
class Processes:
    """The two processes that a worker starts."""

    fetcher: ChildProcess  # fetches models and datasets
    child: ChildProcess  # runs jobs


class Attempt:
    """Runs a job under a lease, and stores what the processes report.

    ``claimed_at`` is the monotonic time at which the claim was sent. ``draining`` is set when the
    worker stops.
    ``log`` is stored while it is open, which is the caller's to see to.
    """

    def __init__(
        self,
        context: WorkerContext,
        lease: Lease,
        job: Job,
        processes: Processes,
        folders: WorkerFolders,
        draining: threading.Event,
        claimed_at: float,
    ) -> None:
        self.settings, self.database = context.settings, context.database
        self.storage = context.storage
        self.lease, self.job, self._processes = lease, job, processes
        name = f"{job.id}-{lease.epoch}"
        self.scratch, self.inputs = folders.scratch / name, folders.inputs / name
        self._folders = ExitStack()
        self.draining = draining
        self.current = processes.fetcher
        self._fetched: Fetched | None = None
        self._assembled: Finished | None = None  # of an export, by the child
        self._publisher: ChildProcess | None = None
        self._written: Written | None = None  # by the publisher
        self._began = claimed_at
        self._phase: str | None = None
        self._progress = JobProgress(job)
        self._phase_began = claimed_at
        devices = int(job.spec.get("processes") or 1)
        device = "cpu" if job.kind == JobKind.EXPORT else context.device  # it uses no other
        self._meter = Meter(device, devices, claimed_at)
        self._heartbeat = Heartbeat(
            self.settings, self.database, lease, claimed_at, self._used_so_far
        )
        scrubber = Scrubber.of(self.settings)
        self.log = JobLog(self.database, self.storage, lease, scrubber)
        where = {"job_id": job.id, "epoch": lease.epoch, "request_id": job.request_id}
        self._logged = logging.LoggerAdapter(log, where)
        patience = self.settings.lease.total_seconds()
        self._writes = LeaseWrites(
            self.database, lease, self._heartbeat, self._hear_while_waiting, patience, self._logged
        )
        leased = LeasedJob(
            job, lease, self.scratch, self.inputs, self._folders, self._writes, self.say
        )
        self._orders, self._reports = Orders(context, leased), Reports(context, leased)
        self._stop_by: float | None = None
        self._end: Callable[[Outcome], Outcome] | None = None  # set once the job shall stop

    def say(self, text: str, level: int = logging.INFO) -> None:
        """Tell the job's log and the worker's own what happens to the attempt."""
        self.log.write("supervisor", text)
        self._logged.log(level, "%s: %s", self.job.id, text)

    def guarded(self) -> AbstractContextManager[None]:
        """While it lasts, the attempt's processes are killed before the lease could be lost."""
        return self._heartbeat.guard(self._kill_processes)

    def _kill_processes(self) -> None:
        for process in (self._processes.fetcher, self._processes.child, self._publisher):
            if process is not None:
                process.kill_group()

    def _printed(self, source: str, line: str) -> None:
        """Keep a line that a process has printed."""
        self.log.write(source, line)
        self._logged.info("%s process: %s", source, line)

    def _used_so_far(self) -> Usage:
        self._meter.note(self.current.peak_memory())
        return self._meter.usage()

    def run(self) -> Outcome:
        """Run the job until the attempt ends. Raises Fenced if the lease is lost."""
        asked = f", request {self.job.request_id}" if self.job.request_id else ""
        self.say(f"attempt {self.lease.epoch} begins on {self.job.lease_owner}{asked}")
        with self._folders, self._heartbeat:
            try:
                return self._carry_out()
            except Interrupted:
                return self._end_interrupted()

    def _carry_out(self) -> Outcome:
        outcome = self._follow(self._processes.fetcher, self._orders.to_fetch())
        if outcome is not Outcome.FETCHED:
            return outcome
        assert self._fetched is not None
        order = self._orders.to_work(self._fetched)
        if self.job.kind == JobKind.FINETUNE:
            services = TrackerServices.begin(self.job.id, self._tracked_config())
            self._folders.callback(services.finish, BROKEN_OFF_SECONDS)
            self._reports.services = services
        outcome = self._follow(self._processes.child, order)
        if outcome is not Outcome.ASSEMBLED:
            return outcome
        try:
            return self._hand_over()
        except SurgeryError as error:
            return self._fail(error.as_problem(), Outcome.FAILED, self._writes.end)

    def _hand_over(self) -> Outcome:
        """Export what the child has put together."""
        assert self._assembled is not None
        self._begin_phase("publish")
        began = time.monotonic()
        delivery = Delivery.of(self.job, self._reports.handed_over(self.scratch / EXPORTED))
        self._hear_while_waiting()  # nothing is written for a job that was asked to end
        if delivery.spec.to is Destination.FOLDER:
            written = delivery.to_folder(self.database, self.storage, self.lease, self._writes)
        else:
            outcome = self._publish(delivery)
            if self._written is None:
                return outcome
            written = self._written
        seconds = {**self._assembled.result["seconds"]}
        seconds["publish"] = round(time.monotonic() - began, 3)
        result = delivery.result(written, seconds)
        return self._succeeded(self._assembled.model_copy(update={"result": result}))

    def _publish(self, delivery: Delivery) -> Outcome:
        """Have a process of its own speak to the service that shall have the model."""
        publisher = start_publisher(self.settings, delivery.spec.to)
        self._folders.callback(publisher.kill)
        self._publisher = publisher
        return self._follow(publisher, self._orders.to_publish(delivery))

    def _tracked_config(self) -> Json:
        """The options that trackers record; the rate of a search is null until it has found one."""
        config = config_of(self.job.spec)
        if POLICIES[Policy(config["selection"]["policy"])].searches:
            found = ResolvedFinetune.of(self.job.resolved).learning_rate
            config["training"] = {**config["training"], "learning_rate": found}
        return config

    def _follow(
        self, process: ChildProcess, order: FetchOrder | JobOrder | PublishOrder
    ) -> Outcome:
        """Send a process its order and handle its messages until it has carried the order out."""
        self.current = process
        source = {self._processes.fetcher: "fetcher", self._processes.child: "job"}.get(
            process, "publisher"
        )
        process.begin_job(partial(self._printed, source))
        process.send(order)
        while True:
            message = process.receive(TICK_SECONDS)
            outcome = self._handle(message) if message is not None else None
            if outcome is None:  # an attempt that has ended has no lease any more
                self._heartbeat.check()
                outcome = self._check_limits()
            if outcome is not None:
                return outcome

    # Messages of the processes.

    def _handle(self, received: Received) -> Outcome | None:
        """Act on a message. Raises ValueError for a message that this process must not send."""
        match received:
            case PhaseBegun():
                self._begin_phase(received.name)
            case Progress():
                progress = self._progress.advance(
                    received.step, received.total_steps, received.unit
                )
                self._heartbeat.set_progress(self._phase, progress)
            case Fetched() | Finished() | Published() | Failed() | Halted():
                return self._ended(received)
            case ProcessEnded():
                return self._crashed()
            case UnreadableMessage():
                raise received
            case Ready():
                pass
            case Probed():
                raise ValueError("a probe in the middle of a job")
            case _:
                self._reports.store(received)
        return None

    def _begin_phase(self, name: str) -> None:
        self._phase, self._phase_began = name, time.monotonic()
        self._meter.note(self.current.peak_memory())
        self._heartbeat.set_progress(name, self._progress.begin(name))

    def _ended(self, report: Ending) -> Outcome:
        fetching = self.current is self._processes.fetcher
        publishing = self.current is self._publisher
        self._meter.note(report.peak)
        match report:
            case Fetched() if fetching:
                self._fetched = report
                return Outcome.FETCHED
            case Published() if publishing:
                self._written = Written(report.location, report.created, report.version)
                return Outcome.PUBLISHED
            case Finished() if not fetching and self.job.kind == JobKind.EXPORT:
                self._assembled = report
                return Outcome.ASSEMBLED
            case Finished() if not fetching:
                return self._succeeded(report)
            case Failed():
                return self._failed(report.problem)
            case Halted() if self._end is not None:
                return self._end(Outcome.STOPPED)
        raise ValueError(f"this process may not send a message of type {report.type}")

    def _succeeded(self, report: Finished) -> Outcome:
        result = report.result
        if self.job.kind == JobKind.FINETUNE:
            result = self._reports.completed(FinetuneResult.model_validate(result))
        state = self._writes.end(
            lambda: state_machine.finish(
                self.database, self.lease, result, report.resolved, self._meter.usage()
            )
        )
        self.say("the job succeeded")
        if state:
            self.storage.delete(state["path"])
        return Outcome.SUCCEEDED

    def _failed(self, reported: ReportedProblem) -> Outcome:
        problem = reported.model_dump()
        if reported.code == "internal":
            problem |= {"log": self.current.last_lines()}
        return self._fail(problem, Outcome.FAILED, self._writes.end)

    # Limits and failures.

    def _ask_to_stop(self, order: Cancel | Drain, end: Callable[[Outcome], Outcome]) -> None:
        """Send the first order to stop; ``end`` records what the job becomes once it has."""
        if self._end is None:
            self.current.send(order)
            self._end = end
            self.say(f"the job's process is told to stop ({order.type})")
            # A download or an upload reads no messages and has nothing to save.
            computes = self.current is self._processes.child
            grace = self.settings.grace.total_seconds() if computes else 0.0
            self._stop_by = time.monotonic() + grace

    def _hear_requests(self) -> None:
        if self._heartbeat.cancel_requested.is_set():
            self._ask_to_stop(Cancel(), self._cancelled)
        if self._heartbeat.is_overdue():
            self._ask_to_stop(Cancel(), self._overdue)
        if self.draining.is_set() or self._heartbeat.pause_requested.is_set():
            self._ask_to_stop(Drain(), self._released)

    def _hear_while_waiting(self) -> None:
        """Raise Interrupted if a write is not to be waited for: nobody needs what it stores.

        A job that shall save its state has as long for it as its process has.
        """
        self._hear_requests()
        now = time.monotonic()
        unneeded = self._heartbeat.cancel_requested.is_set() or self._heartbeat.is_overdue()
        late = self._stop_by is not None and now > self._stop_by
        if unneeded or late or now - self._began > self.settings.deadline.total_seconds():
            raise Interrupted

    def _end_interrupted(self) -> Outcome:
        """End the attempt as was asked while a write waited for the database."""
        if self._end is not None:
            return self._end(Outcome.KILLED)
        outcome = self._check_limits()
        assert outcome is not None
        return outcome

    def _check_limits(self) -> Outcome | None:
        now = time.monotonic()
        self._hear_requests()
        if self._end is not None and self._stop_by is not None and now > self._stop_by:
            return self._end(Outcome.KILLED)
        if now - self._began > self.settings.deadline.total_seconds():
            hours = self.settings.deadline.total_seconds() / 3600
            return self._overran(f"the attempt ran longer than {hours:g} hours; try fewer epochs")
        limit = self.settings.load.total_seconds()
        if self._phase == "load" and now - self._phase_began > limit:
            return self._overran(
                f"loading the model and opening its data took longer than {limit:g} s "
                "(SURGEON_LOAD): the model's files may keep a library busy without end, or the "
                "disk is too slow"
            )
        return None

    def _cancelled(self, outcome: Outcome) -> Outcome:
        self._writes.end_at_last(
            lambda: state_machine.end_cancelled(self.database, self.lease, self._meter.usage())
        )
        self.say("the job is cancelled")
        return outcome

    def _overdue(self, outcome: Outcome) -> Outcome:
        self._writes.end_at_last(
            lambda: state_machine.fail_overdue(self.database, self.lease, self._meter.usage())
        )
        self.say("the job's deadline has passed", logging.WARNING)
        return outcome

    def _released(self, outcome: Outcome) -> Outcome:
        # Unless the worker stops, the job was asked to pause, and perhaps resumed meanwhile.
        reason = "drained" if self.draining.is_set() else "resumed"
        self._writes.end_at_last(
            lambda: state_machine.release(
                self.database, self.lease, reason, usage=self._meter.usage()
            )
        )
        self.say(f"the job is given back ({'drained' if self.draining.is_set() else 'paused'})")
        return outcome

    def _with_log(self, error: SurgeryError) -> Json:
        return error.as_problem() | {"log": self.current.last_lines()}

    def _fail(
        self,
        problem: Json,
        outcome: Outcome,
        end: Callable[[Callable[[], None]], None] | None = None,
    ) -> Outcome:
        """Fail the job; ``end`` is how the last write is tried, to the last unless it is given."""
        end = end or self._writes.end_at_last
        end(lambda: state_machine.fail(self.database, self.lease, problem, self._meter.usage()))
        self.say(f"the job failed ({problem['code']}): {problem['detail']}", logging.WARNING)
        return outcome

    def _charge(self, error: WorkerLost) -> None:
        """Count a crash of the process against the job."""
        problem, backoff = self._with_log(error), self.settings.retry_backoff
        status = self._writes.end_at_last(
            lambda: state_machine.crash(
                self.database, self.lease, problem, backoff, self._meter.usage()
            )
        )
        becomes = f"; the job is {status}" if status else ""  # not known if the reply was lost
        self.say(f"{error.detail}{becomes}", logging.WARNING)

    def _overran(self, detail: str) -> Outcome:
        """Fail the job: another attempt would exceed the same limit."""
        return self._fail(self._with_log(DeadlineExceeded(detail)), Outcome.KILLED)

    def storage_failed(self, error: OSError) -> Outcome:
        """Fail the job, because its files cannot be read or written."""
        detail = f"artifacts could not be read or written: {error.strerror or error}"
        return self._fail(ArtifactsFailed(detail).as_problem(), Outcome.KILLED)

    def refused(self, refusal: WriteRefused) -> Outcome:
        """Fail the job, because the database will never take what it reported. Raises Fenced."""
        detail = f"the database refuses what the job reported: {refusal}"
        # Without all that may be refused again: the log, and what was used.
        problem = Unstorable(detail).as_problem()
        try:
            self._writes.end_at_last(lambda: state_machine.fail(self.database, self.lease, problem))
        except WriteRefused as again:
            raise Fenced from again  # whoever takes the job back counts a crash
        self.say(f"the job failed ({problem['code']}): {detail}", logging.WARNING)
        return Outcome.KILLED

    def not_understood(self, error: Exception) -> Outcome:
        """End the attempt, because a message could not be read. Another attempt may succeed."""
        why = str(error) if isinstance(error, UnreadableMessage) else type(error).__name__
        self._charge(WorkerLost(f"the job's process sent a message that cannot be read ({why})"))
        return Outcome.KILLED

    def _crashed(self) -> Outcome:
        ended = self.current.how_it_ended()
        if self.current.overran:
            return self._overran(ended)
        if self._phase in READING_PHASES and self.current.aborted:
            # The model's files made a library abort, and would do so again.
            detail = f"a library ended the process while it read the model: {ended}"
            return self._fail(self._with_log(ModelUnsupported(detail)), Outcome.CRASHED)
        if self._end is not None:
            return self._end(Outcome.CRASHED)
        self._charge(WorkerLost(ended))
        return Outcome.CRASHED
