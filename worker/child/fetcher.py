"""The process that lays a job's model and data ready: ``python -m worker.child.fetcher PARENT``.

It alone knows the Hub's token and reaches the network and the mirrors. It runs no model and no
tokenizer, and never imports torch. The process that runs the job finds checked copies.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from surgery.data.presets.tasks import metrics_for
from surgery.data.references import materialise, resolve_dataset, resolve_measured
from surgery.errors import DatasetInvalid, ModelNotFound
from surgery.io.sources import Sources
from surgery.models.source.copy import checked_copy
from surgery.models.source.resolve import ModelSource, resolve_model
from surgery.schemas.dataset import HubDataset
from surgery.schemas.resolved import Pinned, Resolved, ResolvedModel
from worker.child.process import Child, internal_problem, open_channel
from worker.protocol import JobReporter

Json = dict[str, Any]


def sources_of(message: Json) -> Sources:
    """Where models and datasets come from."""
    given = message["sources"]
    return Sources(
        mirrors=tuple(Path(path) for path in given["mirrors"]),
        cache=Path(given["cache"]),
        offline=given["offline"],
        token=os.environ.get("HF_TOKEN"),
        endpoint=os.environ.get("HF_ENDPOINT"),
    )


def fetch(message: Json, report: JobReporter) -> tuple[Json, Json]:
    """The model, the dataset and the further presets of a job, each as a folder in the cache."""
    report.phase("fetch")
    sources = sources_of(message)
    resolved = Resolved.of(message["resolved"])
    source = pinned_model(resolved.model, sources)
    checked_copy(source, sources)
    model = asdict(replace(source, directory=None, tensors={}))
    # An upload is not looked for: the supervisor has it.
    dataset = None
    if resolved.dataset.path is None:
        dataset = fetch_dataset(message["spec"]["dataset"], resolved.dataset, sources)
    also = [fetch_measured(pin, sources) for pin in resolved.also_evaluate]
    return {"model": model, "dataset": dataset, "also": also}, {}


def pinned_model(pinned: ResolvedModel, sources: Sources) -> ModelSource:
    """Exactly the model that was resolved when the job was submitted."""
    source = resolve_model(pinned.reference, sources)
    if source.fingerprint != pinned.fingerprint:
        raise ModelNotFound(
            f"{pinned.id} changed since the job was submitted, or this worker's mirror holds "
            "another copy; submit again"
        )
    return source


def fetch_dataset(reference: str | Json, pinned: Pinned, sources: Sources) -> Json:
    """Exactly the preset or Hub dataset of the submission, as a folder and its metrics."""
    named = reference if isinstance(reference, str) else HubDataset.model_validate(reference)
    source = resolve_dataset(named, sources, pinned.revision)
    if source.fingerprint != pinned.fingerprint:
        raise changed(source.id)
    folder, report = materialise(source, sources)
    metrics = source.metrics or metrics_for(report.problem, report.labels)
    return {"folder": str(folder), "metrics": list(metrics)}


def fetch_measured(pinned: Pinned, sources: Sources) -> Json:
    """Exactly a preset that the model is to be measured on, as `also.MeasuredSet` takes it."""
    source = resolve_measured(pinned.id, sources, pinned.revision)
    if source.fingerprint != pinned.fingerprint:
        raise changed(source.id)
    folder, _ = materialise(source, sources)
    labels = None if source.labels is None else list(source.labels)
    return {
        "id": source.id, "folder": str(folder), "metrics": list(source.metrics), "labels": labels,
    }  # fmt: skip


def changed(name: str) -> DatasetInvalid:
    """A dataset that is no longer the one of the submission."""
    return DatasetInvalid(
        f"{name} changed since the job was submitted, or this worker's mirror holds another copy; "
        "submit again"
    )


def main() -> None:
    """Serve until the supervisor ends it."""
    channel = open_channel(int(sys.argv[1]))
    Child(channel, {"ranking": fetch, "finetune": fetch}, internal_problem).serve()


if __name__ == "__main__":
    main()
