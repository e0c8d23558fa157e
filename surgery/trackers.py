"""A run's metrics in TensorBoard's files, and in MLflow and Weights & Biases where they are set up.

All three through accelerate's trackers. The files are a run's own; the services are other people's
machines: each is spoken to on a thread of its own, and one that fails or does not answer costs a
warning and a few seconds, never the run.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import (
    GeneralTracker,
    MLflowTracker,
    TensorBoardTracker,
    WandBTracker,
)

log = logging.getLogger("surgeon.trackers")
Values = dict[str, float]
PROJECT = "layer-surgeon"  # MLFLOW_EXPERIMENT_NAME and WANDB_PROJECT go before it
FINISH_SECONDS = 30.0  # for a service to take what it was not given yet; importing mlflow takes 5
FOLDER = "tensorboard"
TAG = "layer_surgeon.run"


class Trackers:
    """Everything that one run's metrics go to."""

    def __init__(self, files: EventFiles, services: list[Service]) -> None:
        self.files, self._services = files, services

    def log(self, values: Mapping[str, float | None], step: int) -> None:
        """Numbers measured at a step; those that are undefined are left out."""
        known = {name: float(value) for name, value in values.items() if value is not None}
        self.files.log(known, step)
        for service in self._services:
            service.log(known, step)

    def finish(self, seconds: float = FINISH_SECONDS) -> list[str]:
        """End all of them; a warning for each that did not take everything."""
        self.files.finish()
        for service in self._services:
            service.end()
        found = [self.files.warning, *(service.ended(seconds) for service in self._services)]
        return [warning for warning in found if warning]


def start(
    run: str, config: Mapping[str, Any], folder: Path, resumed_at: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Trackers:  # fmt: skip
    """Begin to track a run, or go on with one that had come to a step.

    TensorBoard's files go into ``folder``. MLflow is used where MLFLOW_TRACKING_URI is set, Weights
    & Biases where WANDB_API_KEY is, or WANDB_MODE is offline. ``config`` holds no secrets.
    """
    PartialState()  # accelerate's trackers ask it, from whatever thread
    flat = _flat(config)
    files = EventFiles(run, flat, folder, resumed_at)
    services = []
    if environment.get("MLFLOW_TRACKING_URI"):
        services.append(Service("mlflow", lambda: _mlflow(run), flat))
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_MODE") == "offline":
        project = environment.get("WANDB_PROJECT", PROJECT)
        services.append(Service("wandb", lambda: _wandb(project, run), flat))
    return Trackers(files, services)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level deep, as trackers take it."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, bool | int | float | str):
            found[prefix + name] = value
        else:
            found[prefix + name] = json.dumps(value)
    return found


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


class Service:
    """A tracker on a thread of its own, which nobody waits for but at the end."""

    def __init__(
        self, name: str, make: Callable[[], GeneralTracker], config: Mapping[str, Any]
    ) -> None:
        self._name, self._make, self._config = name, make, dict(config)
        self._waiting: queue.SimpleQueue[tuple[Values, int] | None] = queue.SimpleQueue()
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def log(self, values: Values, step: int) -> None:
        """Soon."""
        self._waiting.put((values, step))

    def end(self) -> None:
        """Nothing more will come."""
        self._waiting.put(None)

    def ended(self, seconds: float) -> str | None:
        """Wait so long for the thread; what went wrong, in words that hold no secret."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            return f"{self._name} did not take all metrics within {seconds:g} s; the run has them"
        if self._failure is not None:
            return f"{self._name} {self._failure}; the run has its metrics all the same"
        return None

    def _serve(self) -> None:
        try:
            tracker = self._make()
            tracker.start()
            tracker.store_init_configuration(self._config)
            while (entry := self._waiting.get()) is not None:
                tracker.log(entry[0], step=entry[1])
            tracker.finish()
        except ModuleNotFoundError:
            self._failure = (
                f"is not installed on the worker: pip install layer-surgeon[{self._name}]"
            )
        except Exception as error:  # noqa: BLE001  # whatever another's client raises
            # Its type alone: the message may hold an address with a password.
            self._failure = f"failed with {type(error).__name__}"
        if self._failure:
            log.warning("%s %s", self._name, self._failure)


def _mlflow(run: str) -> GeneralTracker:
    """The run that an earlier attempt began, or a new one."""
    import mlflow

    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    known = mlflow.get_experiment_by_name(experiment)
    found = (
        mlflow.MlflowClient().search_runs([known.experiment_id], f"tags.`{TAG}` = '{run}'")
        if known
        else []
    )
    return MLflowTracker(
        experiment_name=experiment, run_name=run, tags={TAG: run},
        run_id=found[0].info.run_id if found else None,
    )  # fmt: skip


def _wandb(project: str, run: str) -> GeneralTracker:
    import wandb

    # Numbers only: neither code, nor the console, nor the machine's state.
    quiet = wandb.Settings(
        console="off", silent=True, save_code=False, disable_git=True, x_disable_stats=True
    )
    return WandBTracker(project, id=run, name=run, resume="allow", settings=quiet)
