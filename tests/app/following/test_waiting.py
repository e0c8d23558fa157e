"""Prefer: wait. An answer that comes as soon as there is something to tell, and not before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from app.api.following.waiting import LONGEST_WAIT_SECONDS
from app.jobs import state_machine
from tests.support.service.live_api import LiveApi

LEASE = timedelta(seconds=60)


def later(live: LiveApi, act: Callable[..., Any], *arguments: Any) -> threading.Thread:
    """Do something as soon as somebody waits."""

    def run() -> None:
        deadline = time.monotonic() + 30
        while not any(feed.known.is_set() for feed in list(live.broadcaster._feeds.values())):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        act(*arguments)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_without_a_known_state_the_next_change_is_answered(live: LiveApi) -> None:
    job_id, lease = live.run()
    renew = later(
        live, state_machine.renew, live.database, lease, LEASE, "train", {"percent": 50.0}
    )
    answer = live.http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=30"})
    renew.join()
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=30")
    assert answer.json()["progress"]["percent"] == 50.0


def test_a_state_that_is_known_is_waited_upon_and_another_is_answered(live: LiveApi) -> None:
    job_id, lease = live.run()
    path = f"/v1/finetunes/{job_id}"
    tag = live.http.get(path).headers["etag"]
    same = live.http.get(path, headers={"Prefer": "wait=1", "If-None-Match": tag})
    assert (same.status_code, same.headers["etag"]) == (304, tag)
    assert same.headers["preference-applied"] == "wait=1"
    finish = later(live, live.finish, lease)
    changed = live.http.get(path, headers={"Prefer": "wait=30", "If-None-Match": tag})
    finish.join()
    assert (changed.status_code, changed.json()["status"]) == (200, "cancelled")
    old = live.http.get(path, headers={"Prefer": "wait=30", "If-None-Match": tag})
    assert old.json() == changed.json()  # at once, as the test would notice


def test_a_job_that_has_ended_is_answered_at_once(live: LiveApi) -> None:
    job_id, lease = live.run()
    live.finish(lease)
    path, wait = f"/v1/jobs/{job_id}", {"Prefer": "wait=30"}
    with live.http.stream("GET", path, headers=wait, timeout=20) as answer:
        assert answer.status_code == 200
    tag = live.http.get(path).headers["etag"]
    known = {**wait, "If-None-Match": tag}
    assert live.http.get(path, headers=known, timeout=20).status_code == 304


def test_a_job_that_is_not_there_is_not_waited_for(live: LiveApi) -> None:
    answer = live.http.get("/v1/jobs/ft_none", headers={"Prefer": "wait=30"}, timeout=20)
    assert answer.status_code == 404
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize(
    ("asked", "applied"),
    [
        ("wait=100000", f"wait={LONGEST_WAIT_SECONDS}"),
        ('respond-async, wait="5"', "wait=5"),
        ("handling=lenient; x=1, wait=7; y", "wait=7"),
        ("wait=0", None),
        ("wait=-1", None),
        ("wait", None),
        ("waits=9", None),
    ],
)
def test_which_preferences_are_applied(live: LiveApi, asked: str, applied: str | None) -> None:
    job_id, lease = live.run()
    live.finish(lease)
    answer = live.http.get(f"/v1/jobs/{job_id}", headers={"Prefer": asked})
    assert answer.headers.get("preference-applied") == applied


def test_many_wait_without_a_thread_or_a_connection(live: LiveApi) -> None:
    """More than the process has threads for requests; others are answered meanwhile."""
    job_id, lease = live.run()
    path, wait = f"/v1/jobs/{job_id}", {"Prefer": "wait=30"}
    with ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(live.http.get, path, headers=wait) for _ in range(60)]
        while len(live.broadcaster._feeds) == 0 or next(
            iter(live.broadcaster._feeds.values())
        ).followers < len(waiting):
            time.sleep(0.02)
        assert live.http.get("/v1/jobs", timeout=10).status_code == 200
        assert not any(each.done() for each in waiting)
        live.finish(lease)
        assert {each.result().json()["status"] for each in waiting} == {"cancelled"}


def test_requests_that_wait_are_answered_when_the_service_stops(live: LiveApi) -> None:
    job_id, _ = live.run()

    def stop() -> None:
        live.server.should_exit = True

    later(live, stop)
    answer = live.http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=60"}, timeout=30)
    assert (answer.status_code, answer.json()["status"]) == (200, "running")


def test_the_end_of_a_child_is_a_change_of_its_comparison(live: LiveApi) -> None:
    from tests.support.service.queued_comparisons import finish, submit
    from tests.support.service.queued_jobs import take

    parent, children = submit(live.database)
    child = take(live.database)
    end = later(live, finish, live.database, child, 0.5)
    answer = live.http.get(f"/v1/comparisons/{parent}", headers={"Prefer": "wait=30"})
    end.join()
    assert answer.json()["progress"]["step"] == 1
    assert answer.json()["progress"]["total_steps"] == len(children)
