"""Opens what a job works on, as the supervisor's order describes it: model, data, device."""

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
from surgery.schemas.data.dataset import DatasetReport
from surgery.schemas.jobs.ranking import RankingOptions
from surgery.schemas.resolved import Learned
from surgery.training.speed.throughput import device_name
from worker.protocol import JobInputs, ModelInputs

Json = dict[str, Any]


def versions() -> Json:
    """The versions of the libraries that compute a result."""
    libraries = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"surgery": __version__, **libraries}


def device() -> torch.device:
    """The GPU of this process, or the CPU of a machine without GPUs."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def sources_of(inputs: ModelInputs) -> Sources:
    """The cache with the checked copies. This process has no access to mirrors or the Hub."""
    return Sources(mirrors=(), cache=inputs.cache, offline=True)


def model_of(inputs: ModelInputs) -> ModelSource:
    """The model that the fetcher put into the cache."""
    return ModelSource(**dict(inputs.model))


def data_of(inputs: JobInputs, sources: Sources) -> TaskData:
    """The job's dataset, opened."""
    folder = inputs.dataset.folder
    report = DatasetReport.model_validate_json((folder / "report.json").read_text())
    metrics = inputs.dataset.metrics or metrics_for(report.problem, report.labels)
    return open_data(folder, report, metrics, sources.tokens)


def learned(data: TaskData) -> Learned:
    """What becomes known about a job when its data are open; it is stored with the job."""
    return computed_with().model_copy(
        update={
            "rows": {"train": len(data.train), "validation": len(data.validation)},
            "labels": data.labels[:1000],
        }
    )


def computed_with() -> Learned:
    """The libraries and the device that compute a job's result."""
    return Learned(versions=versions(), device=device_facts(device()))


def device_facts(where: torch.device) -> Json:
    """The name of a device, and for a GPU the size of its memory in bytes."""
    memory = None
    if where.type == "cuda":
        memory = torch.cuda.get_device_properties(where).total_memory
    return {"name": device_name(where), "memory_bytes": memory}


def load_to_rank(
    inputs: JobInputs, sources: Sources, data: TaskData, options: RankingOptions
) -> LoadedModel:
    """The model, with the head that the options of a ranking ask for."""
    return load_model(
        model_of(inputs), sources, data, seed=options.seed, head=options.head.init, device=device()
    )
