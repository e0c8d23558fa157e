"""The API without workers behind a real socket, for what a test client cannot do: streams."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx2
import uvicorn

from app.db import Database
from app.db.tables import Job, JobKind, new_id
from app.jobs import state_machine
from app.jobs.state_machine import Lease, enqueue, record_event
from app.main import Server, create_app
from app.settings import Settings
from tests.support.service.queued_jobs import RESOLVED, take
from tests.support.service.services import free_port

Json = dict[str, Any]


@dataclass
class LiveApi:
    """An API that answers, and its database, in which a test plays the worker."""

    server: Server
    database: Database
    http: httpx2.Client

    @property
    def broadcaster(self) -> Any:
        return self.server.config.app.state.broadcaster  # type: ignore[union-attr]

    def queue(self, kind: JobKind = JobKind.FINETUNE, **values: Any) -> str:
        """A queued job; its id."""
        job = Job(
            id=new_id("ft"), kind=kind, spec={}, labels={}, model="m", dataset="d", digest="x",
            max_attempts=3, resolved=RESOLVED, **values,
        )  # fmt: skip
        with self.database.write() as session:
            enqueue(session, job)
        return job.id

    def run(self) -> tuple[str, Lease]:
        """A running job."""
        job_id = self.queue()
        lease = take(self.database)
        assert lease.job_id == job_id
        return job_id, lease

    def happen(self, job_id: str, *numbers: int) -> None:
        """Events of a type of their own, each in a transaction of its own."""
        for number in numbers:
            with self.database.write() as session:
                record_event(session, job_id, 1, "test", {"number": number})

    def finish(self, lease: Lease) -> None:
        state_machine.end_cancelled(self.database, lease)

    @contextlib.contextmanager
    def stream(self, job_id: str, **headers: str) -> Iterator[Messages]:
        """The event stream of a job."""
        accept = {"Accept": "text/event-stream", **headers}
        with self.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=accept) as answer:
            yield Messages(answer)


@dataclass
class Message:
    """One message of an event stream."""

    event: str = ""
    id: str | None = None
    data: Any = None


@dataclass
class Messages:
    """The messages of an event stream as they come; comments are counted."""

    answer: httpx2.Response
    comments: list[str] = field(default_factory=list)
    retry: str | None = None

    def __post_init__(self) -> None:
        self._messages = self._read()

    def __iter__(self) -> Iterator[Message]:
        return self._messages

    def _read(self) -> Iterator[Message]:
        fields: dict[str, str] = {}
        for line in self.answer.iter_lines():
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                self.comments.append(line)
            elif line:
                fields[name] = value
            elif "event" in fields:
                yield Message(fields["event"], fields.get("id"), json.loads(fields["data"]))
                fields = {}
            else:
                self.retry = fields.pop("retry", self.retry)

    def numbers(self) -> list[tuple[int, int]]:
        """Number and position of each event that a test has caused, up to the end."""
        return [(m.data["data"]["number"], int(m.id or 0)) for m in self if m.event == "test"]


class Running(threading.Thread):
    """A server on a thread of its own."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server = server

    def run(self) -> None:
        self.server.run()

    def __enter__(self) -> Self:
        self.start()
        while not self.server.started:
            assert self.is_alive()
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.join(20)
        assert not self.is_alive(), "the server did not stop"


@contextlib.contextmanager
def live_api(folder: Path, url: str, port: int | None = None) -> Iterator[LiveApi]:
    """The API on a database that is migrated already."""
    app = create_app(Settings(data_dir=folder, database_url=url, offline=True))
    port = port or free_port()
    options: Json = {"timeout_graceful_shutdown": 5, "log_config": None, "access_log": False}
    server = Server(uvicorn.Config(app, host="127.0.0.1", port=port, **options))
    base = f"http://127.0.0.1:{port}"
    with Running(server), httpx2.Client(base_url=base, timeout=30) as http:
        database = Database(url)
        with contextlib.closing(database):
            yield LiveApi(server, database, http)
