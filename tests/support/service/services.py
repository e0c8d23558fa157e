"""Start the service as its users do: the embedded command, or the commands of the containers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from surgeon.client import Client, Unreachable

Json = dict[str, Any]
# Short enough that a lost worker is noticed within a test.
FAST = {
    "SURGEON_LEASE": "6", "SURGEON_HEARTBEAT": "1", "SURGEON_FENCE_MARGIN": "2",
    "SURGEON_SWEEP": "0.5", "SURGEON_POLL": "0.2", "SURGEON_GRACE": "10",
    "SURGEON_RETRY_BACKOFF": "0.1", "SURGEON_OFFLINE": "true",
    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
}  # fmt: skip
START_SECONDS = 60


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    """A service that answers."""

    client: Client
    data: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """One of its processes; its output goes to a file of the data directory."""
        log = (self.data / f"{command[0]}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "surgeon", *command],
            env={**os.environ, **self.environment, **environment},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        log.close()
        self.processes.append(process)
        return process

    def logs(self) -> str:
        """What every process printed."""
        lines = [
            line
            for path in sorted(self.data.glob("*.log"))
            for line in path.read_text().splitlines()
            if " GET " not in line
        ]
        return "\n".join(lines)

    def wait_ready(self) -> None:
        """Until the API answers."""
        wait_until(self._ready, START_SECONDS, self.logs)

    def _ready(self) -> bool:
        try:
            return bool(self.client.call("GET", "/readyz"))
        except Unreachable:
            return False

    def finished(self, job: Json, seconds: float = 120) -> Json:
        """The job once it is over."""
        wait_until(lambda: self.client.job(job["id"])["terminal"], seconds, self.logs)
        return self.client.job(job["id"])

    def run(self, collection: str, body: Json, seconds: float = 120) -> Json:
        """Submit, wait, and expect success."""
        job = self.finished(self.client.submit(collection, body), seconds)
        assert job["status"] == "succeeded", (job["error"], self.logs()[-3000:])
        return job

    def workers(self) -> list[psutil.Process]:
        """The supervisors."""
        return [p for p in self._descendants() if "worker.main" in _command(p)]

    def children(self) -> list[psutil.Process]:
        """The processes that run jobs."""
        return [p for p in self._descendants() if " worker.child " in _command(p)]

    def _descendants(self) -> Iterator[psutil.Process]:
        for process in self.processes:
            if process.poll() is None:
                own = psutil.Process(process.pid)
                yield from (own, *own.children(recursive=True))

    def replace_worker(self) -> None:
        """Start another where the last one is gone: nobody watches over containers here."""
        if "SURGEON_REDIS_URL" in self.environment:
            self.start(
                "worker",
                "--queues",
                "ranking,finetune,search,prediction,export",
                SURGEON_POLL="0.2",
            )

    def kill(self) -> None:
        """Kill every process at once, as a power failure would."""
        left = list(self._descendants())
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for started in self.processes:  # whoever started a process must wait for it
            started.wait(10)
        psutil.wait_procs(left, timeout=10)
        self.processes.clear()

    def stop(self) -> None:
        """Stop every process as an operator would, and check that none stays behind."""
        left = list(self._descendants())
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(30)
        _, alive = psutil.wait_procs(left, timeout=10)
        for process in alive:
            process.kill()
        assert alive == [], "processes outlived the service"


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def trains(job: Json) -> bool:
    """Whether a fine-tune had begun its epochs when last heard of.

    A tiny model's pass within a second, and once a second is heard which part it is in.
    """
    return job["status"] == "running" and job["phase"] in {"train", "evaluate", "save"}


def wait_until(
    condition: Callable[[], Any], seconds: float, explain: Callable[[], str] = lambda: ""
) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s\n{explain()[-4000:]}")
        time.sleep(0.05)


def _base(data: Path, mirrors: str, port: int, **environment: str) -> Running:
    data.mkdir(parents=True, exist_ok=True)
    settings = {**FAST, "SURGEON_DATA_DIR": str(data), "SURGEON_MIRROR_DIR": mirrors}
    client = Client(f"http://127.0.0.1:{port}")
    return Running(client, data, {**settings, **environment})


@contextmanager
def embedded(data: Path, mirrors: str) -> Iterator[Running]:
    """`surgeon serve`: SQLite, a local poller, no other services."""
    with embedded_with(data, mirrors, {}) as running:
        yield running


@contextmanager
def embedded_with(data: Path, mirrors: str, environment: Mapping[str, str]) -> Iterator[Running]:
    """The same with more variables of its environment."""
    port = free_port()
    running = _base(data, mirrors, port, **environment)
    running.start("serve", "--port", str(port))
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()
        running.client.close()


@contextmanager
def production(
    data: Path, mirrors: str, postgres: str, redis: str, **environment: str
) -> Iterator[Running]:
    """The containers' commands in their order: migrate, then API and worker."""
    port = free_port()
    running = _base(
        data, mirrors, port, SURGEON_DATABASE_URL=postgres, SURGEON_REDIS_URL=redis,
        SURGEON_POLL="5", **environment,
    )  # fmt: skip
    migrate = running.start("db", "upgrade")
    assert migrate.wait(START_SECONDS) == 0, running.logs()
    running.start("api", "--port", str(port))
    running.start("worker", "--queues", "ranking,finetune,search,prediction,export")
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()
        running.client.close()


@contextmanager
def api_alone(
    data: Path, mirrors: str, postgres: str = "", **environment: str
) -> Iterator[Running]:
    """The API on the data of a service that has run before: whatever is queued stays queued."""
    port = free_port()
    if postgres:
        environment["SURGEON_DATABASE_URL"] = postgres
    running = _base(data, mirrors, port, **environment)
    running.start("api", "--port", str(port))
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()
        running.client.close()
