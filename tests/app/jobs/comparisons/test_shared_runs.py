"""Arms that turn out to train the same tensors share their runs, on both databases."""

from __future__ import annotations

from typing import Any

import pytest

from app.db import Database
from app.db.tables import WORKER_KINDS, JobKind, Status
from app.jobs import state_machine
from app.jobs.comparisons import arm_digest
from app.jobs.comparisons.shared_runs import Choice
from app.jobs.state_machine import enqueue_comparison
from surgery.schemas.enums import Policy
from surgery.schemas.jobs.comparison import ArmPlan
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.resolved import LayerInfo, Learned, ResolvedSelection
from tests.app.jobs.test_shared_rankings import events
from tests.support.service.queued_comparisons import ERROR, RANKING, finish, new_job
from tests.support.service.queued_jobs import LEASE, RESOLVED, look, statuses, take

Json = dict[str, Any]
PARTS = [LayerInfo(name=name, index=place, parameters=5) for place, name in enumerate(("l0", "l1"))]
TOP: Json = {"policy": "top_k", "k": 1}  # l0, by the ranking
WORST: Json = {"policy": "bottom_k", "k": 1}
FIRST: Json = {"policy": "first_k", "k": 1}


def spec_of(selection: Json, seed: int = 0, **training: Any) -> FinetuneSpec:
    return FinetuneSpec(
        model="m", dataset="d", selection=selection, training={"seed": seed, **training}
    )


def submit(database: Database, arms: dict[str, Json], seeds: int = 1) -> tuple[str, Json]:
    """A comparison of arms that all wait for one ranking but those of policy first_k.

    Returns its id, and the ids of its children by arm and seed, with the ranking's as "ranking".
    """
    known = {name: s for name, s in arms.items() if s["policy"] == "first_k"}
    plans = [
        ArmPlan(
            name=name, policy=Policy(own["policy"]), layers=["l0"] if name in known else None,
            digest=arm_digest(
                spec_of(own), Choice(ResolvedSelection(layers=["l0"]), PARTS)
            ) if name in known else None,
        ).model_dump(mode="json")
        for name, own in arms.items()
    ]  # fmt: skip
    resolved = RESOLVED | {"arms": plans, "ranking": None, "runs": len(arms)}
    parent = new_job(JobKind.COMPARISON, None, resolved=resolved)
    ranking = new_job(JobKind.RANKING, parent.id)
    runs = {
        (name, seed): new_job(
            JobKind.FINETUNE, parent.id, spec=spec_of(own, seed).model_dump(mode="json"),
            resolved=RESOLVED | {"arm": name}, waits_for=None if name in known else ranking.id,
        )
        for name, own in arms.items()
        for seed in range(seeds)
    }  # fmt: skip
    with database.write() as session:
        enqueue_comparison(session, parent, [ranking, *runs.values()])
    ids = {key: job.id for key, job in runs.items()}
    return parent.id, {"ranking": ranking.id, **ids}


def rank(database: Database) -> None:
    state_machine.finish(database, take(database), RANKING, Learned())


def test_equal_choices_of_one_ranking_train_once(database: Database) -> None:
    parent, ids = submit(database, {"top": TOP, "again": TOP, "worst": WORST}, seeds=2)
    rank(database)
    for seed in (0, 1):
        twin = look(database, ids["again", seed])
        assert (twin.waits_for, twin.resolved["layers"]) == (ids["top", seed], ["l0"])
        assert events(database, twin.id)[-1] == ("same_as", 0, {"id": ids["top", seed]})
    plans = look(database, parent).resolved["arms"]
    assert [plan["same_as"] for plan in plans] == [None, "top", None]
    assert [plan["layers"] for plan in plans] == [["l0"], ["l0"], ["l1"]]
    for metric in (0.5, 0.6, 0.7, 0.8):
        finish(database, take(database), metric)
    job = look(database, parent)
    assert job.status == Status.SUCCEEDED
    twin = look(database, ids["again", 0])
    assert (twin.status, twin.result_of) == (Status.SUCCEEDED, ids["top", 0])
    assert twin.result == look(database, ids["top", 0]).result
    assert job.result is not None
    top, again, _ = job.result["arms"]
    assert (top["same_as"], again["same_as"]) == (None, "top")
    assert [run["job"] for run in again["runs"]] == [ids["top", 0], ids["top", 1]]
    assert {**again, "name": "top", "same_as": None} == top
    assert (job.result["runs"], job.result["seconds"]) == (4, 8.0)


