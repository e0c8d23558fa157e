"""One attempt at one job, from its claim to whatever ends it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from app.artifacts.event_files import event_files_key
from app.artifacts.storage import Storage
from app.db import Database
from app.jobs import records, state_machine
from app.jobs.checkpoints import prune_checkpoints
from app.jobs.state_machine import Lease
from app.settings import Settings
from app.submissions.checks import ranking_digest
from app.tables import Job, JobKind, Status
from surgery.errors import (
    ArtifactsFailed,
    DeadlineExceeded,
    ModelUnsupported,
    SurgeryError,
    WorkerLost,
)
from surgery.io.folders import check_plain, is_plain_name, link_folder, read_manifest
from surgery.io.reporter import CheckpointSummary
from surgery.schemas.finetune import FinetuneResult
from surgery.schemas.ranking import RankingOptions
from surgery.schemas.resolved import Resolved, ResolvedFinetune, ResolvedSelection
from surgery.training.tracker_services import BROKEN_OFF_SECONDS, TrackerServices, config_of
from worker.protocol import (
    Cancel,
    CheckpointSaved,
    Drain,
    Ending,
    EventFilesSaved,
    Failed,
    Fetched,
    FetchedDataset,
    FetchOrder,
    FinetuneOrder,
    Finished,
    Halted,
    JobInputs,
    JobOrder,
    LayersSelected,
    MetricValues,
    PhaseBegun,
    PrefixRoom,
    Problem,
    Progress,
    RankingComputed,
    RankingOrder,
    Ready,
    SavedCheckpoint,
    StateSaved,
    ToStore,
)
from worker.supervisor.child_process import ChildProcess, Gone, Heard, Unreadable
from worker.supervisor.environments import WorkerFolders
from worker.supervisor.heartbeat import Heart

Json = dict[str, Any]
Fetch = Callable[[str], Path | None]  # a stored folder on this disk, None where it is not whole

log = logging.getLogger("surgeon.worker")
Value = TypeVar("Value")
TICK_SECONDS = 0.2
RETRY_SECONDS = 0.5  # while the database does not answer
READING_PHASES = {"load", "tokenize"}  # of a model's files and by its tokenizer


def continued_folder(database: Database, fetch: Fetch, job: Job) -> Path | None:
    """The checkpoint the job begins with, held from its submission on. Raises OSError."""
    wanted = job.spec.get("continue_from")
    if wanted is None:
        return None
    path = records.checkpoint_path(database, wanted)
    folder = fetch(path) if path else None
    if folder is None:
        raise OSError(f"the stored files of checkpoint {wanted} are damaged")
    return folder


def best_so_far(database: Database, fetch: Fetch, job: Job) -> SavedCheckpoint | None:
    """The best checkpoint of an interrupted attempt, for the export that follows the run."""
    rows = records.checkpoints_of(database, job.id)
    best = next((row for row in rows if row.is_best), None)
    folder = fetch(best.path) if best else None
    if best is None or folder is None:
        return None
    summary = CheckpointSummary(best.epoch, best.step, best.form, best.metrics, best.is_best)
    return SavedCheckpoint(path=folder, summary=summary)


class Outcome(StrEnum):
    """How an attempt ended, for the log and for what becomes of the child."""

    FETCHED = "fetched"  # what the job needs is laid ready; the attempt goes on
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # by an error that the job's process told of: the process is fine
    STOPPED = "stopped"  # cancelled or drained within a step
    KILLED = "killed"  # did not stop within the grace period, or overran its deadline
    CRASHED = "crashed"  # the child died
    FENCED = "lost its lease"


@dataclass(frozen=True)
class Processes:
    """A worker's further processes."""

    fetcher: ChildProcess  # lays models and datasets ready
    child: ChildProcess  # runs jobs


@dataclass(frozen=True)
class Parts:
    """What a worker works with."""

    settings: Settings
    database: Database
    storage: Storage


