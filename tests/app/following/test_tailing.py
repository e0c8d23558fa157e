"""Pages that say where to go on: nothing is missed and nothing comes twice."""

from __future__ import annotations

from typing import Any

from app.jobs.outputs import records
from app.jobs.state_machine import Lease, record_event
from tests.support.service.live_api import LiveApi


def tail(live: LiveApi, path: str, writes: list[Any]) -> list[Any]:
    """Everything that a client reads which follows ``next``, while writes happen in between."""
    read: list[Any] = []
    while True:
        page = live.http.get(path).json()
        read += page["data"]
        assert page["has_more"] == (page["next_cursor"] is not None)
        path = page["next"]
        if writes:
            writes.pop(0)()
        elif not page["data"]:
            return read


def measure(live: LiveApi, lease: Lease, step: int, *names: str) -> Any:
    def write() -> None:
        values = {name: step + place / 10 for place, name in enumerate(names)}
        records.record_metrics(live.database, lease, step, step / 10, values)

    return write


def test_events_are_tailed_by_their_numbers(live: LiveApi) -> None:
    job_id, _ = live.run()

    def happen() -> None:
        with live.database.write() as session:
            for _ in range(3):
                record_event(session, job_id, 1, "test", {})

    for limit in (1, 2, 50):
        path = f"/v1/jobs/{job_id}/events"
        read = tail(live, f"{path}?limit={limit}", [happen] * 4)
        assert read == live.http.get(path, params={"limit": 200}).json()["data"]
        half = read[len(read) // 2]["seq"]
        rest = tail(live, f"{path}?after={half}&limit={limit}", [])
        assert rest == read[len(read) // 2 + 1 :]


def test_an_empty_page_says_where_to_go_on(live: LiveApi) -> None:
    job_id = live.queue()
    events = live.http.get(f"/v1/jobs/{job_id}/events", params={"after": 10**9}).json()
    assert (events["data"], events["next"]) == (
        [], f"/v1/jobs/{job_id}/events?after=1000000000&limit=50",
    )  # fmt: skip
    metrics = live.http.get(f"/v1/jobs/{job_id}/metrics", params={"name": "loss"}).json()
    assert metrics["data"] == []
    assert live.http.get(metrics["next"]).json() == metrics


def test_measurements_of_one_step_are_neither_split_nor_lost(live: LiveApi) -> None:
    """The evaluation of a step is written after its loss, under names that sort before it."""
    job_id, lease = live.run()
    writes = [
        write
        for step in (10, 20, 30)
        for write in (
            measure(live, lease, step, "train_loss", "learning_rate"),
            measure(live, lease, step, "accuracy", "f1"),
        )
    ]
    read = tail(live, f"/v1/jobs/{job_id}/metrics?limit=1", writes)
    names = ["learning_rate", "train_loss", "accuracy", "f1"]
    assert [(m["step"], m["name"]) for m in read] == [(s, n) for s in (10, 20, 30) for n in names]
    later = tail(live, f"/v1/jobs/{job_id}/metrics?after_step=10&limit=3", [])
    assert later == read[4:]
    only = tail(live, f"/v1/jobs/{job_id}/metrics?after_step=10&name=f1&limit=1", [])
    assert [(m["step"], m["name"]) for m in only] == [(20, "f1"), (30, "f1")]


def test_steps_that_an_interrupted_run_repeats_come_again(live: LiveApi) -> None:
    job_id, lease = live.run()
    steps = (10, 20, 30, 20, 30, 40)
    writes = [measure(live, lease, step, "train_loss") for step in steps]
    path = f"/v1/jobs/{job_id}/metrics"
    assert [m["step"] for m in tail(live, path, writes)] == list(steps)
    assert [m["step"] for m in live.http.get(path).json()["data"]] == [10, 20, 30, 40]
