"""Comparisons in a database, of two arms whose runs nobody trains."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from app.db import Database
from app.db.tables import Job, JobKind, new_id
from app.jobs import state_machine
from app.jobs.state_machine import Lease, enqueue_comparison
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.resolved import Learned
from tests.support.service.finished_runs import finetune_result, ranking_result
from tests.support.service.queued_jobs import RESOLVED

Json = dict[str, Any]
NOW = timedelta(0)
ERROR = {"code": "out_of_memory", "detail": "too large", "retriable": True}
ARMS = [
    {"name": "a", "policy": "last_k", "layers": ["l1"]},
    {"name": "all", "policy": "all", "layers": ["l0", "l1"]},
]
RANKING = ranking_result({"fisher": {"l0": 2.0, "l1": 1.0}}).model_dump(mode="json")


def new_job(kind: JobKind, parent: str | None, **values: object) -> Job:
    """A job that is not yet in the database."""
    fields: Json = {"labels": {}, "model": "m", "dataset": "d", "digest": "x", "max_attempts": 3,
                    "spec": {}, "resolved": RESOLVED}  # fmt: skip
    prefix = "cmp" if kind is JobKind.COMPARISON else "job"
    return Job(id=new_id(prefix), kind=kind, parent=parent, **{**fields, **values})


def spec_of(policy: str, seed: int) -> Json:
    """The request for a run of an arm that trains the last layer, the best one, or all."""
    selection = {"policy": policy} | ({} if policy == "all" else {"k": 1})
    spec = {"model": "m", "dataset": "d", "selection": selection, "training": {"seed": seed}}
    return FinetuneSpec.model_validate(spec).model_dump(mode="json")


def submit(database: Database, seeds: int = 1, *, ranked: bool = False) -> tuple[str, list[str]]:
    """A comparison of two arms; its id, and its children's in the order of the queue."""
    parent = new_job(
        JobKind.COMPARISON, None, resolved=RESOLVED | {"arms": ARMS, "ranking": None, "runs": 2}
    )
    ranking = new_job(JobKind.RANKING, parent.id) if ranked else None
    children = [
        new_job(
            JobKind.FINETUNE, parent.id, name=f"{arm['name']}, seed {seed}",
            spec=spec_of(arm["policy"], seed), resolved=RESOLVED | {"arm": arm["name"]},
            waits_for=ranking.id if ranking and arm["name"] == "a" else None,
        )
        for arm in ARMS
        for seed in range(seeds)
    ]  # fmt: skip
    children = [ranking, *children] if ranking else children
    with database.write() as session:
        enqueue_comparison(session, parent, children)
    return parent.id, [child.id for child in children]


def finish(database: Database, lease: Lease, metric: float = 0.5) -> None:
    """End a run with this metric."""
    result = finetune_result(metric).model_dump(mode="json")
    state_machine.finish(database, lease, result, Learned())
