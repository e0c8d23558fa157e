"""A run's metrics in TensorBoard's files, and at the services that the environment sets up."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import TensorBoardTracker

from surgery.tracker_services import FINISH_SECONDS, Services, flattened

log = logging.getLogger("surgeon.trackers")
FOLDER = "tensorboard"


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
    run: str, config: Mapping[str, Any], folder: Path, resumed_at: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Trackers:  # fmt: skip
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
