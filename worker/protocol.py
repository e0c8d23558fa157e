"""What a supervisor and its child tell each other: JSON lines over two pipes.

A child dies with its supervisor.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from surgery.io.reporter import Reporter, Stopped

Json = dict[str, Any]
PROGRESS_SECONDS = 0.25  # between two reports of a step
PR_SET_PDEATHSIG = 1


class Channel:
    """JSON lines to the supervisor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, kind: str, **data: Any) -> None:
        """One message."""
        line = json.dumps({"type": kind, **data}, allow_nan=False)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


class JobReporter(Reporter, Protocol):
    """A reporter that also carries a runner's own messages."""

    def tell(self, kind: str, **data: Any) -> None:
        """A message to the supervisor."""

    def check(self) -> None:
        """Raise Stopped when the job should end."""


class ChannelReporter:
    """Reports a run to the supervisor, and stops it when the supervisor says so."""

    def __init__(
        self, channel: Channel, scratch: Path, stop: threading.Event, drain: threading.Event
    ):
        self._channel = channel
        self._scratch = scratch
        self._stop, self._drain = stop, drain
        self._sent = self._began = 0.0

    def phase(self, name: str) -> None:
        """Always told at once."""
        self._began, self._sent = time.monotonic(), 0.0
        self._channel.send("phase", name=name)
        note(name)

    def step(self, done: int, total: int | None, unit: str) -> None:
        """Told a few times a second; raises Stopped."""
        self.check()
        now = time.monotonic()
        if now - self._sent < PROGRESS_SECONDS and done != total:
            return
        self._sent = now
        spent = now - self._began
        self._channel.send(
            "progress",
            percent=round(100 * done / total, 1) if total else None,
            step=done,
            total_steps=total,
            unit=unit,
            eta_seconds=round(spent / done * (total - done), 1) if total and done else None,
        )

    def check(self) -> None:
        """Raise Stopped when the supervisor asked for it."""
        if self._stop.is_set():
            raise Stopped(resumable=False)
        if self._drain.is_set():
            raise Stopped(resumable=True)

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """Numbers for the metrics table."""
        self._channel.send("metric", step=step, epoch=round(epoch, 4), values=dict(values))
        known = [f"{name} {value:.6g}" for name, value in values.items() if value is not None]
        note(f"step {step}: {', '.join(known)}")

    def checkpoint(self, directory: Path, record: Mapping[str, Any]) -> None:
        """A complete folder for the supervisor to store."""
        self._channel.send("checkpoint", path=str(directory), record=dict(record))

    def state(self, directory: Path, step: int) -> None:
        """A complete folder to resume from."""
        self._channel.send("state", path=str(directory), step=step)

    def new_folder(self, name: str) -> Path:
        """Inside this attempt's own scratch folder."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch / name

    def tell(self, kind: str, **data: Any) -> None:
        """A message of a runner's own."""
        self._channel.send(kind, **data)


def note(text: str) -> None:
    """A line of the job's log, whose last ones are kept where the process is lost."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)  # noqa: T201


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its supervisor dies; elsewhere, end of input does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)
