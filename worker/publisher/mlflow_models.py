"""Registers a model at MLflow, on the run of the fine-tune that trained it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from surgery.checkpoints.card import HEAD_USAGE
from surgery.checkpoints.merge import RECORD
from surgery.checkpoints.rows import columns_of
from surgery.data.presets.tasks import TASKS
from surgery.errors import DestinationUnavailable, ExportRefused
from surgery.io.digests import sha256_of
from surgery.io.folders import link_files
from surgery.schemas.enums import Problem
from surgery.training.tracking.services import ALREADY_EXISTS, run_of, start_run
from worker.protocol import Published, PublishOrder

Json = dict[str, Any]
MODULE = "layer_surgeon_predictor"  # under which models import the predictor
SETTINGS = "predictor.json"  # as the predictor calls it
OWN = "layer_surgeon."  # begins the names of this service's own tags
DIGEST, PREDICTOR = f"{OWN}digest", f"{OWN}predictor"
PACKAGES = ("torch", "transformers", "safetensors", "pandas", "numpy")
RETRIABLE = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "DEADLINE_EXCEEDED",
    "ABORTED",
}
TAG_NAME = re.compile(r"[^A-Za-z0-9_. /:-]")
TAG_CHARACTERS = 250, 5000  # the longest name and value that every MLflow server takes


def to_mlflow(order: PublishOrder) -> Published:
    """Register the order's folder under its target, unless a version has this very content.

    The version appears in one step, when all of its files are stored. Raises ExportRefused and
    DestinationUnavailable.
    """
    with mlflow_errors():
        from mlflow import MlflowClient

        client = MlflowClient()
        name, code = order.spec["target"], sha256_of(predictor_file())[:12]
        found = _version_of(client, name, order.digest, code)
        if found is not None:
            return _published(found, created=False)
        saved = order.scratch / "mlflow"
        save_model(order.folder, saved)
        run = run_of(client, order.about.job)[1] or start_run(client, order.about.job)
        place = f"exports/{order.digest.rpartition(':')[2][:12]}"
        client.log_artifacts(run, str(saved), place)
        _register(client, name)
        made = client.create_model_version(
            name,
            source=f"runs:/{run}/{place}",
            run_id=run,
            tags=_tags(order, code),
            description=_description(order),
        )
        # Another export of the same content may have registered it since we looked.
        first = _version_of(client, name, order.digest, code)
        if first is None or first.version == made.version:
            return _published(made, created=True)
        client.delete_model_version(name, made.version)
        return _published(first, created=False)


def predictor_file() -> Path:
    """The module that predicts. It is not imported, as it needs torch."""
    found = find_spec("surgery.checkpoints.predictor")
    assert found is not None, "it is a part of this package"
    return Path(str(found.origin))


def _version_of(client: Any, name: str, digest: str, code: str) -> Any:
    """The oldest version of a model with this content, if there is one."""
    asked = f"name = '{name}' and tags.`{DIGEST}` = '{digest}' and tags.`{PREDICTOR}` = '{code}'"
    versions = [each for each in client.search_model_versions(asked) if each.status == "READY"]
    return min(versions, key=lambda each: int(each.version), default=None)


def _register(client: Any, name: str) -> None:
    """Make the registered model, unless there is one."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != ALREADY_EXISTS:
            raise


def _published(found: Any, *, created: bool) -> Published:
    return Published(
        location=f"models:/{found.name}/{found.version}",
        version=str(found.version),
        created=created,
    )


def _tags(order: PublishOrder, code: str) -> dict[str, str]:
    """The labels of the jobs, and this service's own tags, which come last and stay as they are."""
    about = order.about
    own = {
        DIGEST: order.digest,
        PREDICTOR: code,
        f"{OWN}checkpoint": order.spec["checkpoint"],
        f"{OWN}job": about.job,
        f"{OWN}export": about.export,
    }
    named = {f"{OWN}name": about.name} if about.name else {}
    length, most = TAG_CHARACTERS
    labels = {
        TAG_NAME.sub("_", key)[:length]: value[:most]
        for key, value in about.metadata.items()
        if not key.startswith("mlflow.")
    }
    return {**labels, **named, **own}


def _description(order: PublishOrder) -> str:
    return f"Checkpoint {order.spec['checkpoint']} of {order.about.job}, by Layer Surgeon."


def save_model(folder: Path, target: Path) -> None:
    """Write a full folder as a model that `mlflow.pyfunc` loads, with its signature."""
    import mlflow.pyfunc

    record = json.loads((folder / RECORD).read_text())
    settings = settings_of(record)
    data, code = target.with_name("model"), target.with_name(f"{MODULE}.py")
    data.mkdir(parents=True)
    link_files(folder, data)
    (data / SETTINGS).write_text(json.dumps(settings, indent=1))
    code.write_bytes(predictor_file().read_bytes())
    mlflow.pyfunc.save_model(
        str(target),
        loader_module=MODULE,
        data_path=str(data),
        code_paths=[str(code)],
        signature=signature_of(settings),
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES],
    )


def settings_of(record: Mapping[str, Any]) -> Json:
    """What the predictor needs to know of a checkpoint with this record."""
    problem = Problem(record["problem"])
    columns = columns_of(record).model_dump(exclude_none=True, exclude={"label"})
    task = TASKS.get(record["dataset"].get("name", ""))
    return {
        "problem": problem.value,
        "labels": record["labels"],
        "columns": columns,
        "max_length": record["max_length"],
        "thresholds": record.get("thresholds") or {},
        "questions": dict(task.questions) if task else {},
        "auto_class": HEAD_USAGE[problem].auto_class,
    }


def signature_of(settings: Json) -> Any:
    """The columns that the predictor reads and those that it answers."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    text, number = DataType.string, DataType.double
    texts, numbers = Array(text), Array(number)
    inputs: list[Any] = []
    for part, named in settings["columns"].items():
        several = part == "tokens" or (part == "choices" and isinstance(named, str))
        names = named if isinstance(named, list) else [named]
        inputs += [ColSpec(texts if several else text, name) for name in names]
    one: list[Any] = [ColSpec(text, "label"), ColSpec(number, "probability")]
    outputs: list[Any] = {
        Problem.REGRESSION: [ColSpec(number, "value")],
        Problem.MULTI_LABEL: [ColSpec(texts, "labels"), ColSpec(numbers, "probabilities")],
        Problem.TOKEN_CLASSIFICATION: [ColSpec(texts, "labels"), ColSpec(numbers, "probabilities")],
    }.get(Problem(settings["problem"]), [*one, ColSpec(numbers, "probabilities")])
    return ModelSignature(Schema(inputs), Schema(outputs))


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turn what MLflow's client raises into this package's errors, without its words.

    They may contain an address with a password.
    """
    try:
        from mlflow.exceptions import MlflowException
    except ModuleNotFoundError:
        raise ExportRefused(
            "MLflow is not installed on the worker: pip install layer-surgeon[mlflow]"
        ) from None
    try:
        yield
    except MlflowException as error:
        told = f"MLflow answered {error.error_code}"
        if error.error_code in RETRIABLE:
            raise DestinationUnavailable(f"{told}; try again") from None
        raise ExportRefused(told) from None
