"""Server-Sent Events: nothing is lost or repeated, whatever happens while a client reads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from fastapi.testclient import TestClient

from app.api.following import broadcaster, event_stream, signals
from app.db import Database
from app.jobs import state_machine
from app.jobs.state_machine import record_event
from app.main import create_app
from app.settings import Settings
from tests.support.service.live_api import LiveApi, live_api
from tests.support.service.problems import problem, says

LEASE = timedelta(seconds=60)


def test_a_stream_begins_with_the_past_and_goes_on_to_the_end(live: LiveApi) -> None:
    job_id, lease = live.run()
    live.happen(job_id, 1, 2)
    with live.stream(job_id) as messages:
        answer = messages.answer
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        seen = []
        for message in messages:
            seen.append(message)
            if message.data.get("data", {}).get("number") == 2:
                live.happen(job_id, 3)
                live.finish(lease)
    assert messages.retry == "2000"
    page = live.http.get(f"/v1/jobs/{job_id}/events").json()["data"]
    events = [message for message in seen if message.id is not None]
    assert [message.data for message in events] == page
    assert [(int(m.id or 0), m.event) for m in events] == [(e["seq"], e["type"]) for e in page]
    assert [e["type"] for e in page] == ["status"] * 2 + ["test"] * 3 + ["status"]
    assert (seen[-1].event, seen[-1].id) == ("done", None)
    assert seen[-1].data == {"id": job_id, "status": "cancelled"}


def test_a_client_that_comes_again_misses_nothing(live: LiveApi) -> None:
    job_id, lease = live.run()
    live.happen(job_id, 1, 2, 3)
    live.finish(lease)
    with live.stream(job_id) as messages:
        positions = dict(messages.numbers())
    for header in ({"Last-Event-ID": str(positions[1])}, {"last-event-id": str(positions[2])}):
        with live.stream(job_id, **header) as messages:
            seen = [number for number, _ in messages.numbers()]
        assert seen == ([2, 3] if positions[1] == int(next(iter(header.values()))) else [3])
    after = {"after": positions[2]}
    accept = {"Accept": "text/event-stream"}
    text = live.http.get(f"/v1/jobs/{job_id}/events", params=after, headers=accept).text
    assert '"number":3' in text
    assert '"number":2' not in text
    assert text.endswith('event: done\ndata: {"id": "' + job_id + '", "status": "cancelled"}\n\n')


def test_many_followers_get_every_event_once_in_order(live: LiveApi) -> None:
    """They come at different times, while the events happen in several transactions at once."""
    job_id, lease = live.run()
    total = 240

    def follow(delay: float) -> list[int]:
        time.sleep(delay)
        with live.stream(job_id) as messages:
            numbers = messages.numbers()
            positions = [position for _, position in numbers]
            assert positions == sorted(set(positions))
            return sorted(number for number, _ in numbers)

    with ThreadPoolExecutor(16) as threads:
        followers = [threads.submit(follow, 0.05 * index) for index in range(8)]
        writers = [
            threads.submit(live.happen, job_id, *range(first, total, 4)) for first in range(4)
        ]
        for writer in writers:
            writer.result()
        live.finish(lease)
        for follower in followers:
            assert follower.result() == list(range(total))


def test_a_transaction_that_commits_late_loses_no_event(postgres_url: str, tmp_path: Path) -> None:
    """Its event has the smaller number or comes later: never a smaller number later."""
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    Database(url).upgrade()
    with live_api(tmp_path, url) as live:
        job_id, lease = live.run()
        with live.database.write() as slow:
            record_event(slow, job_id, 1, "test", {"number": 1})
            slow.flush()
            other = threading.Thread(target=live.happen, args=(job_id, 2))
            other.start()  # commits as soon as it can
            other.join(0.3)
        other.join()
        live.finish(lease)
        with live.stream(job_id) as messages:
            assert [number for number, _ in messages.numbers()] == [1, 2]


def test_progress_has_no_id_and_comes_when_it_changes(
    live: LiveApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "PROGRESS_SECONDS", 0.1)
    job_id, lease = live.run()
    percents: list[float] = []
    with live.stream(job_id) as messages:
        for message in messages:
            if message.event != "progress":
                continue
            assert message.id is None
            assert message.data["status"] == "running"
            percents.append(message.data["progress"]["percent"])
            if len(percents) == 4:
                live.finish(lease)
            else:
                progress = {"percent": 10.0 * len(percents), "step": 1}
                state_machine.renew(live.database, lease, LEASE, "train", progress)
    assert percents == [0.0, 10.0, 20.0, 30.0]


def test_silence_is_filled_with_comments(live: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "SILENCE_SECONDS", 0.05)
    job_id = live.queue()
    with live.stream(job_id) as messages:
        for line in messages.answer.iter_lines():
            if line.startswith(":"):
                state_machine.cancel(live.database, job_id)
            if line == "event: done":
                break


def test_a_stream_is_cut_and_goes_on_elsewhere(
    live: LiveApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, lease = live.run()
    live.happen(job_id, 1)
    with monkeypatch.context() as patched:
        patched.setattr(event_stream, "STREAM_SECONDS", 1.0)
        with live.stream(job_id) as messages:
            first = messages.numbers()
    live.happen(job_id, 2)
    live.finish(lease)
    with live.stream(job_id, **{"Last-Event-ID": str(first[-1][1])}) as messages:
        assert [number for number, _ in first + messages.numbers()] == [1, 2]


def test_more_events_than_are_kept_in_memory(
    live: LiveApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come in one transaction, so that no follower can keep up with the feed."""
    monkeypatch.setattr(broadcaster, "EVENTS_A_PAGE", 7)
    job_id, lease = live.run()
    total = 2 * broadcaster.EVENTS_KEPT
    with live.stream(job_id) as messages:
        next(iter(messages))
        with live.database.write() as session:
            for number in range(total):
                record_event(session, job_id, 1, "test", {"number": number})
        live.finish(lease)
        assert [number for number, _ in messages.numbers()] == list(range(total))


