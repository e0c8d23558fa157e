"""Runs a search: as a job of its own, or as the first phase of a fine-tune."""

from __future__ import annotations

import time
from collections.abc import Mapping

from surgery.data.tokens.dataset import TaskData
from surgery.io.reporter import ForwardingReporter, Reporter
from surgery.models.loading import load_model
from surgery.ranking.selection import found_by_search, search_options
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.search import SearchResult, SearchSpec
from surgery.schemas.resolved import LayerInfo, ResolvedSelection
from surgery.training.prefix_cache.store import Room
from surgery.training.search.search import search_layers
from worker.child.inputs import data_of, device, learned, model_of, sources_of
from worker.protocol import (
    FinetuneOrder,
    Finished,
    JobReporter,
    LayersSelected,
    SearchComputed,
    SearchOrder,
)


def run_search(order: SearchOrder, report: JobReporter) -> Finished:
    """Search for the layers to train and their learning rate."""
    report.phase("load")
    began = time.perf_counter()
    data = data_of(order.inputs, sources_of(order.inputs))
    opening = time.perf_counter() - began
    spec = SearchSpec.model_validate(order.spec)
    result = _search(order, spec, data, report)
    result.seconds["load"] = round(opening + result.seconds["load"], 3)
    return Finished(result=result.model_dump(mode="json"), resolved=learned(data))


def search_first(
    order: FinetuneOrder, spec: FinetuneSpec, data: TaskData, report: JobReporter
) -> ResolvedSelection:
    """Choose by the search that the job waited for, or by one that is run now."""
    if order.search is not None:
        selected = _selected(SearchResult.model_validate(order.search))
        report.send(LayersSelected(resolved=selected))
        return selected
    searched = SearchSpec(
        model=spec.model,
        dataset=spec.dataset,
        training=spec.training,
        **dict(search_options(spec.selection)),
    )
    result = _search(order, searched, data, _WithoutMetrics(report))
    selected = _selected(result)
    report.send(
        SearchComputed(
            spec=searched.model_dump(mode="json"),
            result=result.model_dump(mode="json"),
            resolved=selected,
        )
    )
    return selected


def _search(
    order: SearchOrder | FinetuneOrder, spec: SearchSpec, data: TaskData, report: Reporter
) -> SearchResult:
    """Load the model and search, from where an interrupted attempt came to."""
    began = time.perf_counter()
    sources = sources_of(order.inputs)
    source, training = model_of(order.inputs), spec.training
    loaded = load_model(
        source, sources, data, seed=training.seed, head=training.head.init, device=device()
    )
    loading = time.perf_counter() - began
    room = Room(**dict(order.room))
    result = search_layers(loaded, data, spec, report, order.state_folder, room)
    result.seconds = {"load": round(loading, 3), **result.seconds}
    return result


def _selected(result: SearchResult) -> ResolvedSelection:
    return found_by_search(result, [LayerInfo(**dict(each)) for each in result.model_layers])


class _WithoutMetrics(ForwardingReporter):
    """Passes on what a search reports but its metrics, which are not those of the fine-tune."""

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """Drop the metrics."""