class Attempt:
    """Holds a lease, passes the child's messages on to the database."""

    def __init__(
        self, parts: Parts, lease: Lease, job: Job, processes: Processes, folders: WorkerFolders,
        draining: threading.Event, claimed_at: float,
    ) -> None:  # fmt: skip
        self.settings, self.database, self.storage = parts.settings, parts.database, parts.storage
        self.lease, self.job, self._processes = lease, job, processes
        name = f"{job.id}-{lease.epoch}"
        self.scratch, self.inputs = folders.scratch / name, folders.inputs / name
        self._stored = self.database, self._fetch, job
        self._folders = ExitStack()
        self.draining = draining
        self.current = processes.fetcher
        self._fetched: Fetched | None = None
        self._services = TrackerServices([])
        self._began = claimed_at
        self._phase: str | None = None
        self._phase_began = claimed_at
        self._heart = Heart(self.settings, self.database, lease, claimed_at)
        self._stop_by: float | None = None
        self._stop: Cancel | Drain | None = None

    def run(self) -> Outcome:
        """Until the job is over or no longer ours. Raises Fenced."""
        with self._folders, self._heart:
            outcome = self._follow(self._processes.fetcher, self._fetch_order())
            if outcome is not Outcome.FETCHED:
                return outcome
            assert self._fetched is not None
            order = self._order(self._fetched)
            if self.job.kind == JobKind.FINETUNE:
                self._services = TrackerServices.begin(self.job.id, config_of(self.job.spec))
                self._folders.callback(self._services.finish, BROKEN_OFF_SECONDS)
            return self._follow(self._processes.child, order)

    def _follow(self, process: ChildProcess, order: FetchOrder | JobOrder) -> Outcome:
        """Give a process its order and hear it until that is done."""
        self.current = process
        process.begin_job()
        process.send(order)
        while True:
            message = process.receive(TICK_SECONDS)
            outcome = self._handle(message) if message is not None else None
            self._heart.check()
            outcome = outcome or self._check_limits()
            if outcome is not None:
                return outcome

    def _fetch_order(self) -> FetchOrder:
        """What the fetcher needs to know."""
        sources = self.settings.sources
        return FetchOrder(
            spec=self.job.spec,
            resolved=Resolved.of(self.job.resolved),
            scratch=self.scratch,
            mirrors=sources.mirrors,
            cache=sources.cache,
            offline=sources.offline,
        )

    def _order(self, fetched: Fetched) -> JobOrder:
        """Everything the child needs to know."""
        inputs = JobInputs(
            model=fetched.model,
            dataset=fetched.dataset or self._upload(),
            cache=self.settings.sources.cache,
        )
        cpu_seconds = self.settings.deadline.total_seconds() * (os.cpu_count() or 1)
        if self.job.kind == JobKind.RANKING:
            return RankingOrder(
                spec=self.job.spec, scratch=self.scratch, inputs=inputs, cpu_seconds=cpu_seconds
            )
        state = self.job.state
        return FinetuneOrder(
            id=self.job.id,
            spec=self.job.spec,
            resolved=ResolvedFinetune.of(self.job.resolved),
            scratch=self.scratch,
            inputs=inputs,
            cpu_seconds=cpu_seconds,
            also=fetched.also,
            ranking=self._write(lambda: records.awaited_ranking(self.database, self.job)),
            continue_folder=self._write(lambda: continued_folder(*self._stored)),
            state_folder=self._fetch(state["path"]) if state else None,
            earlier_best=self._write(lambda: best_so_far(*self._stored)) if state else None,
            room=self._room(),
        )

    def _upload(self) -> FetchedDataset:
        """The uploaded dataset of the job. Raises OSError where its files are not whole."""
        path = Resolved.of(self.job.resolved).dataset.path
        folder = self._fetch(path) if path else None
        if folder is None:
            raise OSError(f"the stored files of dataset {self.job.dataset} are damaged")
        return FetchedDataset(folder=folder, metrics=None)

    def _room(self) -> PrefixRoom:
        return PrefixRoom(
            folder=self.settings.sources.prefixes,
            memory_bytes=self.settings.prefix_memory_bytes,
            disk_bytes=self.settings.prefix_disk_bytes,
        )

    def _fetch(self, key: str) -> Path | None:
        """A stored folder on this disk, where the child may read it, until the attempt ends."""
        held = self.storage.fetch_folder(key)
        if held is None:
            return None
        self._folders.callback(held.release)
        return link_folder(held.path, self.inputs / key.replace("/", "-"))

    # What the child says.

    def _handle(self, heard: Heard) -> Outcome | None:
        """Raises ValueError for what no such process says."""
        match heard:
            case PhaseBegun():
                self._phase, self._phase_began = heard.name, time.monotonic()
                self._heart.tell(self._phase, None)
            case Progress():
                self._heart.tell(self._phase, heard.model_dump(exclude={"type"}))
            case Fetched() | Finished() | Failed() | Halted():
                return self._ended(heard)
            case Gone():
                return self._crashed()
            case Unreadable():
                raise heard
            case Ready():
                pass
            case _:
                self._store(heard)
        return None

    def _store(self, report: ToStore) -> None:
        match report:
            case MetricValues():
                self._store_metrics(report)
            case CheckpointSaved():
                self._store_checkpoint(report)
            case StateSaved():
                self._store_state(report)
            case EventFilesSaved():
                # Under a key that no other attempt writes.
                key = event_files_key(self.job.id, self.lease.epoch)
                self.storage.put_folder(self._handed_over(report.path), key)
            case RankingComputed():
                self._store_ranking(report)
            case LayersSelected():
                self._store_selected(report.resolved)

    def _store_metrics(self, report: MetricValues) -> None:
        self._services.log(report.values, report.step)
        self._write(
            lambda: records.record_metrics(
                self.database, self.lease, report.step, report.epoch, report.values
            )
        )

    def _handed_over(self, folder: Path) -> Path:
        """A folder of the attempt's own scratch, of plain files: the job's process is not trusted.

        Raises OSError for anything else.
        """
        if folder.parent != self.scratch or not is_plain_name(folder.name):
            raise OSError("the job's process handed over a folder that is not its own")
        check_plain(folder)
        return folder

    def _key(self, folder: Path) -> str:
        return f"jobs/{self.job.id}/{self.lease.epoch}/{folder.name}"

    def _store_checkpoint(self, report: CheckpointSaved) -> None:
        folder = self._handed_over(report.path)
        files, key = read_manifest(folder), self._key(folder)
        self.storage.put_folder(folder, key)
        _, replaced = self._write(
            lambda: records.commit_checkpoint(self.database, self.lease, key, files, report.summary)
        )
        keep = self.job.spec["checkpoints"]["keep"]
        dropped = self._write(lambda: prune_checkpoints(self.database, self.lease, keep))
        for path in (*([replaced] if replaced else []), *dropped):
            self.storage.delete(path)

    def _store_state(self, report: StateSaved) -> None:
        folder = self._handed_over(report.path)
        key = self._key(folder)
        self.storage.put_folder(folder, key)
        before = self._write(
            lambda: records.commit_state(self.database, self.lease, key, report.step)
        )
        if before and before != key:
            self.storage.delete(before)

    def _store_ranking(self, report: RankingComputed) -> None:
        options = RankingOptions.model_validate(report.options)
        resolved = Resolved.of(self.job.resolved)
        digest = ranking_digest(resolved.model.fingerprint, resolved.dataset.fingerprint, options)
        spec = {"model": self.job.spec["model"], "dataset": self.job.spec["dataset"]}
        spec |= report.options
        self._write(
            lambda: records.store_ranking(self.database, self.lease, digest, spec, report.result)
        )
        self._store_selected(report.resolved)

    def _store_selected(self, resolved: ResolvedSelection) -> None:
        """What trains, as only the child could know it; the next attempt trains the same."""
        self._write(lambda: records.pin_selection(self.database, self.lease, resolved))

    def _ended(self, report: Ending) -> Outcome:
        fetching = self.current is self._processes.fetcher
        match report:
            case Fetched() if fetching:
                self._fetched = report
                return Outcome.FETCHED
            case Finished() if not fetching:
                return self._succeeded(report)
            case Failed():
                return self._failed(report.problem)
            case Halted():
                end = self._released if report.resumable else self._cancelled
                return end(Outcome.STOPPED)
        raise ValueError(f"a process of another kind says {report.type}")

    def _succeeded(self, report: Finished) -> Outcome:
        result = report.result
        if self.job.kind == JobKind.FINETUNE:
            result = self._completed(FinetuneResult.model_validate(result))
        state = self._write(
            lambda: state_machine.finish(self.database, self.lease, result, report.resolved)
        )
        if state:
            self.storage.delete(state["path"])
        return Outcome.SUCCEEDED

    def _completed(self, result: FinetuneResult) -> Json:
        """With what the child cannot know: the ids its checkpoints and its ranking were given."""
        rows = self._write(lambda: records.checkpoints_of(self.database, self.job.id))
        result.best_checkpoint = next((row.id for row in rows if row.is_best), None)
        result.warnings += self._services.finish()
        result.ranking = self._write(lambda: records.ranking_of(self.database, self.job.id))
        return result.model_dump(mode="json")

    def _failed(self, told: Problem) -> Outcome:
        problem = told.model_dump()
        if told.code == "internal":
            problem |= {"log": self.current.last_lines()}
        return self._fail(problem, Outcome.FAILED)

    # What happens without it.

    def _write(self, statement: Callable[[], Value]) -> Value:
        """Repeat a fenced write until the database takes it or the lease runs out."""
        while True:
            try:
                return statement()
            except SQLAlchemyError as error:
                log.warning("%s: a write failed, trying again: %s", self.job.id, error)
                self._heart.check()
                time.sleep(RETRY_SECONDS)

    def _ask_to_stop(self, order: Cancel | Drain) -> None:
        if self._stop is None:
            self.current.send(order)
            self._stop = order
            # A download has nothing to save, and hears nobody.
            fetching = self.current is self._processes.fetcher
            grace = 0.0 if fetching else self.settings.grace.total_seconds()
            self._stop_by = time.monotonic() + grace

    def _check_limits(self) -> Outcome | None:
        now = time.monotonic()
        if self._heart.cancel_requested.is_set():
            self._ask_to_stop(Cancel())
        if self.draining.is_set():
            self._ask_to_stop(Drain())
        if self._stop_by is not None and now > self._stop_by:
            end = self._cancelled if isinstance(self._stop, Cancel) else self._released
            return end(Outcome.KILLED)
        if now - self._began > self.settings.deadline.total_seconds():
            hours = self.settings.deadline.total_seconds() / 3600
            return self._overran(
                f"the attempt ran longer than {hours:g} hours; ask for fewer epochs"
            )
        limit = self.settings.load.total_seconds()
        if self._phase == "load" and now - self._phase_began > limit:
            return self._overran(
                f"loading the model and opening its data took longer than {limit:g} s "
                "(SURGEON_LOAD); the model's files make a library work without end, or the disk "
                "is too slow"
            )
        return None

    def _cancelled(self, outcome: Outcome) -> Outcome:
        self._write(lambda: state_machine.end_cancelled(self.database, self.lease))
        return outcome

    def _released(self, outcome: Outcome) -> Outcome:
        self._write(lambda: state_machine.release(self.database, self.lease))
        return outcome

    def _with_log(self, error: SurgeryError) -> Json:
        return error.as_problem() | {"log": self.current.last_lines()}

    def _fail(self, problem: Json, outcome: Outcome) -> Outcome:
        self._write(lambda: state_machine.fail(self.database, self.lease, problem))
        return outcome

    def _charge(self, error: WorkerLost) -> Status:
        """Count a crash of the process against the job."""
        problem, backoff = self._with_log(error), self.settings.retry_backoff
        return self._write(lambda: state_machine.crash(self.database, self.lease, problem, backoff))

    def _overran(self, detail: str) -> Outcome:
        """A limit that another attempt would meet again."""
        return self._fail(self._with_log(DeadlineExceeded(detail)), Outcome.KILLED)

    def storage_failed(self, error: OSError) -> Outcome:
        """The job cannot go on without its files."""
        detail = f"artifacts could not be read or written: {error.strerror or error}"
        return self._fail(ArtifactsFailed(detail).as_problem(), Outcome.KILLED)

    def not_understood(self, error: Exception) -> Outcome:
        """A message of the job's process could not be read; another attempt may do better."""
        why = str(error) if isinstance(error, Unreadable) else type(error).__name__
        self._charge(WorkerLost(f"the job's process sent a message that is none ({why})"))
        return Outcome.KILLED

    def _crashed(self) -> Outcome:
        ended = self.current.how_it_ended()
        if self.current.overran:
            return self._overran(ended)
        if self._phase in READING_PHASES and self.current.aborted:
            # A library gave up over the model's files, and would again.
            detail = f"a library ended the process while it read the model: {ended}"
            return self._fail(self._with_log(ModelUnsupported(detail)), Outcome.CRASHED)
        if isinstance(self._stop, Drain):
            return self._released(Outcome.CRASHED)
        status = self._charge(WorkerLost(ended))
        log.warning("%s: %s; the job is %s", self.job.id, ended, status)
        return Outcome.CRASHED
