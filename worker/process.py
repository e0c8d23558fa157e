"""The supervisor's end of the child: start it, talk to it, kill it."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from app.settings import Settings

log = logging.getLogger("surgeon.worker")
LOG_SECONDS = 0.2  # for the log to catch up
LOG_LINES = 50  # kept for the error of a job whose process died
# What a job's process may know of the environment: no database, no broker, no keys.
PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV",
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "HF_ENDPOINT",
    "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE",
)  # fmt: skip
# How the processes of one job reach each other: interfaces, transports, time limits.
PASSED_PREFIXES = ("NCCL_", "GLOO_")
# What trackers go by: their addresses and credentials, which stay in that process.
TRACKERS = (
    "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH", "WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT",
    "WANDB_ENTITY", "WANDB_BASE_URL", "WANDB_DIR",
)  # fmt: skip


class ChildProcess:
    """A warm process and the messages it sent."""

    def __init__(self, settings: Settings) -> None:
        self.jobs = 0
        self.messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.log_tail: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.child", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(settings),
            start_new_session=True,  # a group of its own, killed whole
        )
        self._readers = [
            threading.Thread(target=self._read_messages, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_log, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def _read_messages(self, stream: IO[bytes]) -> None:
        for line in stream:
            try:
                self.messages.put(json.loads(line))
            except ValueError:
                log.warning("a line that is no message from the job's process: %.200r", line)
        self.messages.put({"type": "gone"})

    def _read_log(self, stream: IO[bytes]) -> None:
        for raw in stream:
            line = raw.decode(errors="replace").rstrip()
            self.log_tail.append(line)
            log.info("job process: %s", line)

    def send(self, message: dict[str, Any]) -> None:
        """One message; a process that is gone is noticed by ``gone``, not here."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, if one comes in time."""
        try:
            return self.messages.get(timeout=max(0.001, seconds))
        except queue.Empty:
            return None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """The whole group, at once, and every descriptor it held."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for reader in self._readers:
            reader.join(timeout=2)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def last_lines(self) -> list[str]:
        """What it printed last; the log is another pipe than the messages, and may come later."""
        time.sleep(LOG_SECONDS)
        return list(self.log_tail)

    def how_it_ended(self) -> str:
        """In words, for the job's error."""
        code = self._process.wait()
        if code >= 0:
            return f"the job's process exited with code {code}"
        name = signal.Signals(-code).name
        hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
        return f"the job's process was killed by {name}{hint}"


def _environment(settings: Settings) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in {*PASSED_ON, *TRACKERS} or name.startswith(PASSED_PREFIXES)
    }
    kept |= {
        "HF_HOME": str(settings.sources.cache / "huggingface"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "true",
        # Threads that spin while they wait for each other cost a time slice at every operation
        # as soon as anything else runs on the machine: measured 15 times slower steps.
        # Some 30 µs of it, though, spare the wake-up between two small operations.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
        "PYTHONUNBUFFERED": "1",
        # Deterministic runs need it, and it is read once, at the first product on a GPU.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    if settings.offline:
        kept["HF_HUB_OFFLINE"] = "1"
    if settings.hf_token:
        kept["HF_TOKEN"] = settings.hf_token.get_secret_value()
    return kept


def remove_older(folder: Path, age_seconds: float) -> None:
    """The folders in a folder that were not touched for so long; other workers may do the same."""
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > age_seconds:
                shutil.rmtree(path, ignore_errors=True)
