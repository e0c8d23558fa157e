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
from app.tables import Job, Kind
from surgery.errors import ModelUnsupported
from surgery.io.folders import check_plain, is_plain_name, link_folder, read_manifest
from surgery.schemas.ranking import RankingOptions
from surgery.schemas.resolved import Resolved, ResolvedSelection
from surgery.training.tracker_services import BROKEN_OFF_SECONDS, Services, config_of
from worker.supervisor.child_process import ChildProcess
from worker.supervisor.environments import WorkerFolders
from worker.supervisor.heartbeat import Heart

Json = dict[str, Any]
Fetch = Callable[[str], str | None]  # a stored folder on this disk, None where it is not whole

log = logging.getLogger("surgeon.worker")
Value = TypeVar("Value")
TICK_SECONDS = 0.2
RETRY_SECONDS = 0.5  # while the database does not answer
READING_PHASES = {"load", "tokenize"}  # of a model's files and by its tokenizer


def continued_folder(database: Database, fetch: Fetch, job: Job) -> str | None:
    """The checkpoint the job begins with, held from its submission on. Raises OSError."""
    wanted = job.spec.get("continue_from")
    if wanted is None:
        return None
    path = records.checkpoint_path(database, wanted)
    folder = fetch(path) if path else None
    if folder is None:
        raise OSError(f"the stored files of checkpoint {wanted} are damaged")
    return folder


