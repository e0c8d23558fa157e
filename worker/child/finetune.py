"""Runs a fine-tune: first a ranking or a search if the selection needs one, then the training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
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
from surgery.schemas.enums import POLICIES, Granularity
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.ranking import RankingResult
from surgery.schemas.resolved import ResolvedSelection
from surgery.training.loop import finetune
from surgery.training.prefix_cache.store import Room
from surgery.training.state import saved_step
from surgery.training.tracking.trackers import tracking
from worker.child.distributed import launch
from worker.child.inputs import data_of, device, learned, load_to_rank, model_of, sources_of
from worker.child.search import search_first
from worker.protocol import (
    EventFilesSaved,
    FinetuneOrder,
    Finished,
    JobReporter,
    LayersSelected,
    RankingComputed,
)


def run_finetune(order: FinetuneOrder, report: JobReporter) -> Finished:
    """Rank or search first if the selection needs it, then train."""
    spec, data = FinetuneSpec.model_validate(order.spec), None
    if order.resolved.layers is None:
        report.phase("load")
        data = data_of(order.inputs, sources_of(order.inputs))
        searches = POLICIES[spec.selection.policy].searches
        chosen = (search_first if searches else _rank_first)(order, spec, data, report)
        resolved = order.resolved.model_copy(update=chosen.model_dump(exclude_defaults=True))
        # A state so far was the search's, which is over.
        order = order.model_copy(update={"resolved": resolved, "state_folder": None})
    if spec.processes > 1:
        return launch(order, spec.processes, report)
    return train(order, report, data)


def train(order: FinetuneOrder, report: JobReporter, data: TaskData | None = None) -> Finished:
    """Train the chosen layers, as the only process or as one of the job's processes.

    ``data`` is the job's dataset if it is open already.
    """
    chosen, sources = order.resolved, sources_of(order.inputs)
    spec = at_found_rate(FinetuneSpec.model_validate(order.spec), chosen)
    report.phase("load")
    began = time.perf_counter()
    data = data_of(order.inputs, sources) if data is None else data
    # Loaded again after a ranking, because the ranking trains the head of its model.
    source, training = model_of(order.inputs), spec.training
    loaded = load_model(
        source, sources, data, seed=training.seed, head=training.head.init, device=device()
    )
    if order.continue_folder is not None:
        begin_with(loaded, data, order.continue_folder)
    assert chosen.layers is not None, "the layers are chosen before the training"
    layers = named_layers(loaded, chosen.layers, chosen.granularity or Granularity.LAYER)
    _report_trainable(loaded, layers, spec, report)
    data = replace(data, also=_also(order, sources, data, loaded, spec))
    loading = time.perf_counter() - began
    before = order.earlier_best
    with _tracked(order, spec, report) as reporter:
        result = finetune(
            loaded,
            data,
            spec,
            layers,
            reporter,
            order.state_folder,
            chosen.scores,
            Room(**dict(order.room)),
            earlier_best=(before.path, before.summary) if before else None,
        )
    result.warnings += getattr(reporter, "warnings", [])
    result.seconds = {"load": round(loading, 3), **result.seconds}
    return Finished(result=result.model_dump(mode="json"), resolved=learned(data))


def at_found_rate(spec: FinetuneSpec, chosen: ResolvedSelection) -> FinetuneSpec:
    """The request with the learning rate that a search has found, if one has."""
    if chosen.learning_rate is None:
        return spec
    training = spec.training.model_copy(update={"learning_rate": chosen.learning_rate})
    return spec.model_copy(update={"training": training})


def _tracked(order: FinetuneOrder, spec: FinetuneSpec, report: JobReporter) -> Any:
    """The reporter with trackers. Of several processes, only the first one has trackers."""
    if not PartialState().is_main_process:
        return nullcontext(report)
    return tracking(
        report,
        order.id,
        spec,
        resumed_at=saved_step(order.state_folder) if order.state_folder else None,
        keep=lambda folder: report.send(EventFilesSaved(path=folder)),
    )


def _also(
    order: FinetuneOrder, sources: Sources, data: TaskData, loaded: LoadedModel, spec: FinetuneSpec
) -> tuple[EvaluationSet, ...]:
    """The further presets to measure on, opened."""
    presets = [MeasuredSet(**dict(preset)) for preset in order.also]
    length = spec.training.max_length
    return open_evaluation_sets(presets, data.labels, loaded.tokenizer, length, sources)


def _rank_first(
    order: FinetuneOrder, spec: FinetuneSpec, data: TaskData, report: JobReporter
) -> ResolvedSelection:
    """Choose layers by the ranking that the job waited for, or by one that is computed now."""
    selection, options = spec.selection, ranking_options(spec.selection)
    loaded = load_to_rank(order.inputs, sources_of(order.inputs), data, options)
    if order.ranking is None:
        result = rank_layers(loaded, data, options, report)
    else:
        result = RankingResult.model_validate(order.ranking)
    granularity = granularity_of(selection, result)
    included = sum(p.numel() for p in included_parameters(loaded, selection.include))
    chosen = choose_layers(selection, layers_of_model(loaded, granularity), result, included)
    selected = resolved_choice(chosen, granularity, result, included)
    if order.ranking is not None:
        report.send(LayersSelected(resolved=selected))
        return selected
    report.send(
        RankingComputed(
            options=options.model_dump(mode="json"),
            result=result.model_dump(mode="json"),
            resolved=selected,
        )
    )
    return selected


def _report_trainable(
    loaded: LoadedModel, layers: Sequence[Unit], spec: FinetuneSpec, report: JobReporter
) -> None:
    """Report the number of trainable parameters, the head included, before the first step."""
    trainable = ResolvedSelection(trainable_parameters=count_trainable(loaded, layers, spec))
    report.send(LayersSelected(resolved=trainable))
