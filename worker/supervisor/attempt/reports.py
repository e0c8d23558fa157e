"""Stores what the process of a job reports: metrics, checkpoints, states, and what was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.artifacts.event_files import event_files_key
from app.jobs.outputs import records
from app.jobs.outputs.checkpoints import prune_checkpoints
from app.submissions.checks import ranking_digest, search_digest
from surgery.io.folders import check_plain, is_plain_name, read_manifest
from surgery.schemas.jobs.finetune import FinetuneResult
from surgery.schemas.jobs.ranking import RankingOptions
from surgery.schemas.jobs.search import SearchSpec
from surgery.schemas.resolved import Resolved, ResolvedSelection
from surgery.training.tracking.services import TrackerServices
from worker.protocol import (
    CheckpointSaved,
    EventFilesSaved,
    LayersSelected,
    MetricValues,
    RankingComputed,
    SearchComputed,
    StateSaved,
    ToStore,
)
from worker.supervisor.attempt.context import LeasedJob, WorkerContext

Json = dict[str, Any]


class Reports:
    """Stores the reports of one attempt, each under its lease.

    ``services`` are the user's trackers; the attempt sets them when the job has any.
    """

    def __init__(self, context: WorkerContext, leased: LeasedJob) -> None:
        self._database, self._storage = context.database, context.storage
        self._leased, self._job, self._lease = leased, leased.job, leased.lease
        self._writes = leased.writes
        self.services = TrackerServices([])

    def store(self, report: ToStore) -> None:
        """Store a report. Raises OSError if it hands over a folder that is not the job's."""
        match report:
            case MetricValues():
                self._store_metrics(report)
            case CheckpointSaved():
                self._store_checkpoint(report)
            case StateSaved():
                self._store_state(report)
            case EventFilesSaved():
                # No other attempt writes under this key; this one does after every evaluation.
                key = event_files_key(self._job.id, self._lease.epoch)
                self._storage.put_folder(self.handed_over(report.path), key, replace=True)
            case RankingComputed():
                self._store_ranking(report)
            case SearchComputed():
                self._store_search(report)
            case LayersSelected():
                self._store_selected(report.resolved)

    def handed_over(self, folder: Path) -> Path:
        """A folder that the job's process wants stored, checked because the process is not trusted.

        Raises OSError unless it lies in the attempt's scratch folder and holds only plain files.
        """
        if folder.parent != self._leased.scratch or not is_plain_name(folder.name):
            raise OSError("the job's process handed over a folder that is not its own")
        check_plain(folder)
        return folder

    def completed(self, result: FinetuneResult) -> Json:
        """The result with the ids of its checkpoint and of what chose, which no child knows."""
        rows = self._writes.write(lambda: records.checkpoints_of(self._database, self._job.id))
        result.best_checkpoint = next((row.id for row in rows if row.is_best), None)
        result.warnings += self.services.finish()
        chosen = self._writes.write(lambda: records.selection_of(self._database, self._job.id))
        result.ranking, result.search = chosen.ranking, chosen.search
        return result.model_dump(mode="json")

    def _store_metrics(self, report: MetricValues) -> None:
        self.services.log(report.values, report.step)
        self._writes.write(
            lambda: records.record_metrics(
                self._database, self._lease, report.step, report.epoch, report.values
            )
        )

    def _key(self, folder: Path) -> str:
        return f"jobs/{self._job.id}/{self._lease.epoch}/{folder.name}"

    def _store_checkpoint(self, report: CheckpointSaved) -> None:
        folder = self.handed_over(report.path)
        files, key = read_manifest(folder), self._key(folder)
        self._storage.put_folder(folder, key)
        _, replaced = self._writes.write(
            lambda: records.commit_checkpoint(
                self._database, self._lease, key, files, report.summary
            )
        )
        self._leased.say(f"checkpoint of step {report.summary.step} is stored")
        keep = self._job.spec["checkpoints"]["keep"]
        dropped = self._writes.write(lambda: prune_checkpoints(self._database, self._lease, keep))
        for path in (*([replaced] if replaced else []), *dropped):
            self._storage.delete(path)

    def _store_state(self, report: StateSaved) -> None:
        folder = self.handed_over(report.path)
        files, key = read_manifest(folder), self._key(folder)
        size = sum(file["bytes"] for file in files.values())
        self._storage.put_folder(folder, key)
        before = self._writes.write(
            lambda: records.commit_state(self._database, self._lease, key, report.step, size)
        )
        self._leased.say(f"state of step {report.step} is stored")
        if before and before != key:
            self._storage.delete(before)

    def _store_ranking(self, report: RankingComputed) -> None:
        options = RankingOptions.model_validate(report.options)
        resolved = Resolved.of(self._job.resolved)
        digest = ranking_digest(resolved.model.fingerprint, resolved.dataset.fingerprint, options)
        spec = {"model": self._job.spec["model"], "dataset": self._job.spec["dataset"]}
        spec |= report.options
        self._writes.write(
            lambda: records.store_ranking(self._database, self._lease, digest, spec, report.result)
        )
        self._store_selected(report.resolved)

    def _store_search(self, report: SearchComputed) -> None:
        resolved = Resolved.of(self._job.resolved)
        spec = SearchSpec.model_validate(report.spec)
        digest = search_digest(resolved.model.fingerprint, resolved.dataset.fingerprint, spec)
        before = self._writes.write(
            lambda: records.store_search(
                self._database, self._lease, digest, report.spec, report.result, report.resolved
            )
        )
        if before:
            self._storage.delete(before)

    def _store_selected(self, resolved: ResolvedSelection) -> None:
        """Store which layers train, so that the next attempt trains the same ones."""
        self._writes.write(lambda: records.pin_selection(self._database, self._lease, resolved))
