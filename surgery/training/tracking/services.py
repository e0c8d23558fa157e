"""Send a run's metrics to MLflow and Weights & Biases, each on a separate thread."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from surgery.schemas import JobWarning

log = logging.getLogger("surgeon.trackers")
Values = dict[str, float]
PROJECT = "layer-surgeon"  # unless MLFLOW_EXPERIMENT_NAME or WANDB_PROJECT is set
INCOMPLETE = "tracker_incomplete"
FINISH_SECONDS = 30.0  # for sending what is not sent yet at the end; importing mlflow takes 5
BROKEN_OFF_SECONDS = 2.0  # the same for a run that was stopped or failed
TAG = "layer_surgeon.run"
LABELS = {"name", "metadata", "priority"}  # fields of a submission that do not affect the run
MLFLOW_BATCH = 100  # parameters in one request
MLFLOW_CHARACTERS = 500  # the longest parameter value that every MLflow server takes
ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"  # an error code of MLflow


class TrackedRun(Protocol):
    """A run at a service."""

    def begin(self, config: Mapping[str, Any]) -> None:
        """Record the options of the run."""

    def log(self, values: Values, step: int) -> None:
        """Record numbers measured at a step."""

    def end(self) -> None:
        """Send what is not sent yet, and mark the run as finished."""


class TrackerService:
    """A run at a service, sent by a thread that is only waited for at the end."""

    def __init__(
        self, name: str, make: Callable[[], TrackedRun], config: Mapping[str, Any]
    ) -> None:
        self._name, self._make, self._config = name, make, dict(config)
        self._waiting: queue.SimpleQueue[tuple[Values, int] | None] = queue.SimpleQueue()
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def log(self, values: Values, step: int) -> None:
        """Have the thread send numbers measured at a step."""
        self._waiting.put((values, step))

    def end(self) -> None:
        """Have the thread end the run when everything is sent."""
        self._waiting.put(None)

    def ended(self, seconds: float) -> str | None:
        """Wait for the thread; returns a warning, without secrets, if something went wrong."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            return f"{self._name} did not take all metrics within {seconds:g} s; the run has them"
        if self._failure is not None:
            return f"{self._name} {self._failure}; the run has its metrics all the same"
        return None

    def _serve(self) -> None:
        try:
            run = self._make()
            run.begin(self._config)
            while (entry := self._waiting.get()) is not None:
                run.log(*entry)
            run.end()
        except ModuleNotFoundError:
            self._failure = (
                f"is not installed on the worker: pip install layer-surgeon[{self._name}]"
            )
        except Exception as error:  # noqa: BLE001  # a service's client may raise anything
            # Only its type is told: the message may contain an address with a password.
            self._failure = f"failed with {type(error).__name__}"
        if self._failure:
            log.warning("%s %s", self._name, self._failure)


class TrackerServices:
    """All services that one run's metrics go to."""

    def __init__(self, services: list[TrackerService]) -> None:
        self._services = services

    @classmethod
    def begin(
        cls, run: str, config: Mapping[str, Any], environment: Mapping[str, str] = os.environ
    ) -> TrackerServices:
        """Begin the run at the services that the environment sets up.

        MLflow is used if MLFLOW_TRACKING_URI is set, and Weights & Biases if WANDB_API_KEY is set
        or WANDB_MODE is offline. ``config`` must not contain secrets.
        """
        flat, services = flattened(config), []
        if environment.get("MLFLOW_TRACKING_URI"):
            services.append(TrackerService("mlflow", lambda: MLflowRun(run), flat))
        if environment.get("WANDB_API_KEY") or environment.get("WANDB_MODE") == "offline":
            project = environment.get("WANDB_PROJECT", PROJECT)
            services.append(TrackerService("wandb", lambda: WandbRun(project, run), flat))
        return cls(services)

    def log(self, values: Mapping[str, float | None], step: int) -> None:
        """Send numbers measured at a step; undefined ones are left out."""
        known = {name: float(value) for name, value in values.items() if value is not None}
        for service in self._services:
            service.log(known, step)

    def finish(self, seconds: float = FINISH_SECONDS) -> list[JobWarning]:
        """End the run at every service; returns a warning for each that did not take everything."""
        for service in self._services:
            service.end()
        told = [service.ended(seconds) for service in self._services]
        return [JobWarning(code=INCOMPLETE, message=text) for text in told if text]


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as one mapping with dotted names, which trackers need."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, bool | int | float | str):
            flat[prefix + name] = value
        else:
            flat[prefix + name] = json.dumps(value)
    return flat


class MLflowRun:
    """A run at MLflow: the one that an earlier attempt began, or a new one."""

    def __init__(self, run: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        place, earlier = run_of(self._client, run)
        if earlier is not None:
            self._id = earlier
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = _create_run(self._client, place, run)

    def begin(self, config: Mapping[str, Any]) -> None:
        """Record the options as parameters; a value that is too long is cut."""
        from mlflow.entities import Param

        whole = [Param(name, str(value)[:MLFLOW_CHARACTERS]) for name, value in config.items()]
        for start in range(0, len(whole), MLFLOW_BATCH):
            self._client.log_batch(self._id, params=whole[start : start + MLFLOW_BATCH])

    def log(self, values: Values, step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self) -> None:
        self._client.set_terminated(self._id)


def run_of(client: Any, run: str) -> tuple[str, str | None]:
    """The id of the experiment at MLflow, which is made if need be, and that of the run in it.

    The latter is None if the run was never begun there. ``client`` is an MlflowClient.
    """
    place = _experiment_of(client, os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
    earlier = client.search_runs([place], f"tags.`{TAG}` = '{run}'")
    return place, earlier[0].info.run_id if earlier else None


def _experiment_of(client: Any, name: str) -> str:
    """The id of an experiment, which is made if need be, also by several jobs at once."""
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:
            if error.error_code != ALREADY_EXISTS:
                raise
            known = client.get_experiment_by_name(name)
    return str(known.experiment_id)


def _create_run(client: Any, place: str, run: str) -> str:
    return str(client.create_run(place, tags={TAG: run}, run_name=run).info.run_id)


def start_run(client: Any, run: str) -> str:
    """The id of a new run, without metrics and ended, for what belongs to one that was not told."""
    begun = _create_run(client, run_of(client, run)[0], run)
    client.set_terminated(begun)
    return begun


class WandbRun:
    """A run at Weights & Biases: the one that an earlier attempt began, or a new one."""

    def __init__(self, project: str, run: str) -> None:
        import wandb

        # Only numbers are sent: neither code, nor the console, nor the machine's state.
        quiet = wandb.Settings(
            console="off", silent=True, save_code=False, disable_git=True, x_disable_stats=True
        )
        self._run = wandb.init(project=project, id=run, name=run, resume="allow", settings=quiet)

    def begin(self, config: Mapping[str, Any]) -> None:
        self._run.config.update(dict(config), allow_val_change=True)

    def log(self, values: Values, step: int) -> None:
        self._run.log(values, step=step)

    def end(self) -> None:
        self._run.finish()


def config_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a submission that trackers record, without its name and metadata."""
    return {name: value for name, value in spec.items() if name not in LABELS}
