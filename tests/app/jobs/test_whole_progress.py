"""The progress of a whole job: known while it runs, and never falling."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from app.db import Database
from app.db.tables import Job, JobKind, new_id
from app.jobs import state_machine
from app.jobs.progress import JobProgress
from app.jobs.state_machine import enqueue
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.ranking import SHUFFLES, RankingSpec, Submission
from surgery.schemas.jobs.search import SearchSpec
from surgery.schemas.resolved import Learned
from tests.support.service.queued_jobs import LEASE, RESOLVED, look, take

Json = dict[str, Any]
ROWS = {"train": 640, "validation": 64}


def job_of(kind: JobKind, request: Json, **values: Any) -> Job:
    specs: dict[JobKind, type[Submission]] = {
        JobKind.RANKING: RankingSpec, JobKind.FINETUNE: FinetuneSpec, JobKind.SEARCH: SearchSpec,
    }  # fmt: skip
    spec = specs[kind].model_validate({"model": "m", "dataset": "glue/cola", **request})
    resolved = {**RESOLVED, "dataset": {**RESOLVED["dataset"], "rows": ROWS}}
    return Job(
        id=new_id("ft"), kind=kind, spec=spec.model_dump(mode="json"), labels={}, model="m",
        dataset="d", digest="x", max_attempts=3, resolved=resolved, **values,
    )  # fmt: skip


def finetune(**request: Any) -> Job:
    """A fine-tune of a layer that is known, unless the request asks for another selection."""
    job = job_of(JobKind.FINETUNE, {"selection": {"policy": "last_k", "k": 1}, **request})
    if "selection" not in request:
        job.resolved = {**job.resolved, "layers": ["encoder.layer.1"]}
    return job


def train(progress: JobProgress, steps: int, first: int = 0) -> list[Json]:
    """The progress over a training that evaluates after each of its epochs of 20 steps."""
    told = [progress.begin("train")]
    for step in range(first + 1, steps + 1):
        told.append(progress.advance(step, steps, "steps"))
        if step % 20 == 0:
            told += [progress.begin(name) for name in ("evaluate", "save", "train")]
    return told


def check(told: list[Json]) -> None:
    percents = [each["percent"] for each in told]
    assert percents == sorted(percents)
    assert 0 < percents[-1] < 100
    for each in told:
        assert None not in (each["step"], each["total_steps"], each["unit"], each["eta_seconds"])
        assert 0 <= each["step"] <= each["total_steps"]


@pytest.mark.parametrize(("seeds", "minus"), [(1, None), (3, None), (1, "shuffled")])
def test_every_phase_of_a_ranking_is_known(seeds: int, minus: str | None) -> None:
    head = {"init": "new"} if seeds > 1 else {}
    request = {"head_seeds": seeds, "head": head, "minus": minus}
    progress = JobProgress(job_of(JobKind.RANKING, request))
    first = progress.now()
    assert (first["percent"], first["step"], first["unit"]) == (0.0, 0, "phases")
    told = [progress.begin(name) for name in ("fetch", "load", "tokenize")]
    for _ in range(seeds):
        told.append(progress.begin("warmup"))
        told += [progress.advance(rows, 640, "rows") for rows in (320, 640)]
        told.append(progress.advance(1, 1, "epochs"))
        told.append(progress.begin("score"))
        told += [progress.advance(samples, 256, "samples") for samples in range(32, 257, 32)]
    if minus:
        told.append(progress.begin("minus"))
        told += [progress.advance(samples, 256, "samples") for samples in [128, 256] * SHUFFLES]
    told += [progress.begin(name) for name in ("bootstrap", "prior")]
    check(told)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"track_ranking": True, "checkpoints": {"onnx": True}},
        {"training": {"prefix_cache": "off"}},
        {"selection": {"policy": "top_k", "k": 1}},
    ],
)
def test_every_phase_of_a_finetune_is_known(request_: Json) -> None:
    progress = JobProgress(finetune(**request_))
    told = [progress.begin(name) for name in ("fetch", "load")]
    if "selection" in request_:
        told += [progress.begin(n) for n in ("tokenize", "warmup", "score", "bootstrap", "load")]
    told += [progress.begin(name) for name in ("export", "tokenize", "head", "rank", "prefix")]
    told += [progress.advance(rows, 640, "rows") for rows in (320, 640, 32, 64)]
    told += train(progress, 60)
    check(told)
    steps = [each for each in told if each["unit"] == "steps"]
    assert (steps[0]["step"], steps[0]["total_steps"]) == (0, 60)
    assert [e["step"] for e in told if e["unit"] == "evaluations"] == [0, 1, 2]


def test_the_choice_of_a_rate_weighs_what_it_costs() -> None:
    """Three trials on four fifths of the rows are most of the job, and their steps its progress."""
    rates = {"learning_rates": [1e-4, 3e-4, 1e-3], "epochs": 30}
    progress = JobProgress(finetune(training=rates))
    told = [progress.begin(name) for name in ("fetch", "load", "tokenize", "prefix", "rates")]
    told += [progress.advance(step, 1440, "steps") for step in range(1, 1441)]
    assert told[-1]["percent"] == pytest.approx(70, abs=5)
    assert (told[-1]["step"], told[-1]["total_steps"]) == (1440, 1440)
    told += train(progress, 600)
    check(told)


def test_a_prefix_that_is_computed_again_counts_its_own_rows_only() -> None:
    gradual = {"layer_schedule": {"type": "gradual", "every_epochs": 1}, "epochs": 3}
    progress = JobProgress(finetune(training=gradual))
    told = [progress.begin(name) for name in ("fetch", "load", "tokenize", "prefix", "train")]
    told += [progress.advance(step, 60, "steps") for step in range(1, 21)]
    told += [progress.begin("prefix")]
    told += [progress.advance(rows, 640, "rows") for rows in (320, 640)]
    assert told[-1]["percent"] == told[-3]["percent"]
    assert (told[-1]["step"], told[-1]["unit"]) == (640, "rows")
    told += [progress.begin("train")]
    told += [progress.advance(step, 60, "steps") for step in range(21, 61)]
    check(told)


def search(progress: JobProgress, first: float = 0.0) -> list[Json]:
    """The progress over a search with a budget of 60 seconds, of which some are spent already."""
    told = [progress.begin(name) for name in ("tokenize", "head", "score", "prefix", "search")]
    return told + [progress.advance(s, 60, "seconds") for s in range(int(first) + 1, 61)]


def test_every_phase_of_a_search_is_known() -> None:
    progress = JobProgress(job_of(JobKind.SEARCH, {"budget_seconds": 60}))
    told = [progress.begin(name) for name in ("fetch", "load")] + search(progress)
    check(told)
    half = next(each for each in told if (each["unit"], each["step"]) == ("seconds", 30))
    assert 30 < half["percent"] < 70


def test_an_interrupted_search_goes_on_where_it_was() -> None:
    progress = JobProgress(job_of(JobKind.SEARCH, {"budget_seconds": 60}))
    before = [progress.begin(name) for name in ("fetch", "load")] + search(progress)[:40]
    resumed = job_of(JobKind.SEARCH, {"budget_seconds": 60})
    resumed.state, resumed.progress = {"path": "p", "step": 35}, before[-1]
    again = JobProgress(resumed)
    told = [again.begin(name) for name in ("fetch", "load")]
    assert {each["percent"] for each in told} == {before[-1]["percent"]}
    check(told + search(again, first=35))


def test_a_fine_tune_that_searches_first_trains_after_that() -> None:
    selection = {"policy": "search", "search": {"budget_seconds": 60}}
    job = finetune(selection=selection, training={"prefix_cache": "off"})
    job.state = {"path": "p", "step": 35}  # of its search, not of its training
    progress = JobProgress(job)
    told = [progress.begin(name) for name in ("fetch", "load")] + search(progress, first=35)
    told += [progress.begin(name) for name in ("load", "tokenize")]
    trained = train(progress, 60)
    assert (trained[0]["step"], trained[0]["unit"]) == (0, "steps")
    check(told + trained)


def test_an_evaluation_counts_as_several_steps() -> None:
    """As many as it costs; so half of the steps are half of the training."""
    progress = JobProgress(finetune(training={"epochs": 1000, "prefix_cache": "off"}))
    for name in ("fetch", "load", "tokenize"):
        progress.begin(name)
    told = train(progress, 20_000)
    at = {each["step"]: each["percent"] for each in told if each["unit"] == "steps"}
    assert at[10_000] == pytest.approx(50, abs=1)
    assert at[20_000] > 99


def test_an_interrupted_finetune_goes_on_where_it_was() -> None:
    progress = JobProgress(finetune())
    before = [progress.begin(name) for name in ("fetch", "load", "tokenize", "prefix")]
    before += train(progress, 60)[:50]
    resumed = finetune()
    resumed.state, resumed.progress = {"path": "p", "step": 40}, before[-1]
    again = JobProgress(resumed)
    told = [again.begin(name) for name in ("fetch", "load", "tokenize", "prefix")]
    assert {each["percent"] for each in told} == {before[-1]["percent"]}
    told += train(again, 60, first=40)
    check(told)
    assert told[-1]["percent"] > before[-1]["percent"]


def test_a_request_of_another_version_runs_without_a_plan() -> None:
    job = finetune()
    job.spec = {"unknown": True}
    progress = JobProgress(job)
    assert progress.begin("train")["percent"] is not None
    assert progress.advance(1, None, "steps")["percent"] is not None


def test_the_percentage_of_the_row_never_falls(database: Database) -> None:
    with database.write() as session:
        job = enqueue(session, finetune())
    assert job.progress is None
    lease = take(database)

    def renew(**progress: Any) -> Json:
        state_machine.renew(database, lease, LEASE, "train", progress or None)
        told = look(database, job.id).progress
        assert told is not None
        return told

    assert look(database, job.id).progress == {
        "percent": 0.0, "step": 0, "total_steps": 7, "unit": "phases", "eta_seconds": None,
    }  # fmt: skip
    assert renew(percent=40.0, step=4)["percent"] == 40.0
    assert renew(percent=30.0, step=5) == {"percent": 40.0, "step": 5}
    assert renew(percent=None, step=6) == {"percent": 40.0, "step": 6}
    assert renew() == {"percent": 40.0, "step": 6}
    state_machine.crash(database, lease, {"code": "worker_lost"}, timedelta())
    waiting = look(database, job.id)
    assert waiting.status == "queued"
    assert waiting.progress == {"percent": 40.0, "step": 6, "eta_seconds": None}
    lease = take(database)
    again = look(database, job.id).progress
    assert again is not None
    assert (again["percent"], again["unit"]) == (40.0, "phases")
    assert renew(percent=10.0, step=1)["percent"] == 40.0
    state_machine.finish(database, lease, {}, Learned())
    assert (look(database, job.id).progress or {})["percent"] == 100.0
