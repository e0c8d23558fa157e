"""What a job works on, opened from the supervisor's order: model, data, device."""

from __future__ import annotations

import os
from typing import Any

import torch
import transformers

from surgery import __version__
from surgery.data.presets.tasks import metrics_for
from surgery.data.tokens.dataset import TaskData, open_data
from surgery.io.sources import Sources
from surgery.models.loading import LoadedModel, load_model
from surgery.models.source.resolve import ModelSource
from surgery.schemas.dataset import DatasetReport
from surgery.schemas.ranking import RankingOptions
from surgery.schemas.resolved import Learned
from surgery.training.throughput import device_name
from worker.protocol import JobInputs

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


def sources_of(inputs: JobInputs) -> Sources:
    """Where the checked copies lie; this process reaches neither mirrors nor the Hub."""
    return Sources(mirrors=(), cache=inputs.cache, offline=True)


def model_of(inputs: JobInputs) -> ModelSource:
    """The model that was laid ready."""
    return ModelSource(**dict(inputs.model))


def data_of(inputs: JobInputs, sources: Sources) -> TaskData:
    """The dataset that was laid ready."""
    folder = inputs.dataset.folder
    report = DatasetReport.model_validate_json((folder / "report.json").read_text())
    metrics = inputs.dataset.metrics or metrics_for(report.problem, report.labels)
    return open_data(folder, report, metrics, sources.tokens)


def learned(data: TaskData) -> Learned:
    """What a job adds to what it remembers once its data are open."""
    return Learned(
        versions=versions(),
        device=described(device()),
        rows={"train": len(data.train), "validation": len(data.validation)},
        labels=data.labels[:1000],
    )


def described(where: torch.device) -> Json:
    """The device by its name, with its memory where that is its own."""
    memory = None
    if where.type == "cuda":
        memory = torch.cuda.get_device_properties(where).total_memory
    return {"name": device_name(where), "memory_bytes": memory}


def load_to_rank(
    inputs: JobInputs, sources: Sources, data: TaskData, options: RankingOptions
) -> LoadedModel:
    """The model, with the head that a ranking asks for."""
    return load_model(
        model_of(inputs), sources, data, seed=options.seed, head=options.head.init, device=device()
    )
