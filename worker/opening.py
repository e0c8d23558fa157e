"""What a job works on, opened from the supervisor's message: model, data, device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import transformers

from surgery import __version__
from surgery.data import TaskData, open_data
from surgery.dataset_spec import HubDataset
from surgery.errors import DatasetInvalid, ModelNotFound
from surgery.loading import LoadedModel, load_model
from surgery.models import ModelSource, resolve_model
from surgery.references import materialise, resolve_dataset
from surgery.schema import DatasetReport
from surgery.sources import Sources
from surgery.spec import RankingOptions
from surgery.tasks import metrics_for

Json = dict[str, Any]


def versions() -> Json:
    """What computed a result."""
    return {
        "surgery": __version__, "torch": torch.__version__,
        "transformers": transformers.__version__,
    }  # fmt: skip


def device() -> torch.device:
    """The GPU where there is one, of several processes each its own."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def sources_of(message: Json) -> Sources:
    """Where models and datasets come from."""
    given = message["sources"]
    return Sources(
        mirrors=tuple(Path(path) for path in given["mirrors"]),
        cache=Path(given["cache"]),
        offline=given["offline"],
        token=os.environ.get("HF_TOKEN"),
    )


def model_of(message: Json, sources: Sources) -> ModelSource:
    """Exactly the model that was resolved when the job was submitted."""
    pinned = message["resolved"]["model"]
    revision = f"@{pinned['revision']}" if pinned["revision"] else ""
    source = resolve_model(pinned["id"] + revision, sources)
    if source.fingerprint != pinned["fingerprint"]:
        raise ModelNotFound(
            f"{pinned['id']} changed since the job was submitted, or this worker's mirror holds "
            "another copy; submit again"
        )
    return source


def data_of(message: Json, sources: Sources) -> TaskData:
    """Exactly the dataset of the submission: an upload laid ready, or a reference to load."""
    if message["dataset_folder"]:
        folder = Path(message["dataset_folder"])
        report = DatasetReport.model_validate_json((folder / "report.json").read_text())
        metrics = metrics_for(report.problem, report.labels)
        return open_data(folder, report, metrics, sources.tokens)
    reference, pinned = message["spec"]["dataset"], message["resolved"]["dataset"]
    if isinstance(reference, dict):
        reference = HubDataset.model_validate(reference)
    source = resolve_dataset(reference, sources, pinned["revision"])
    if source.fingerprint != pinned["fingerprint"]:
        raise DatasetInvalid(
            f"{source.id} changed since the job was submitted, or this worker's mirror holds "
            "another copy; submit again"
        )
    folder, report = materialise(source, sources)
    metrics = source.metrics or metrics_for(report.problem, report.labels)
    return open_data(folder, report, metrics, sources.tokens)


def learned(data: TaskData) -> Json:
    """What a job adds to ``resolved`` once its data are open."""
    rows = {"train": len(data.train), "validation": len(data.validation)}
    return {"versions": versions(), "rows": rows, "labels": data.labels[:1000]}


def load_to_rank(
    message: Json, sources: Sources, data: TaskData, options: RankingOptions
) -> LoadedModel:
    """The model, with the head that a ranking asks for."""
    source = model_of(message, sources)
    return load_model(
        source, sources, data, seed=options.seed, head=options.head.init, device=device()
    )
