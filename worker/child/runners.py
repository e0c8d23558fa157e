"""Runs a job of any kind: reads the order, calls `surgery`, and returns the result."""

from __future__ import annotations

import time

from surgery.checkpoints.assemble import assemble
from surgery.checkpoints.checkpoint import begin_with, read_record
from surgery.checkpoints.rows import given_cells
from surgery.evaluation.prediction import Answers, given_data, predict_rows
from surgery.models.loading import load_model
from surgery.models.memory import begin_job
from surgery.models.source.copy import checked_copy
from surgery.ranking.ranking import rank_layers
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.ranking import RankingSpec
from surgery.schemas.resolved import Learned
from worker.child.finetune import run_finetune
from worker.child.inputs import (
    computed_with,
    data_of,
    device,
    learned,
    load_to_rank,
    model_of,
    sources_of,
    versions,
)
from worker.child.search import run_search
from worker.confinement import limit_cpu
from worker.protocol import (
    EXPORTED,
    ExportOrder,
    FinetuneOrder,
    Finished,
    JobOrder,
    JobReporter,
    PredictionOrder,
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
        case PredictionOrder():
            return run_prediction(order, report)
        case ExportOrder():
            return run_export(order, report)


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


def run_prediction(order: PredictionOrder, report: JobReporter) -> Finished:
    """Load the order's checkpoint on its base model and predict for the order's rows."""
    report.phase("load")
    began = time.perf_counter()
    record = read_record(order.checkpoint_folder)
    columns = given_cells(record, order.rows)
    data = given_data(Problem(record["problem"]), record["labels"], columns)
    sources = sources_of(order.inputs)
    loaded = load_model(model_of(order.inputs), sources, data, seed=0, device=device())
    begin_with(loaded, data, order.checkpoint_folder)
    loading = time.perf_counter() - began
    answers = Answers(record.get("thresholds"), order.spec["top"])
    result = predict_rows(loaded, data, record["max_length"], answers, report)
    result.seconds = {"load": round(loading, 3), **result.seconds}
    return Finished(result=result.model_dump(mode="json"), resolved=computed_with())


def run_export(order: ExportOrder, report: JobReporter) -> Finished:
    """Put the order's checkpoint together, for the supervisor to hand over."""
    report.phase("assemble")
    began = time.perf_counter()
    base = checked_copy(model_of(order.inputs), sources_of(order.inputs))
    target = report.new_folder(EXPORTED)
    assemble(
        order.checkpoint_folder,
        base,
        order.spec["form"],
        target,
        lambda size: report.step(size, None, "bytes"),
    )
    seconds = {"assemble": round(time.perf_counter() - began, 3)}
    return Finished(result={"seconds": seconds}, resolved=Learned(versions=versions()))
