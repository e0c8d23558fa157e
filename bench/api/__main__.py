"""How fast the API answers, beside a hand-written handler and with many finished jobs.

    python -m bench.api [--quick] [--only compare grow submit queue] [--jobs 1000000] [--rounds 5]
                        [--seconds 3] [--json FILE]

The API and what it is compared with run on one core, the load generator and a Postgres of their
own on another. Rounds of all servers alternate, so that whatever else the machine does meets all of
them; ratios are of medians over the rounds. `CPU` is the time that the server's process took for
an answer, which other processes on the machine disturb less than the rate.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.markup import escape

from app.api.answers.job_documents import ALL
from app.db import Database
from app.db.tables import WORKER_KINDS
from app.jobs import state_machine
from bench.api.load import Load, request, run
from bench.api.rows import LEASE, lengthen
from bench.api.servers import API_CORE, LOAD_CORE, Server, Servers
from bench.tables import plain_table
from tests.support.models.mirror import TINY

CLIENTS = 16
FEW = 1000
LONG = 10_000
Json = dict[str, Any]


def rounds(
    cases: dict[str, tuple[Server, bytes]], count: int, seconds: float, clients: int = CLIENTS
) -> dict[str, list[tuple[float, float]]]:
    """Answers a second and CPU microseconds an answer, of each case in each round."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(count):
        for name, (server, sent) in cases.items():
            before = server.cpu_seconds()
            load = run(server.port, itertools.repeat(sent), clients, seconds)
            spent = server.cpu_seconds() - before
            assert len(load.statuses) == 1, load.statuses
            found[name].append((load.rate, 1e6 * spent / len(load.latencies)))
    return found


def compare(servers: Servers, given: argparse.Namespace, console: Console) -> Json:
    """One job, as the service answers it and as others do."""
    job = f"/v1/jobs/{servers.few.job}"
    ours, port = servers.few.api, servers.few.api.port
    tag = ours.header(job, "etag")
    peer, limit = servers.peer("sqlalchemy"), servers.peer("asyncpg")
    whole = request("GET", job)
    cases = {
        "GET job": (ours, whole),
        "GET job, 304": (ours, request("GET", job, if_none_match=tag)),
        "GET job, some fields": (ours, request("GET", f"{job}?fields=id,status,progress")),
        "page of 20 jobs": (ours, request("GET", "/v1/jobs?limit=20")),
        "hand-written FastAPI + SQLAlchemy": (peer, whole),
        "bare asyncpg": (limit, whole),
    }
    for server, sent in cases.values():
        run(server.port, itertools.repeat(sent), CLIENTS, 0.5)
    found = rounds(cases, given.rounds, given.seconds)
    by_hand = [
        median(part) for part in zip(*found["hand-written FastAPI + SQLAlchemy"], strict=True)
    ]
    table = plain_table(
        f"{CLIENTS} clients, port {port}", ["request", "answers/s", "× by hand", "CPU µs", "CPU ×"]
    )
    answer = {}
    for name, values in found.items():
        rate, cpu = (median(part) for part in zip(*values, strict=True))
        ratios = {"rate": rate / by_hand[0], "cpu": by_hand[1] / cpu}
        answer[name] = {"rate": rate, "cpu_us": cpu, "ratio": ratios, "rounds": values}
        table.add_row(
            name, f"{rate:,.0f}", f"{ratios['rate']:.2f}", f"{cpu:,.0f}", f"{ratios['cpu']:.2f}"
        )
    console.print(table)
    return answer


def grow(servers: Servers, given: argparse.Namespace, console: Console) -> Json:
    """The same requests with few and with many finished jobs."""
    few, full = servers.few, servers.full(given.jobs)
    paths: dict[str, Callable[[Any], str]] = {
        "get a finished job": lambda place: f"/v1/jobs/{place.job}",
        "get a queued job (queue.ahead)": lambda place: f"/v1/jobs/{place.queue[-1]}",
        "page of 20": lambda _: "/v1/jobs?limit=20",
        "page, status=failed": lambda _: "/v1/jobs?limit=20&status=failed",
        "page, two statuses": lambda _: "/v1/jobs?limit=20&status=queued&status=failed",
        "page, kind=finetune": lambda _: "/v1/jobs?limit=20&kind=finetune",
        "page, model": lambda _: "/v1/jobs?limit=20&model=owner/model-7",
        "page, metadata[team]": lambda _: "/v1/jobs?limit=20&metadata[team]=team-7",
    }
    found: dict[str, dict[str, list[Load]]] = {
        name: {"few": [], "full": []} for name in [*paths, "claim"]
    }
    for turn in range(given.rounds + 1):
        for size, place in (("few", few), ("full", full)):
            for name, path in paths.items():
                sent = itertools.repeat(request("GET", path(place)))
                load = run(place.api.port, sent, 4, given.seconds / 3)
                assert set(load.statuses) == {200}, (name, load.statuses)
                found[name][size].append(load)
            found["claim"][size].append(claims(place.database, 100))
        if turn == 0:  # the first round fills caches
            for both in found.values():
                both["few"].clear()
                both["full"].clear()
    table = plain_table(
        f"ms with {FEW:,} and {given.jobs:,} finished jobs, medians of rounds",
        ["request", "p50 few", "p50 full", "growth", "p95 few", "p95 full", "growth"],
    )
    answer: Json = {}
    for name, both in found.items():
        cells = []
        for share in (0.5, 0.95):
            small, large = (
                median(load.quantile(share) for load in both[size]) for size in ("few", "full")
            )
            cells += [f"{small:.2f}", f"{large:.2f}", f"{100 * (large / small - 1):+.0f} %"]
            answer.setdefault(name, {})[f"p{100 * share:.0f}"] = {"few": small, "full": large}
        table.add_row(escape(name), *cells)
    console.print(table)
    return answer


