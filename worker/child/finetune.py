"""A fine-tune: ranked first where the selection needs it, then trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from surgery.checkpoints.checkpoint import begin_with
from surgery.data.tokens.dataset import EvaluationSet, TaskData
from surgery.evaluation.evaluate import MeasuredSet, open_evaluation_sets
from surgery.io.sources import Sources
from surgery.models.blocks import Unit
from surgery.models.loading import LoadedModel, load_model
from surgery.models.trainable import (
    count_trainable,
    included_parameters,
    layers_of_model,
    named_layers,
)
from surgery.ranking.ranking import rank_layers
from surgery.ranking.selection import (
    choose_layers,
    granularity_of,
    ranking_options,
    resolved_choice,
)
from surgery.schemas.enums import Granularity
from surgery.schemas.finetune import FinetuneSpec
from surgery.schemas.ranking import RankingResult
from surgery.schemas.resolved import ResolvedSelection, completed
from surgery.training.loop import finetune
from surgery.training.prefix_cache.store import Room
from surgery.training.state import saved_step
from surgery.training.trackers import tracked
from worker.child.inputs import data_of, device, learned, load_to_rank, model_of, sources_of
from worker.child.ranks import launch
from worker.protocol import JobReporter

Json = dict[str, Any]


def run_finetune(message: Json, report: JobReporter) -> tuple[Json, Json]:
    """Rank first where the selection needs it, then train."""
    spec = FinetuneSpec.model_validate(message["spec"])
    data = None
    if ResolvedSelection.of(message["resolved"]).layers is None:
        report.phase("load")
        data = data_of(message, sources_of(message))
        chosen = _rank_first(message, spec, data, report)
        message = message | {"resolved": completed(message["resolved"], chosen)}
    if spec.processes > 1:
        return launch(message, spec.processes, report)
    return train(message, report, data)


def train(message: Json, report: JobReporter, data: TaskData | None = None) -> tuple[Json, Json]:
    """Train what was chosen; in a group of processes, each a part of every step.

    ``data`` are the job's where they are open already.
    """
    spec = FinetuneSpec.model_validate(message["spec"])
    chosen, sources = ResolvedSelection.of(message["resolved"]), sources_of(message)
    report.phase("load")
    began = time.perf_counter()
    data = data_of(message, sources) if data is None else data
    # A model of its own: a ranking warms up its head.
    loaded = load_model(model_of(message), sources, data, seed=spec.training.seed, device=device())
    if message["continue_folder"]:
        begin_with(loaded, data, Path(message["continue_folder"]))
    assert chosen.layers is not None, "the ranking that chooses them comes first"
    layers = named_layers(loaded, chosen.layers, chosen.granularity or Granularity.LAYER)
    _tell_selected(loaded, layers, spec, report)
    data = replace(data, also=_also(message, sources, data, loaded, spec))
    loading = time.perf_counter() - began
    resume = Path(message["state_folder"]) if message["state_folder"] else None
    before = message["earlier_best"]
    with _tracked(message, spec, resume, report) as reporter:
        result = finetune(
            loaded, data, spec, layers, reporter, resume, chosen.scores, _room(message),
            earlier_best=(Path(before["path"]), before["record"]) if before else None,
        )  # fmt: skip
    result.warnings += getattr(reporter, "warnings", [])
    result.seconds = {"load": round(loading, 3), **result.seconds}
    return result.model_dump(mode="json"), learned(data).stored()


def _room(message: Json) -> Room:
    """What the operator lets a frozen prefix take."""
    given = message["room"]
    return Room(Path(given["folder"]), given["memory_bytes"], given["disk_bytes"])


def _tracked(message: Json, spec: FinetuneSpec, resume: Path | None, report: JobReporter) -> Any:
    """The reporter with trackers; of several processes, the first one's."""
    if not PartialState().is_main_process:
        return nullcontext(report)
    return tracked(
        report, message["id"], spec, resumed_at=saved_step(resume) if resume else None,
        keep=lambda folder: report.tell("log", path=str(folder)),
    )  # fmt: skip


def _also(
    message: Json, sources: Sources, data: TaskData, loaded: LoadedModel, spec: FinetuneSpec
) -> tuple[EvaluationSet, ...]:
    """The presets to measure on that were laid ready."""
    found = [MeasuredSet.of(entry) for entry in message["also"]]
    length = spec.training.max_length
    return open_evaluation_sets(found, data.labels, loaded.tokenizer, length, sources)


def _rank_first(
    message: Json, spec: FinetuneSpec, data: TaskData, report: JobReporter
) -> ResolvedSelection:
    """Choose by the ranking that was waited for, else by one computed now and handed over."""
    selection, options = spec.selection, ranking_options(spec.selection)
    loaded = load_to_rank(message, sources_of(message), data, options)
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
        report.tell("selected", **selected.stored())
        return selected
    report.tell(
        "ranking",
        options=options.model_dump(mode="json"),
        result=result.model_dump(mode="json"),
        selected=selected.stored(),
    )
    return selected


def _tell_selected(
    loaded: LoadedModel, layers: Sequence[Unit], spec: FinetuneSpec, report: JobReporter
) -> None:
    """How much trains, the head among it, before the first step."""
    selected = ResolvedSelection(trainable_parameters=count_trainable(loaded, layers, spec))
    report.tell("selected", **selected.stored())
