"""A run whose reports go to trackers as well."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from surgery.finetune_spec import FinetuneSpec
from surgery.folder import complete_folder
from surgery.progress import Reporter
from surgery.tracker_services import BROKEN_OFF_SECONDS, FINISH_SECONDS, config_of
from surgery.trackers import FOLDER, Trackers, start

Keep = Callable[[Path], None]


class Tracked:
    """Passes everything on to another reporter, and numbers to trackers.

    ``keep`` is handed a complete folder with a copy of TensorBoard's files before each checkpoint
    and each state, so that a run that goes on from there finds them as they were. ``warnings`` are
    there at the end.
    """

    def __init__(self, report: Reporter, trackers: Trackers, keep: Keep | None) -> None:
        self._report, self._trackers, self._keep = report, trackers, keep
        self._kept = 0
        self.warnings: list[str] = []

    def phase(self, name: str) -> None:
        """Passed on."""
        self._report.phase(name)

    def step(self, done: int, total: int | None, unit: str) -> None:
        """Passed on; raises Stopped."""
        self._report.step(done, total, unit)

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """Passed on, and told to the trackers."""
        self._report.metric(step, epoch, values)
        self._trackers.log(values, step)

    def checkpoint(self, directory: Path, record: Mapping[str, Any]) -> None:
        """Passed on, after the log so far."""
        self.keep()
        self._report.checkpoint(directory, record)

    def state(self, directory: Path, step: int) -> None:
        """Passed on, after the log so far."""
        self.keep()
        self._report.state(directory, step)

    def new_folder(self, name: str) -> Path:
        """Passed on."""
        return self._report.new_folder(name)

    def keep(self) -> None:
        """Hand over TensorBoard's files as they are now."""
        files = self._trackers.files
        if self._keep is None or files.warning is not None:
            return
        self._kept += 1
        target = self._report.new_folder(f"log-{self._kept}")
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
    report: Reporter, run: str, spec: FinetuneSpec, *, resumed_at: int | None = None,
    keep: Keep | None = None,
) -> Iterator[Tracked]:  # fmt: skip
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
