"""What the processes of a job are told to do: one order each, with all that they need for it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from app.db.tables import JobKind
from app.jobs.outputs import records
from surgery.io.folders import link_folder
from surgery.schemas.resolved import Resolved, ResolvedFinetune
from worker.protocol import (
    ExportOrder,
    Fetched,
    FetchedDataset,
    FetchOrder,
    FinetuneOrder,
    JobInputs,
    JobOrder,
    ModelInputs,
    PredictionOrder,
    PrefixRoom,
    PublishOrder,
    RankingOrder,
    SearchOrder,
)
from worker.supervisor.attempt.checkpoint_folders import (
    best_so_far,
    checkpoint_folder,
    continued_folder,
)
from worker.supervisor.attempt.context import LeasedJob, WorkerContext
from worker.supervisor.attempt.delivery import Delivery, exported

Json = dict[str, Any]


class Orders:
    """Writes the orders of one attempt. Raises OSError where stored files are damaged."""

    def __init__(self, context: WorkerContext, leased: LeasedJob) -> None:
        self._settings, self._storage = context.settings, context.storage
        self._database = context.database
        self._leased, self._job, self._writes = leased, leased.job, leased.writes
        self._stored = context.database, self._fetch, leased.job

    def to_fetch(self) -> FetchOrder:
        """The order to the fetcher."""
        sources = self._settings.sources
        return FetchOrder(
            spec=self._job.spec,
            resolved=Resolved.of(self._job.resolved),
            scratch=self._leased.scratch,
            mirrors=sources.mirrors,
            cache=sources.cache,
            offline=sources.offline,
            reads_dataset=self._job.kind not in {JobKind.PREDICTION, JobKind.EXPORT},
        )

    def to_work(self, fetched: Fetched) -> JobOrder:
        """The order to the child."""
        match self._job.kind:
            case JobKind.PREDICTION:
                return self._to_predict(fetched)
            case JobKind.EXPORT:
                return self._to_export(fetched)
            case JobKind.RANKING:
                return self._to_rank(fetched)
            case JobKind.SEARCH:
                return self._to_search(fetched)
            case _:
                return self._to_finetune(fetched)

    def to_publish(self, delivery: Delivery) -> PublishOrder:
        """The order to the process that speaks to the service which shall have the model."""
        return PublishOrder(
            spec=self._job.spec,
            scratch=self._leased.scratch,
            folder=delivery.folder,
            digest=delivery.digest,
            about=self._writes.write(lambda: exported(self._database, self._job)),
        )

    def _to_rank(self, fetched: Fetched) -> RankingOrder:
        return RankingOrder(
            spec=self._job.spec,
            scratch=self._leased.scratch,
            inputs=self._inputs(fetched),
            cpu_seconds=self._cpu_seconds(),
        )

    def _to_search(self, fetched: Fetched) -> SearchOrder:
        return SearchOrder(
            spec=self._job.spec,
            scratch=self._leased.scratch,
            inputs=self._inputs(fetched),
            cpu_seconds=self._cpu_seconds(),
            state_folder=self._saved_state(),
            room=self._room(),
        )

    def _to_finetune(self, fetched: Fetched) -> FinetuneOrder:
        state = self._job.state
        return FinetuneOrder(
            id=self._job.id,
            spec=self._job.spec,
            resolved=ResolvedFinetune.of(self._job.resolved),
            scratch=self._leased.scratch,
            inputs=self._inputs(fetched),
            cpu_seconds=self._cpu_seconds(),
            also=fetched.also,
            ranking=self._awaited(JobKind.RANKING),
            search=self._awaited(JobKind.SEARCH),
            continue_folder=self._writes.write(lambda: continued_folder(*self._stored)),
            state_folder=self._saved_state(),
            earlier_best=self._writes.write(lambda: best_so_far(*self._stored)) if state else None,
            room=self._room(),
        )

    def _to_predict(self, fetched: Fetched) -> PredictionOrder:
        return PredictionOrder(
            spec=self._job.spec,
            scratch=self._leased.scratch,
            inputs=ModelInputs(model=fetched.model, cache=self._settings.sources.cache),
            cpu_seconds=self._cpu_seconds(),
            checkpoint_folder=self._named_checkpoint(),
            rows=self._writes.write(lambda: records.rows_of(self._database, self._job.id)),
        )

    def _to_export(self, fetched: Fetched) -> ExportOrder:
        return ExportOrder(
            spec=self._job.spec,
            scratch=self._leased.scratch,
            inputs=ModelInputs(model=fetched.model, cache=self._settings.sources.cache),
            cpu_seconds=self._cpu_seconds(),
            checkpoint_folder=self._named_checkpoint(),
        )

    def _inputs(self, fetched: Fetched) -> JobInputs:
        return JobInputs(
            model=fetched.model,
            dataset=fetched.dataset or self._upload(),
            cache=self._settings.sources.cache,
        )

    def _named_checkpoint(self) -> Path:
        """The folder of the checkpoint that the job's request names."""
        checkpoint = self._job.spec["checkpoint"]
        return self._writes.write(lambda: checkpoint_folder(*self._stored[:2], checkpoint))

    def _cpu_seconds(self) -> float:
        return self._settings.deadline.total_seconds() * (os.cpu_count() or 1)

    def _awaited(self, kind: JobKind) -> Json | None:
        """The result of a ranking or search that the job has waited for, to choose by."""
        return self._writes.write(lambda: records.awaited_result(self._database, self._job, kind))

    def _upload(self) -> FetchedDataset:
        """The uploaded dataset of the job."""
        path = Resolved.of(self._job.resolved).dataset.path
        folder = self._fetch(path) if path else None
        if folder is None:
            raise OSError(f"the stored files of dataset {self._job.dataset} are damaged")
        return FetchedDataset(folder=folder, metrics=None)

    def _room(self) -> PrefixRoom:
        return PrefixRoom(
            folder=self._settings.sources.prefixes,
            memory_bytes=self._settings.prefix_memory_bytes,
            disk_bytes=self._settings.prefix_disk_bytes,
        )

    def _fetch(self, key: str) -> Path | None:
        """A stored folder, linked where the child may read it until the attempt ends."""
        fetched = self._storage.fetch_folder(key)
        if fetched is None:
            return None
        self._leased.fetched.callback(fetched.release)
        return link_folder(fetched.path, self._leased.inputs / key.replace("/", "-"))

    def _saved_state(self) -> Path | None:
        """The state that an earlier attempt has saved, or None if there is none or it is lost."""
        state = self._job.state
        if not state:
            return None
        try:
            folder = self._fetch(state["path"])
        except FileNotFoundError:
            folder = None
        if folder is None:
            lost = f"the saved state of step {state['step']} is missing or damaged"
            self._leased.say(f"{lost}: the job starts over", logging.WARNING)
        return folder