def best_so_far(database: Database, fetch: Fetch, job: Job) -> Json | None:
    """The best checkpoint of an interrupted attempt, for the export that follows the run."""
    rows = records.checkpoints_of(database, job.id)
    best = next((row for row in rows if row.is_best), None)
    folder = fetch(best.path) if best else None
    if best is None or folder is None:
        return None
    names = ("epoch", "step", "form", "metrics", "is_best")
    return {"path": folder, "record": {name: getattr(best, name) for name in names}}


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
        self._fetched: Json = {}
        self._services = Services([])
        self._began = claimed_at
        self._phase: str | None = None
        self._phase_began = claimed_at
        self._heart = Heart(self.settings, self.database, lease, claimed_at)
        self._stop_by: float | None = None
        self._stop_reason: str | None = None  # "cancel" or "drain"

    def run(self) -> Outcome:
        """Until the job is over or no longer ours. Raises Fenced."""
        with self._folders, self._heart:
            outcome = self._follow(self._processes.fetcher, self._fetch_order())
            if outcome is not Outcome.FETCHED:
                return outcome
            order = self._order()
            if self.job.kind == Kind.FINETUNE:
                self._services = Services.begin(self.job.id, config_of(self.job.spec))
                self._folders.callback(self._services.finish, BROKEN_OFF_SECONDS)
            return self._follow(self._processes.child, order)

    def _follow(self, process: ChildProcess, order: Json) -> Outcome:
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

    def _fetch_order(self) -> Json:
        """What the fetcher needs to know."""
        sources = self.settings.sources
        return {
            "type": "run",
            "kind": self.job.kind,
            "spec": self.job.spec,
            "resolved": self.job.resolved,
            "scratch": str(self.scratch),
            "sources": {
                "mirrors": [str(path) for path in sources.mirrors],
                "cache": str(sources.cache),
                "offline": sources.offline,
            },
        }

    def _order(self) -> Json:
        """Everything the child needs to know."""
        uploaded = Resolved.of(self.job.resolved).dataset.path
        fetched = self._fetched["dataset"] or {"metrics": None}
        state = self.job.state
        return {
            "type": "run",
            "id": self.job.id,
            "kind": self.job.kind,
            "spec": self.job.spec,
            "resolved": self.job.resolved,
            "scratch": str(self.scratch),
            "model": self._fetched["model"],
            "dataset_folder": self._fetch(uploaded) if uploaded else fetched["folder"],
            "metrics": fetched["metrics"],
            "also": self._fetched["also"],
            "state_folder": self._fetch(state["path"]) if state else None,
            "continue_folder": self._write(lambda: continued_folder(*self._stored)),
            "earlier_best": self._write(lambda: best_so_far(*self._stored)) if state else None,
            "ranking": self._write(lambda: records.waited_for(self.database, self.job)),
            "sources": {"cache": str(self.settings.sources.cache)},
            "cpu_seconds": self.settings.deadline.total_seconds() * (os.cpu_count() or 1),
            "room": {
                "folder": str(self.settings.sources.prefixes),
                "memory_bytes": self.settings.prefix_memory_bytes,
                "disk_bytes": self.settings.prefix_disk_bytes,
            },
        }

    def _fetch(self, key: str) -> str | None:
        """A stored folder on this disk, where the child may read it, until the attempt ends."""
        held = self.storage.fetch_folder(key)
        if held is None:
            return None
        self._folders.callback(held.release)
        return str(link_folder(held.path, self.inputs / key.replace("/", "-")))

    # What the child says.

    def _handle(self, message: Json) -> Outcome | None:
        kind = message.pop("type")
        if kind == "phase":
            self._phase, self._phase_began = message["name"], time.monotonic()
            self._heart.tell(self._phase, None)
        elif kind == "progress":
            self._heart.tell(self._phase, message)
        elif kind in {"metric", "checkpoint", "state", "ranking", "selected", "log"}:
            getattr(self, f"_store_{kind}")(message)
        elif kind == "gone":
            return self._crashed()
        elif kind in {"result", "error", "stopped"}:
            return self._ended(kind, message)
        return None

    def _store_metric(self, message: Json) -> None:
        self._services.log(message["values"], message["step"])
        self._write(
            lambda: records.record_metrics(
                self.database, self.lease, message["step"], message["epoch"], message["values"]
            )
        )

    def _handed_over(self, message: Json) -> Path:
        """A folder of the attempt's own scratch, of plain files: the job's process is not trusted.

        Raises OSError for anything else.
        """
        folder = Path(message["path"])
        if folder.parent != self.scratch or not is_plain_name(folder.name):
            raise OSError("the job's process handed over a folder that is not its own")
        check_plain(folder)
        return folder

    def _key(self, folder: Path) -> str:
        return f"jobs/{self.job.id}/{self.lease.epoch}/{folder.name}"

    def _store_checkpoint(self, message: Json) -> None:
        folder = self._handed_over(message)
        files, key = read_manifest(folder), self._key(folder)
        self.storage.put_folder(folder, key)
        _, replaced = self._write(
            lambda: records.commit_checkpoint(
                self.database, self.lease, key, files, message["record"]
            )
        )
        keep = self.job.spec["checkpoints"]["keep"]
        dropped = self._write(lambda: prune_checkpoints(self.database, self.lease, keep))
        for path in (*([replaced] if replaced else []), *dropped):
            self.storage.delete(path)

    def _store_log(self, message: Json) -> None:
        """TensorBoard's files of this attempt, under a key that no other attempt writes."""
        self.storage.put_folder(
            self._handed_over(message), event_files_key(self.job.id, self.lease.epoch)
        )

    def _store_state(self, message: Json) -> None:
        folder = self._handed_over(message)
        key = self._key(folder)
        self.storage.put_folder(folder, key)
        before = self._write(
            lambda: records.commit_state(self.database, self.lease, key, message["step"])
        )
        if before and before != key:
            self.storage.delete(before)

    def _store_ranking(self, message: Json) -> None:
        options = RankingOptions.model_validate(message["options"])
        resolved = Resolved.of(self.job.resolved)
        digest = ranking_digest(resolved.model.fingerprint, resolved.dataset.fingerprint, options)
        spec = {"model": self.job.spec["model"], "dataset": self.job.spec["dataset"]}
        spec |= message["options"]
        self._write(
            lambda: records.keep_ranking(self.database, self.lease, digest, spec, message["result"])
        )
        self._store_selected(message["selected"])

    def _store_selected(self, message: Json) -> None:
        """What trains, as only the child could know it; the next attempt trains the same."""
        selection = ResolvedSelection.of(message)
        self._write(lambda: records.resolve_further(self.database, self.lease, selection))

    def _ended(self, kind: str, message: Json) -> Outcome:
        if kind == "result" and self.current is self._processes.fetcher:
            self._fetched = message["result"]
            return Outcome.FETCHED
        if kind == "result":
            result, resolved = message["result"], message["resolved"]
            if self.job.kind == "finetune":
                self._complete_finetune(result)
            state = self._write(
                lambda: state_machine.finish(self.database, self.lease, result, resolved)
            )
            if state:
                self.storage.delete(state["path"])
            return Outcome.SUCCEEDED
        if kind == "error":
            problem = message["problem"]
            if problem["code"] == "internal":
                problem = problem | {"log": self.current.last_lines()}
            self._write(lambda: state_machine.fail(self.database, self.lease, problem))
            return Outcome.FAILED
        end = state_machine.release if message["resumable"] else state_machine.end_cancelled
        self._write(lambda: end(self.database, self.lease))
        return Outcome.STOPPED

    def _complete_finetune(self, result: Json) -> None:
        """What the child cannot know: the ids its checkpoints and its ranking were given."""
        rows = self._write(lambda: records.checkpoints_of(self.database, self.job.id))
        best = next((row.id for row in rows if row.is_best), None)
        result["best_checkpoint"] = best
        result["warnings"] += self._services.finish()
        result["ranking"] = self._write(lambda: records.ranking_of(self.database, self.job.id))

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

    def _ask_to_stop(self, how: str) -> None:
        if self._stop_reason is None:
            self.current.send({"type": how})
            self._stop_reason = how
            # A download has nothing to save, and hears nobody.
            fetching = self.current is self._processes.fetcher
            grace = 0.0 if fetching else self.settings.grace.total_seconds()
            self._stop_by = time.monotonic() + grace

    def _check_limits(self) -> Outcome | None:
        now = time.monotonic()
        if self._heart.cancel_requested.is_set():
            self._ask_to_stop("cancel")
        if self.draining.is_set():
            self._ask_to_stop("drain")
        if self._stop_by is not None and now > self._stop_by:
            end = (
                state_machine.end_cancelled
                if self._stop_reason == "cancel"
                else state_machine.release
            )
            self._write(lambda: end(self.database, self.lease))
            return Outcome.KILLED
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

    def _overran(self, detail: str) -> Outcome:
        """A limit that another attempt would meet again."""
        problem = {
            "type": "about:blank", "title": "Deadline exceeded", "code": "deadline_exceeded",
            "detail": detail, "retriable": False, "errors": [], "log": self.current.last_lines(),
        }  # fmt: skip
        self._write(lambda: state_machine.fail(self.database, self.lease, problem))
        return Outcome.KILLED

    def storage_failed(self, error: OSError) -> Outcome:
        """The job cannot go on without its files."""
        problem = {
            "type": "about:blank", "title": "Storage failed", "code": "storage_failed",
            "detail": f"artifacts could not be read or written: {error.strerror or error}",
            "retriable": True, "errors": [],
        }  # fmt: skip
        self._write(lambda: state_machine.fail(self.database, self.lease, problem))
        return Outcome.KILLED

    def not_understood(self, error: Exception) -> Outcome:
        """A message of the job's process could not be read; another attempt may do better."""
        problem = {
            "type": "about:blank", "title": "Worker lost", "code": "worker_lost",
            "detail": f"the job's process sent a message that is none ({type(error).__name__})",
            "retriable": True, "errors": [], "log": self.current.last_lines(),
        }  # fmt: skip
        backoff = self.settings.retry_backoff
        self._write(lambda: state_machine.crash(self.database, self.lease, problem, backoff))
        return Outcome.KILLED

    def _crashed(self) -> Outcome:
        problem: Json = {
            "type": "about:blank",
            "title": "Worker lost",
            "code": "worker_lost",
            "detail": self.current.how_it_ended(),
            "retriable": True,
            "errors": [],
            "log": self.current.last_lines(),
        }
        if self.current.overran:
            return self._overran(problem["detail"])
        if self._phase in READING_PHASES and self.current.aborted:
            # A library gave up over the model's files, and would again.
            detail = f"a library ended the process while it read the model: {problem['detail']}"
            problem |= ModelUnsupported(detail).as_problem() | {"log": problem["log"]}
            self._write(lambda: state_machine.fail(self.database, self.lease, problem))
            return Outcome.CRASHED
        if self._stop_reason == "drain":
            self._write(lambda: state_machine.release(self.database, self.lease))
            return Outcome.CRASHED
        backoff = self.settings.retry_backoff
        status = self._write(
            lambda: state_machine.crash(self.database, self.lease, problem, backoff)
        )
        log.warning("%s: %s; the job is %s", self.job.id, problem["detail"], status)
        return Outcome.CRASHED
