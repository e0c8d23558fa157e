"""Runs a job of any kind: reads the order, calls `surgery`, and returns the result."""

from __future__ import annotations

import time

from surgery.models.memory import begin_job
from surgery.ranking.ranking import rank_layers
from surgery.schemas.ranking import RankingSpec
from worker.child.finetune import run_finetune
from worker.child.inputs import data_of, learned, load_to_rank, sources_of
from worker.child.search import run_search
from worker.confinement import limit_cpu
from worker.protocol import (
    FinetuneOrder,
    Finished,
    JobOrder,
    JobReporter,
    RankingOrder,
    SearchOrder,
)


def run_job(order: JobOrder, report: JobReporter) -> Finished:
    """Run a job under the limit of processor time that its order sets."""
    limit_cpu(order.cpu_seconds)
    begin_job()
    match order:
        case RankingOrder():
            return run_ranking(order, report)
        case FinetuneOrder():
            return run_finetune(order, report)
        case SearchOrder():
            return run_search(order, report)


def run_ranking(order: RankingOrder, report: JobReporter) -> Finished:
    """Rank the layers of the order's model."""
    spec = RankingSpec.model_validate(order.spec)
    sources = sources_of(order.inputs)
    report.phase("load")
    began = time.perf_counter()
    data = data_of(order.inputs, sources)
    loaded = load_to_rank(order.inputs, sources, data, spec)
    spent = time.perf_counter() - began
    result = rank_layers(loaded, data, spec, report)
    result.seconds = {"load": round(spent, 3), **result.seconds}
    return Finished(result=result.model_dump(mode="json"), resolved=learned(data))