def test_streams_end_when_the_service_stops(live: LiveApi) -> None:
    job_id = live.queue()
    with live.stream(job_id) as messages:
        iterator = iter(messages)
        next(iterator)
        live.server.should_exit = True
        assert [message.event for message in iterator] == []


def test_nobody_follows_when_all_have_gone(live: LiveApi) -> None:
    job_id = live.queue()
    with live.stream(job_id) as messages:
        next(iter(messages))
    deadline = time.monotonic() + 20
    while live.broadcaster._feeds and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not live.broadcaster._feeds


def test_a_lost_connection_to_postgres_loses_no_event(
    postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The listening connection is ended by the server, again and again."""
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    Database(url).upgrade()
    with live_api(tmp_path, url) as live, psycopg.connect(postgres_url, autocommit=True) as admin:
        job_id, lease = live.run()
        with live.stream(job_id) as messages:
            next(iter(messages))
            for number in range(3):
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE query LIKE 'LISTEN%' AND datname = current_database()"
                )
                live.happen(job_id, number)
            live.finish(lease)
            assert [number for number, _ in messages.numbers()] == [0, 1, 2]
    assert "no notifications from Postgres, polling until it is back" in caplog.text


def test_without_notifications_every_job_is_read_from_time_to_time(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler between the service and Postgres may swallow them."""
    monkeypatch.setattr(signals, "CHANNEL", "another_channel")
    monkeypatch.setattr(signals, "SWEEP_SECONDS", 0.2)
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    Database(url).upgrade()
    with live_api(tmp_path, url) as live:
        job_id, lease = live.run()
        with live.stream(job_id) as messages:
            next(iter(messages))
            live.happen(job_id, 1)
            live.finish(lease)
            assert [number for number, _ in messages.numbers()] == [1]


def test_a_stream_has_the_same_rules_of_access(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, offline=True)
    accept = {"Accept": "text/event-stream"}
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as api:
        problem(api.get("/v1/jobs/ft_none/events", headers=accept), 404, "not_found")
        job = api.get("/v1/jobs").json()
        assert job["data"] == []


@pytest.mark.parametrize("given", ["x", "-1", "1.5", str(2**63)])
def test_a_last_event_id_that_no_event_has_is_refused(live: LiveApi, given: str) -> None:
    job_id = live.queue()
    headers = {"Accept": "text/event-stream", "Last-Event-ID": given}
    answer = live.http.get(f"/v1/jobs/{job_id}/events", headers=headers)
    says(problem(answer, 422, "invalid"), "/last-event-id")


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("text/event-stream", True),
        ("text/event-stream, application/json", True),
        ("application/json, text/event-stream;q=0.5", False),
        ("application/json;q=0.1, text/event-stream;q=0.5", True),
        ("text/event-stream;q=0", False),
        ("TEXT/EVENT-STREAM", True),
        ("*/*", False),
        ("", False),
    ],
)
def test_the_accept_header_chooses(accept: str, streams: bool) -> None:
    assert event_stream.wants_event_stream(accept) is streams
