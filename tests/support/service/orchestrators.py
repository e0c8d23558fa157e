"""Orchestrators in environments of their own, and what a service was asked by them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgeon.client import Client
from tests.support.service.deployment import ROOT
from tests.support.service.services import wait_until

EXAMPLES = ROOT / "examples/orchestrators"
SCENARIOS = ROOT / "tests/service/orchestrators/scenarios"
VENVS = ROOT / "build/venvs"
KEY = "sk_canary_of_the_orchestrators"
SENSELESS = "broken/senseless"  # its job fails: its heads do not divide its width
QUIET = {  # nobody is told of these runs
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # a busy machine starts it slowly
    "DO_NOT_TRACK": "1",
}


@dataclass
class Asked:
    """A service that an orchestrator asks, by a client that has its key."""

    client: Client
    dataset: str
    seen: set[str] = field(default_factory=set)

    def new_jobs(self) -> list[dict[str, Any]]:
        """The jobs that were submitted since the last call, oldest first."""
        found = self.client.call("GET", "/v1/jobs", params={"limit": 200})["data"]
        new = [job for job in reversed(found) if job["id"] not in self.seen]
        self.seen |= {job["id"] for job in new}
        return new

    def running(self) -> list[dict[str, Any]]:
        """The fine-tunes that run."""
        query = {"kind": "finetune", "status": "running"}
        return list(self.client.call("GET", "/v1/jobs", params=query)["data"])


@dataclass
class Tool:
    """An orchestrator in an environment of its own, and the variables that it is started with."""

    name: str
    environment: dict[str, str]

    def _command(self, *words: str) -> list[str]:
        program = VENVS / self.name / "bin" / words[0]
        assert program.exists(), f"{program} is missing: `make test-examples` makes it"
        return [str(program), *words[1:]]

    def run(self, *words: str, code: int = 0, given: str = "") -> str:
        """Everything that a command prints. The key is never in it."""
        done = subprocess.run(
            self._command(*words), env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, input=given,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        assert KEY not in done.stdout
        return done.stdout

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command while it runs."""
        process = subprocess.Popen(
            self._command(*words), env=self.environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with process:
            try:
                yield process
            finally:
                process.kill()

    def killed_while_training(self, asked: Asked, number: signal.Signals, *words: str) -> None:
        """End a command by a signal while its fine-tune runs: that is cancelled with it."""
        with self.started(*words) as process:
            wait_until(lambda: asked.running() or process.poll() is not None, 120)
            assert process.poll() is None
            process.send_signal(number)
            assert process.wait(60) != 0
        tuned = asked.new_jobs()[-1]
        assert asked.client.wait(tuned)["status"] == "cancelled"


def tool(name: str, home: Path, **environment: str) -> Tool:
    """An orchestrator whose files lie in this folder."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return Tool(name, {**kept, **QUIET, "HOME": str(home), **environment})