def claims(database: Database, count: int) -> Load:
    """The time of claims, each of which is given back."""
    load = Load()
    for _ in range(count):
        began = time.perf_counter()
        claimed = state_machine.claim(database, "bench", WORKER_KINDS, LEASE)
        load.latencies.append(time.perf_counter() - began)
        assert claimed is not None
        state_machine.release(database, claimed[0])
    return load


def submit(servers: Servers, given: argparse.Namespace, console: Console) -> Json:
    """Rankings of a tiny model, each a new job."""
    dataset = servers.few.api.upload()

    def bodies() -> Iterator[bytes]:
        for seed in range(given.submissions):
            body = {"model": TINY, "dataset": dataset, "seed": seed, "cache": "bypass"}
            yield request("POST", "/v1/rankings", json.dumps(body).encode())

    warm = request(
        "POST", "/v1/rankings",
        json.dumps({"model": TINY, "dataset": dataset, "seed": 2**20, "cache": "bypass"}).encode(),
    )  # fmt: skip
    run(servers.few.api.port, iter([warm] * 50), CLIENTS, 60)
    before = servers.few.api.cpu_seconds()
    load = run(servers.few.api.port, bodies(), CLIENTS, 600)
    cpu = 1000 * (servers.few.api.cpu_seconds() - before) / len(load.latencies)
    assert set(load.statuses) == {202}, load.statuses
    table = plain_table(
        f"POST /v1/rankings, {CLIENTS} clients",
        ["answers", "answers/s", "p50 ms", "p99 ms", "CPU ms"],
    )
    table.add_row(
        f"{len(load.latencies)}",
        f"{load.rate:,.0f}",
        f"{load.quantile(0.5):.1f}",
        f"{load.quantile(0.99):.1f}",
        f"{cpu:.1f}",
    )
    console.print(table)
    return {
        "cpu_ms": cpu,
        "rate": load.rate,
        "p50_ms": load.quantile(0.5),
        "p99_ms": load.quantile(0.99),
    }


def long_queue(servers: Servers, given: argparse.Namespace, console: Console) -> Json:
    """Reads of queued jobs, each of which has a place in a short and in a long queue."""
    place, fields = servers.few, "fields=" + ",".join(n for n in ALL if n != "queue")
    paths: dict[str, Callable[[str], str]] = {
        "the last queued job": lambda last: f"/v1/jobs/{last}",
        "page of 20 queued jobs": lambda _: "/v1/jobs?limit=20&status=queued",
        "the same without queue.ahead": lambda _: f"/v1/jobs?limit=20&status=queued&{fields}",
    }
    found: Json = {name: [] for name in paths}
    for long in (False, True):
        last = place.queue[-1]
        if long:
            last = lengthen(place.database, last, LONG)
        for name, path in paths.items():
            sent = itertools.repeat(request("GET", path(last)))
            run(place.api.port, sent, 4, 0.5)
            load = run(place.api.port, sent, 4, given.seconds)
            assert set(load.statuses) == {200}, (name, load.statuses)
            found[name] += [load.quantile(0.5), load.quantile(0.95)]
    table = plain_table(
        f"ms with {len(place.queue)} and {LONG:,} queued jobs",
        ["request", "p50 short", "p95 short", "p50 long", "p95 long"],
    )
    for name, values in found.items():
        table.add_row(name, *(f"{value:.1f}" for value in values))
    console.print(table)
    return found


PARTS = {"compare": compare, "grow": grow, "submit": submit, "queue": long_queue}


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50,000 jobs and short rounds")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--jobs", type=int, help="finished jobs; default 1,000,000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--submissions", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=Path("build/bench/api.json"))
    given = parser.parse_args()
    given.jobs = given.jobs or (50_000 if given.quick else 1_000_000)
    given.seconds = given.seconds or (1.0 if given.quick else 3.0)
    console = Console(width=120)
    os.sched_setaffinity(0, {LOAD_CORE})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = stack.enter_context(Servers(folder, FEW))
        console.print(f"API on core {API_CORE}, load and Postgres on core {LOAD_CORE}")
        found = {name: PARTS[name](servers, given, console) for name in given.only}
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
