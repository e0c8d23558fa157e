"""The other presets that a fine-tune is measured on, checked at submit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.deps import Service
from app.tables import Dataset
from surgery.errors import DatasetNotFound
from surgery.evaluation_sets import find_evaluation_sets
from surgery.finetune_spec import ComparisonSpec, FinetuneSpec
from surgery.references import resolve_dataset
from surgery.terms import Problem


def resolve_also_evaluate(
    service: Service, spec: FinetuneSpec | ComparisonSpec, dataset: dict[str, Any]
) -> dict[str, Any]:
    """How a job remembers its ``also_evaluate``; nothing where it names none.

    Raises DatasetInvalid, DatasetNotFound and UpstreamUnavailable, pointing at the preset.
    """
    if not spec.also_evaluate:
        return {}
    found = find_evaluation_sets(
        spec.also_evaluate, dataset["id"], Problem(dataset["problem"]), _labels(service, spec),
        service.settings.sources,
    )  # fmt: skip
    pinned = [
        {"id": source.id, "revision": source.revision, "fingerprint": source.fingerprint}
        for source in found
    ]
    return {"also_evaluate": pinned}


def _labels(service: Service, spec: FinetuneSpec | ComparisonSpec) -> Sequence[str] | None:
    if isinstance(spec.dataset, str) and spec.dataset.startswith("ds_"):
        with service.database.read() as session:
            row = session.get(Dataset, spec.dataset)
        if row is None:
            raise DatasetNotFound(f"dataset {spec.dataset!r} was deleted meanwhile")
        labels: list[str] = row.report["labels"]
        return labels
    return resolve_dataset(spec.dataset, service.settings.sources).labels
