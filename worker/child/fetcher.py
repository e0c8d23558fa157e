"""The process that fetches a job's model and data: ``python -m worker.child.fetcher PARENT``.

It alone has the Hub's token and access to the network and the mirrors. It runs no model and no
tokenizer, and never imports torch. It leaves checked copies for the process that runs the job.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from surgery.data.presets.tasks import metrics_for
from surgery.data.references import materialise, resolve_dataset, resolve_evaluation
from surgery.errors import DatasetInvalid, ModelNotFound
from surgery.io.sources import Sources
from surgery.models.source.copy import checked_copy
from surgery.models.source.resolve import ModelSource, resolve_model
from surgery.schemas.data.dataset import HubDataset
from surgery.schemas.resolved import Pinned, ResolvedModel
from worker.child.process import Child, internal_error, open_channel
from worker.protocol import (
    FETCHER_ORDERS,
    Fetched,
    FetchedDataset,
    FetchedModel,
    FetchedPreset,
    FetchOrder,
    JobReporter,
)

Json = dict[str, Any]


def sources_of(order: FetchOrder) -> Sources:
    """Where models and datasets come from."""
    return Sources(
        mirrors=order.mirrors,
        cache=order.cache,
        offline=order.offline,
        token=os.environ.get("HF_TOKEN"),
        endpoint=os.environ.get("HF_ENDPOINT"),
    )


def fetch(order: FetchOrder, report: JobReporter) -> Fetched:
    """Put the model, the dataset and the further presets of a job into the cache."""
    report.phase("fetch")
    sources, resolved = sources_of(order), order.resolved
    source = pinned_model(resolved.model, sources)
    checked_copy(source, sources)
    # An upload is in the supervisor's storage.
    dataset = None
    if order.reads_dataset and resolved.dataset.path is None:
        dataset = fetch_dataset(order.spec["dataset"], resolved.dataset, sources)
    also = [fetch_measured(pin, sources) for pin in resolved.also_evaluate]
    model = FetchedModel.model_validate(source, from_attributes=True)
    return Fetched(model=model, dataset=dataset, also=tuple(also))


def pinned_model(pinned: ResolvedModel, sources: Sources) -> ModelSource:
    """The very model that was resolved when the job was submitted. Raises ModelNotFound."""
    source = resolve_model(pinned.reference, sources)
    if source.fingerprint != pinned.fingerprint:
        raise ModelNotFound(
            f"{pinned.id} changed since the job was submitted, or this worker's mirror holds "
            "another copy; submit again"
        )
    return source


def fetch_dataset(reference: str | Json, pinned: Pinned, sources: Sources) -> FetchedDataset:
    """The very preset or Hub dataset that the job was submitted with. Raises DatasetInvalid."""
    named = reference if isinstance(reference, str) else HubDataset.model_validate(reference)
    source = resolve_dataset(named, sources, pinned.revision)
    if source.fingerprint != pinned.fingerprint:
        raise changed(source.id)
    folder, report = materialise(source, sources)
    metrics = source.metrics or metrics_for(report.problem, report.labels)
    return FetchedDataset(folder=folder, metrics=tuple(metrics))


def fetch_measured(pinned: Pinned, sources: Sources) -> FetchedPreset:
    """A preset that the model will be measured on. Raises DatasetInvalid."""
    source = resolve_evaluation(pinned.id, sources, pinned.revision)
    if source.fingerprint != pinned.fingerprint:
        raise changed(source.id)
    folder, _ = materialise(source, sources)
    return FetchedPreset(id=source.id, folder=folder, metrics=source.metrics, labels=source.labels)


def changed(name: str) -> DatasetInvalid:
    """The error for a dataset that changed after the submission."""
    return DatasetInvalid(
        f"{name} changed since the job was submitted, or this worker's mirror holds another copy; "
        "submit again"
    )


def main() -> None:
    """Fetch for one job after the other until the supervisor ends this process."""
    channel = open_channel(int(sys.argv[1]))
    Child(channel, FETCHER_ORDERS, fetch, lambda error, _: internal_error(error)).serve()


if __name__ == "__main__":
    main()