def test_a_twin_ends_as_its_run_does(database: Database) -> None:
    _, ids = submit(database, {"top": TOP, "again": TOP})
    rank(database)
    twin = look(database, ids["again", 0])
    assert twin.started_at is None
    lease = take(database)
    progress = {"percent": 40.0, "step": 4, "total_steps": 10, "unit": "steps", "eta_seconds": 7.0}
    state_machine.renew(database, lease, LEASE, "train", progress)
    result = {"stopped_early": True}
    state_machine.finish(database, lease, result, Learned(versions={"torch": "2"}))
    twin, run = look(database, ids["again", 0]), look(database, ids["top", 0])
    assert (twin.status, twin.result_of, twin.waits_for) == (Status.SUCCEEDED, run.id, None)
    assert twin.progress == {**progress, "percent": 100.0, "eta_seconds": 0.0}
    assert twin.progress == run.progress
    assert twin.resolved["versions"] == {"torch": "2"}
    assert twin.resolved["arm"] == "again"
    assert twin.started_at is not None
    assert twin.finished_at is not None


def test_a_choice_shares_the_run_that_ended_before_the_ranking(database: Database) -> None:
    parent, ids = submit(database, {"top": TOP, "first": FIRST})
    ranking, first = take(database), take(database)
    finish(database, first, 0.9)
    state_machine.finish(database, ranking, RANKING, Learned())
    assert statuses(database, ids["top", 0]) == ["queued", "succeeded"]
    job = look(database, parent)
    assert job.status == Status.SUCCEEDED
    assert job.result is not None
    assert [arm["same_as"] for arm in job.result["arms"]] == ["first", None]
    assert job.result["runs"] == 1


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_a_shared_run_that_fails_fails_for_both(database: Database, how: str) -> None:
    parent, ids = submit(database, {"top": TOP, "again": TOP, "worst": WORST})
    rank(database)
    if how == "failed":
        state_machine.fail(database, take(database), ERROR)
    else:
        state_machine.cancel(database, ids["top", 0])
    twin = look(database, ids["again", 0])
    assert twin.status == how
    assert twin.error is not None
    assert twin.error["code"] == ("out_of_memory" if how == "failed" else "cancelled")
    finish(database, take(database))
    job = look(database, parent)
    assert job.status == Status.SUCCEEDED
    assert job.result is not None
    assert [failure["job"] for failure in job.result["failures"]] == [ids["top", 0]]


def test_cancelling_ends_what_waits_for_an_equal_run(database: Database) -> None:
    parent, ids = submit(database, {"top": TOP, "again": TOP})
    rank(database)
    lease = take(database)
    assert state_machine.claim(database, "w", WORKER_KINDS, LEASE) is None
    state_machine.cancel(database, parent)
    assert look(database, ids["again", 0]).status == Status.CANCELLED
    state_machine.end_cancelled(database, lease)
    assert look(database, parent).status == Status.CANCELLED


BLOCKS = [LayerInfo(name=f"layer.{i}", index=i, parameters=4) for i in (0, 1)]
SUBLAYERS = [
    LayerInfo(name=f"layer.{i}.{part}", index=i, parameters=2)
    for i in (0, 1)
    for part in ("attention", "feed_forward")
]
TENSORS = [
    LayerInfo(name=f"layer.{i}.{name}", index=i, parameters=1)
    for i in (0, 1)
    for name in ("attention.q.weight", "attention.q.bias", "output.weight", "output.bias")
]


def digest(granularity: str, layers: list[str], parts: list[LayerInfo], **training: Any) -> str:
    selection = ResolvedSelection(granularity=granularity, layers=layers)
    return arm_digest(spec_of({"policy": "all"}, **training), Choice(selection, parts))


def test_the_same_is_judged_on_tensors_and_settings() -> None:
    whole = digest("layer", ["layer.1"], BLOCKS)
    halves = ["layer.1.attention", "layer.1.feed_forward"]
    assert digest("sublayer", halves, SUBLAYERS) == whole
    assert digest("tensor", [part.name for part in TENSORS[4:]], TENSORS) == whole
    half = digest("sublayer", halves[:1], SUBLAYERS)
    assert digest("tensor", [part.name for part in TENSORS[4:6]], TENSORS) == half
    others = {
        half,
        digest("layer", ["layer.0"], BLOCKS),
        digest("tensor", ["layer.1.attention.q.bias"], TENSORS),
        digest("layer", ["layer.1"], BLOCKS, learning_rate=1e-4),
        digest("layer", ["layer.1"], BLOCKS, epochs=4),
        # A decay goes by the names that were chosen.
        digest("layer", ["layer.1"], BLOCKS, layer_learning_rate_decay=0.9),
        digest("sublayer", halves, SUBLAYERS, layer_learning_rate_decay=0.9),
    }
    assert len(others | {whole}) == 8
    assert digest("layer", ["layer.1"], BLOCKS, seed=7) == whole
