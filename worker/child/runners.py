"""One function a kind of job: from the supervisor's message to the science and back."""

from __future__ import annotations

import time
from typing import Any

from surgery.ranking.ranking import rank_layers
from surgery.schemas.ranking import RankingSpec
from worker.child.finetune import run_finetune
from worker.child.inputs import data_of, learned, load_to_rank, sources_of
from worker.child.process import Runner
from worker.confinement import limit_cpu
from worker.protocol import JobReporter

Json = dict[str, Any]


def run_ranking(message: Json, report: JobReporter) -> tuple[Json, Json]:
    """Rank; the result and what it adds to ``resolved``."""
    spec = RankingSpec.model_validate(message["spec"])
    sources = sources_of(message)
    report.phase("load")
    began = time.perf_counter()
    data = data_of(message, sources)
    loaded = load_to_rank(message, sources, data, spec)
    spent = time.perf_counter() - began
    result = rank_layers(loaded, data, spec, report)
    result.seconds = {"load": round(spent, 3), **result.seconds}
    return result.model_dump(mode="json"), learned(data).stored()


def limited(runner: Runner) -> Runner:
    """Run a job under the limit of processor time that its order names."""

    def run(message: Json, report: JobReporter) -> tuple[Json, Json]:
        limit_cpu(message["cpu_seconds"])
        return runner(message, report)

    return run


RUNNERS: dict[str, Runner] = {
    "ranking": limited(run_ranking),
    "finetune": limited(run_finetune),
}
