"""One function a kind of job: from the supervisor's message to the science and back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers

from surgery import __version__
from surgery.adapters import count_trainable
from surgery.also import open_evaluation_sets
from surgery.continuation import begin_with
from surgery.data import EvaluationSet, TaskData, open_data
from surgery.dataset_spec import HubDataset
from surgery.errors import DatasetInvalid, ModelNotFound
from surgery.finetune_spec import FinetuneSpec
from surgery.loading import LoadedModel, load_model
from surgery.models import ModelSource, resolve_model
from surgery.policies import choose_layers, granularity_of, ranking_options, resolved_choice
from surgery.progress import Reporter
from surgery.ranking import rank_layers
from surgery.references import materialise, resolve_dataset, resolve_measured
from surgery.results import RankingResult
from surgery.schema import DatasetReport
from surgery.selection import (
    included_parameters,
    layers_of_model,
    named_layers,
)
from surgery.sources import Sources
from surgery.spec import RankingOptions, RankingSpec
from surgery.state import saved_step
from surgery.tasks import metrics_for
from surgery.terms import Granularity
from surgery.tracked import tracked
from surgery.training import finetune
from surgery.units import Unit

Json = dict[str, Any]


class JobReporter(Reporter, Protocol):
    """A reporter that also carries a runner's own messages."""

    def tell(self, kind: str, **data: Any) -> None:
        """A message to the supervisor."""


def versions() -> Json:
    """What computed a result."""
    return {
        "surgery": __version__, "torch": torch.__version__,
        "transformers": transformers.__version__,
    }  # fmt: skip


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _sources(message: Json) -> Sources:
    given = message["sources"]
    return Sources(
        mirrors=tuple(Path(path) for path in given["mirrors"]),
        cache=Path(given["cache"]),
        offline=given["offline"],
        token=os.environ.get("HF_TOKEN"),
    )


def _model(message: Json, sources: Sources) -> ModelSource:
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


def _data(message: Json, sources: Sources) -> TaskData:
    """The dataset: an upload the supervisor laid ready, or a reference to load."""
    if message["dataset_folder"]:
        folder = Path(message["dataset_folder"])
        report = DatasetReport.model_validate_json((folder / "report.json").read_text())
        metrics = metrics_for(report.problem, report.labels)
        return open_data(folder, report, metrics, sources.tokens)
    reference = message["spec"]["dataset"]
    if isinstance(reference, dict):
        pinned = {"revision": message["resolved"]["dataset"]["revision"]}
        reference = HubDataset.model_validate({**reference, **pinned})
    source = resolve_dataset(reference, sources)
    folder, report = materialise(source, sources)
    metrics = source.metrics or metrics_for(report.problem, report.labels)
    return open_data(folder, report, metrics, sources.tokens)


def run_ranking(message: Json, report: JobReporter) -> tuple[Json, Json]:
    """Rank; the result and what it adds to ``resolved``."""
    spec = RankingSpec.model_validate(message["spec"])
    sources = _sources(message)
    report.phase("load")
    began = time.perf_counter()
    data = _data(message, sources)
    loaded = _load(message, sources, data, spec)
    spent = time.perf_counter() - began
    result = rank_layers(loaded, data, spec, report)
    result.seconds = {"load": round(spent, 3), **result.seconds}
    return result.model_dump(mode="json"), _learned(data)


def _learned(data: TaskData) -> Json:
    rows = {"train": len(data.train), "validation": len(data.validation)}
    return {"versions": versions(), "rows": rows, "labels": data.labels[:1000]}


def _load(message: Json, sources: Sources, data: TaskData, options: RankingOptions) -> LoadedModel:
    source = _model(message, sources)
    return load_model(
        source, sources, data, seed=options.seed, head=options.head.init, device=device()
    )


def run_finetune(message: Json, report: JobReporter) -> tuple[Json, Json]:
    """Rank first where the selection needs it, then train."""
    spec = FinetuneSpec.model_validate(message["spec"])
    sources = _sources(message)
    report.phase("load")
    began = time.perf_counter()
    data = _data(message, sources)
    chosen = message["resolved"]
    if "layers" not in chosen:
        chosen = _rank_first(message, sources, data, spec, report)
        report.phase("load")
    # A model of its own: the ranking warmed up its head.
    loaded = load_model(
        _model(message, sources), sources, data, seed=spec.training.seed, device=device()
    )
    if message["continue_folder"]:
        begin_with(loaded, data, Path(message["continue_folder"]))
    layers = named_layers(loaded, chosen["layers"], Granularity(chosen["granularity"]))
    _tell_selected(loaded, layers, spec, report)
    data = replace(data, also=_also(message, sources, data, loaded, spec))
    loading = time.perf_counter() - began
    resume = Path(message["state_folder"]) if message["state_folder"] else None
    with tracked(
        report, message["id"], spec, resumed_at=saved_step(resume) if resume else None,
        keep=lambda folder: report.tell("log", path=str(folder)),
    ) as reporter:  # fmt: skip
        result = finetune(loaded, data, spec, layers, reporter, resume, chosen.get("scores"))
    result.warnings += reporter.warnings
    result.seconds = {"load": round(loading, 3), **result.seconds}
    return result.model_dump(mode="json"), _learned(data)


def _also(
    message: Json, sources: Sources, data: TaskData, loaded: LoadedModel, spec: FinetuneSpec
) -> tuple[EvaluationSet, ...]:
    """Exactly the presets to measure on that were resolved when the job was submitted."""
    found = []
    for pinned in message["resolved"].get("also_evaluate", []):
        source = resolve_measured(pinned["id"], sources, pinned["revision"])
        if source.fingerprint != pinned["fingerprint"]:
            raise DatasetInvalid(
                f"{source.id} changed since the job was submitted, or this worker's mirror holds "
                "another copy; submit again"
            )
        found.append(source)
    length = spec.training.max_length
    return open_evaluation_sets(found, data.labels, loaded.tokenizer, length, sources)


def _rank_first(
    message: Json, sources: Sources, data: TaskData, spec: FinetuneSpec, report: JobReporter
) -> Json:
    """Choose by the ranking that was waited for, else by one computed now and handed over."""
    selection, options = spec.selection, ranking_options(spec.selection)
    loaded = _load(message, sources, data, options)
    given = message["ranking"]
    if given is None:
        result = rank_layers(loaded, data, options, report)
    else:
        result = RankingResult.model_validate(given)
    granularity = granularity_of(selection, result)
    included = sum(p.numel() for p in included_parameters(loaded, selection.include))
    chosen = choose_layers(selection, layers_of_model(loaded, granularity), result, included)
    selected = resolved_choice(chosen, granularity, result, included)
    if given is not None:
        report.tell("selected", **selected)
        return selected
    report.tell(
        "ranking",
        options=options.model_dump(mode="json"),
        result=result.model_dump(mode="json"),
        selected=selected,
    )
    return selected


def _tell_selected(
    loaded: LoadedModel, layers: Sequence[Unit], spec: FinetuneSpec, report: JobReporter
) -> None:
    """How much trains, the head among it, before the first step."""
    report.tell("selected", trainable_parameters=count_trainable(loaded, layers, spec))


RUNNERS: dict[str, Callable[[Json, JobReporter], tuple[Json, Json]]] = {
    "ranking": run_ranking,
    "finetune": run_finetune,
}
