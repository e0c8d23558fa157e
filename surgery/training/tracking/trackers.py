"""Track a run's metrics in TensorBoard files and at the services that the environment sets up."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import TensorBoardTracker

from surgery.io.folders import complete_folder
from surgery.io.reporter import CheckpointSummary, ForwardingReporter, Reporter
from surgery.schemas import JobWarning
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.training.tracking.services import (
    BROKEN_OFF_SECONDS,
    FINISH_SECONDS,
    INCOMPLETE,
    TrackerServices,
    config_of,
    flattened,
)

log = logging.getLogger("surgeon.trackers")
FOLDER = "tensorboard"

Keep = Callable[[Path], None]


class Trackers:
    """All trackers of one run: TensorBoard's files and the services."""

    def __init__(self, files: EventFiles, services: TrackerServices) -> None:
        self.files, self._services = files, services

    def log(self, values: Mapping[str, float | None], step: int) -> None:
        """Record numbers measured at a step; undefined ones are left out."""
        known = {name: float(value) for name, value in values.items() if value is not None}
        self.files.log(known, step)
        self._services.log(values, step)

    def finish(self, seconds: float = FINISH_SECONDS) -> list[JobWarning]:
        """End all trackers; returns a warning for each that did not take everything."""
        self.files.finish()
        told = [self.files.warning] if self.files.warning else []
        own = [JobWarning(code=INCOMPLETE, message=text) for text in told]
        return own + self._services.finish(seconds)


def start(
    run: str,
    config: Mapping[str, Any],
    folder: Path,
    resumed_at: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Trackers:
    """Begin to track a run, or continue after the step at which it was interrupted.

    TensorBoard's files go into ``folder``; see `TrackerServices.begin` for the services.
    """
    PartialState()  # accelerate's tracker asks it
    files = EventFiles(run, flattened(config), folder, resumed_at)
    return Trackers(files, TrackerServices.begin(run, config, environment))


class EventFiles:
    """TensorBoard's event files: one for each attempt at a run, all in one folder.

    An attempt that resumes at a step tells TensorBoard to drop what earlier attempts wrote after
    it.
    """

    def __init__(
        self, run: str, config: Mapping[str, Any], folder: Path, resumed_at: int | None
    ) -> None:
        purge = {} if resumed_at is None else {"purge_step": resumed_at + 1}
        self.folder = folder / run
        self.warning: str | None = None
        self._tracker = TensorBoardTracker(run, folder, **purge)
        self._guarded(self._tracker.start)
        if resumed_at is None:
            # As text, since accelerate would write hyper-parameters into a separate folder.
            text = "```json\n" + json.dumps(config, indent=2) + "\n```"
            self.log({"config": text}, 0)

    def log(self, values: Mapping[str, float | str], step: int) -> None:
        """Write numbers or texts of a step to the disk."""
        self._guarded(lambda: self._tracker.log(dict(values), step=step))

    def finish(self) -> None:
        self._guarded(self._tracker.finish)

    def _guarded(self, act: Callable[[], None]) -> None:
        if self.warning is not None:
            return
        try:
            act()
        except OSError as error:
            self.warning = f"tensorboard: its files are not complete: {error.strerror or error}"
            log.warning(self.warning)


class TrackingReporter(ForwardingReporter):
    """Passes every report on to another reporter, and numbers also to trackers.

    ``keep`` is called with a complete folder, a copy of TensorBoard's files, before each checkpoint
    and each state, so that a run resumed from there has the files as they were. ``warnings`` are
    set when the run has ended.
    """

    def __init__(self, report: Reporter, trackers: Trackers, keep: Keep | None) -> None:
        super().__init__(report)
        self._trackers, self._keep = trackers, keep
        self._copies = 0
        self.warnings: list[JobWarning] = []

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        super().metric(step, epoch, values)
        self._trackers.log(values, step)

    def checkpoint(self, directory: Path, record: CheckpointSummary) -> None:
        self.keep()
        super().checkpoint(directory, record)

    def state(self, directory: Path, step: int) -> None:
        self.keep()
        super().state(directory, step)

    def keep(self) -> None:
        """Pass a copy of TensorBoard's files as they are now to ``keep``."""
        files = self._trackers.files
        if self._keep is None or files.warning is not None:
            return
        self._copies += 1
        target = self.new_folder(f"log-{self._copies}")
        with complete_folder(target) as building:
            for path in files.folder.iterdir():
                shutil.copy(path, building)
        self._keep(target)

    def finish(self, seconds: float) -> None:
        """End the trackers, and keep TensorBoard's files."""
        self.warnings = self._trackers.finish(seconds)
        self.keep()


@contextmanager
def tracking(
    report: Reporter,
    run: str,
    spec: FinetuneSpec,
    *,
    resumed_at: int | None = None,
    keep: Keep | None = None,
) -> Iterator[TrackingReporter]:
    """Track the run called ``run`` while it lasts; its files go into a folder of the reporter.

    ``resumed_at`` is the step at which an interrupted run of this name resumes.
    """
    config = config_of(spec.model_dump(mode="json"))
    trackers = start(run, config, report.new_folder(FOLDER), resumed_at)
    reporter = TrackingReporter(report, trackers, keep)
    try:
        yield reporter
    except BaseException:
        reporter.finish(BROKEN_OFF_SECONDS)
        raise
    reporter.finish(FINISH_SECONDS)
