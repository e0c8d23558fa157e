"""The client waits for a job, and follows it, while the service is restarted."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from app.db import Database
from surgeon.client import AsyncClient, Client, Event, Unreachable
from surgeon.client import retries as retries_module
from tests.support.service.live_api import live_api
from tests.support.service.services import free_port, wait_until


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries_module, "MOST_SECONDS", 0.1)


def follow(url: str, job_id: str, events: list[Event]) -> None:
    with Client(url) as client:
        for event in client.follow(job_id):
            events.append(event)  # noqa: PERF402  # a test looks at them meanwhile


async def await_and_follow(url: str, job_id: str, events: list[Event]) -> Any:
    """The end of a job, by a client of an event loop, which follows it at the same time."""
    async with AsyncClient(url) as client:
        job = await client.job(job_id)
        waiting = asyncio.ensure_future(client.wait(job))
        async for event in client.follow(job_id):
            events.append(event)  # noqa: PERF401  # a test looks at them meanwhile
        return await waiting


class Later(threading.Thread):
    """A call on a thread of its own, and what came of it."""

    def __init__(self, call: Any) -> None:
        super().__init__(daemon=True)
        self.call = call
        self.outcome: Any = None
        self.start()

    def run(self) -> None:
        self.outcome = self.call()

    def end(self) -> Any:
        self.join(60)
        assert not self.is_alive()
        return self.outcome


@pytest.mark.usefixtures("quick")
def test_a_service_that_comes_back_is_asked_again(tmp_path: Path) -> None:
    url, port = f"sqlite:///{tmp_path / 'test.db'}", free_port()
    base = f"http://127.0.0.1:{port}"
    Database(url).upgrade()
    seen: list[str] = []
    known = threading.Event()

    def on_update(job: Any) -> None:
        seen.append(job["status"])
        if len(seen) > 1:
            known.set()

    events: list[Event] = []
    also_events: list[Event] = []
    with Client(base) as client:
        with live_api(tmp_path, url, port) as live:
            job_id, lease = live.run()
            job = client.job(job_id)
            waiting = Later(lambda: client.wait(job, on_update))
            following = Later(lambda: follow(base, job_id, events))
            both = Later(lambda: asyncio.run(await_and_follow(base, job_id, also_events)))
            live.happen(job_id, 1)
            assert known.wait(30)
            wait_until(lambda: numbers(events) == numbers(also_events) == [1], 30)
        with live_api(tmp_path, url, port) as live:
            live.happen(job_id, 2)
            live.finish(lease)
            ended, also_ended = waiting.end(), both.end()
            following.end()
    assert (ended["status"], also_ended["status"]) == ("cancelled", "cancelled")
    assert (seen[0], seen[-1]) == ("running", "cancelled")
    assert numbers(events) == [1, 2]
    stored = [event for event in events if event.seq is not None]
    assert [event.seq for event in stored] == sorted({event.seq for event in stored if event.seq})
    assert [event for event in also_events if event.seq is not None] == stored


def numbers(events: list[Event]) -> list[int]:
    """The numbers of the events that the test has caused."""
    return [event.data["number"] for event in events if event.type == "test"]


def test_a_service_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries_module, "FIRST_SECONDS", 0.01)
    client = Client(f"http://127.0.0.1:{free_port()}", patience=0.1)
    client.reached = True  # once it had answered
    with client, pytest.raises(Unreachable, match="surgeon serve"):
        client.wait({"id": "ft_1", "terminal": False})


def test_a_service_that_never_answered_is_given_up_at_once() -> None:
    with Client(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(Unreachable):
        client.call("GET", "/v1/jobs")
