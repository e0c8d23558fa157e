"""A run's metrics in TensorBoard's files and at the services that the environment sets up."""

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
from surgery.io.reporter import ForwardingReporter, Reporter
from surgery.schemas.finetune import FinetuneSpec
from surgery.training.tracker_services import (
    BROKEN_OFF_SECONDS,
    FINISH_SECONDS,
    Services,
    config_of,
    flattened,
)

log = logging.getLogger("surgeon.trackers")
FOLDER = "tensorboard"

Keep = Callable[[Path], None]


class Trackers:
    """Everything that one run's metrics go to."""

    def __init__(self, files: EventFiles, services: Services) -> None:
        self.files, self._services = files, services

    def log(self, values: Mapping[str, float | None], step: int) -> None:
        """Numbers measured at a step; those that are undefined are left out."""
        known = {name: float(value) for name, value in values.items() if value is not None}
        self.files.log(known, step)
        self._services.log(values, step)

    def finish(self, seconds: float = FINISH_SECONDS) -> list[str]:
        """End all of them; a warning for each that did not take everything."""
        self.files.finish()
        own = [self.files.warning] if self.files.warning else []
        return own + self._services.finish(seconds)


def start(
    run: str,
    config: Mapping[str, Any],
    folder: Path,
    resumed_at: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Trackers:
    """Begin to track a run, or go on with one that had come to a step.

    TensorBoard's files go into ``folder``; `Services` says which services are used where.
    """
    PartialState()  # accelerate's tracker asks it
    files = EventFiles(run, flattened(config), folder, resumed_at)
    return Trackers(files, Services.begin(run, config, environment))


class EventFiles:
    """TensorBoard's event files: one more for each attempt at a run, all in one folder.

    An attempt that goes on from a step tells the reader to drop what came after it before.
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
            # As text: accelerate would write hyper-parameters into a folder of their own.
            text = "```json\n" + json.dumps(config, indent=2) + "\n```"
            self.log({"config": text}, 0)

    def log(self, values: Mapping[str, float | str], step: int) -> None:
        """Written through to the disk."""
        self._guarded(lambda: self._tracker.log(dict(values), step=step))

    def finish(self) -> None:
        """Close them."""
        self._guarded(self._tracker.finish)

    def _guarded(self, act: Callable[[], None]) -> None:
        if self.warning is not None:
            return
        try:
            act()
        except OSError as error:
            self.warning = f"tensorboard: its files are not complete: {error.strerror or error}"
            log.warning(self.warning)


class Tracked(ForwardingReporter):
    """Passes everything on to another reporter, and numbers to trackers.

    ``keep`` is handed a complete folder with a copy of TensorBoard's files before each checkpoint
    and each state, so that a run that goes on from there finds them as they were. ``warnings`` are
    there at the end.
    """

    def __init__(self, report: Reporter, trackers: Trackers, keep: Keep | None) -> None:
        super().__init__(report)
        self._trackers, self._keep = trackers, keep
        self._kept = 0
        self.warnings: list[str] = []

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """Passed on, and told to the trackers."""
        super().metric(step, epoch, values)
        self._trackers.log(values, step)

    def checkpoint(self, directory: Path, record: Mapping[str, Any]) -> None:
        """Passed on, after the log so far."""
        self.keep()
        super().checkpoint(directory, record)

    def state(self, directory: Path, step: int) -> None:
        """Passed on, after the log so far."""
        self.keep()
        super().state(directory, step)

    def keep(self) -> None:
        """Hand over TensorBoard's files as they are now."""
        files = self._trackers.files
        if self._keep is None or files.warning is not None:
            return
        self._kept += 1
        target = self.new_folder(f"log-{self._kept}")
        with complete_folder(target) as building:
            for path in files.folder.iterdir():
                shutil.copy(path, building)
        self._keep(target)

    def finish(self, seconds: float) -> None:
        """End the trackers."""
        self.warnings = self._trackers.finish(seconds)
        self.keep()


@contextmanager
def tracked(
    report: Reporter,
    run: str,
    spec: FinetuneSpec,
    *,
    resumed_at: int | None = None,
    keep: Keep | None = None,
) -> Iterator[Tracked]:
    """Track a run by its name for as long as it lasts; its files go under the reporter's folder.

    ``resumed_at`` is the step an interrupted run of this name goes on from.
    """
    config = config_of(spec.model_dump(mode="json"))
    reporter = Tracked(report, start(run, config, report.new_folder(FOLDER), resumed_at), keep)
    try:
        yield reporter
    except BaseException:
        reporter.finish(BROKEN_OFF_SECONDS)
        raise
    reporter.finish(FINISH_SECONDS)
