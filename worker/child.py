"""The warm process: imports torch once, then runs one job at a time, as its supervisor says.

It reads JSON lines on standard input and answers on the descriptor that was its standard output;
whatever libraries print goes to standard error. It has no database, no network and no secret, and
reads no files but its own (see `worker.confinement`): all it knows of a job is in the message. It
dies with its supervisor and may be killed at any moment.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from surgery.errors import OutOfMemory, StorageFailed, SurgeryError
from surgery.progress import Reporter, Stopped
from worker.confinement import Confinement, confine

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


Runner = Callable[[Json, JobReporter], tuple[Json, Json]]
Explain = Callable[[BaseException, Json], Json]


class Child:
    """Hears the supervisor on one thread, works on the main one.

    ``runners`` has a function for each kind of job. ``explain`` makes a problem of a failure that
    is no error of the science.
    """

    def __init__(self, channel: Channel, runners: Mapping[str, Runner], explain: Explain) -> None:
        self._channel, self._runners, self._explain = channel, runners, explain
        self._work: queue.SimpleQueue[Json] = queue.SimpleQueue()
        self._stop, self._drain = threading.Event(), threading.Event()

    def listen(self, orders: TextIO) -> None:
        """Until the other side closes the pipe, which ends the process at once."""
        for line in orders:
            message = json.loads(line)
            kind = message["type"]
            if kind == "run":
                self._work.put(message)
            elif kind == "cancel":
                self._stop.set()
            elif kind == "drain":
                self._drain.set()
        os._exit(0)

    def serve(self) -> None:
        """Run one job after the other, as standard input says."""
        threading.Thread(target=self.listen, args=(sys.stdin,), daemon=True).start()
        self._channel.send("ready")
        while True:
            message = self._work.get()
            self._stop.clear()
            self._drain.clear()
            self.run(self._runners[message["kind"]], message)

    def run(self, runner: Runner, message: Json) -> None:
        """Run one job and say how it ended."""
        report = ChannelReporter(self._channel, Path(message["scratch"]), self._stop, self._drain)
        try:
            result, resolved = runner(message, report)
            self._channel.send("result", result=result, resolved=resolved)
        except Stopped as stop:
            self._channel.send("stopped", resumable=stop.resumable)
        except SurgeryError as error:
            self._channel.send("error", problem=error.as_problem())
        except BaseException as error:  # noqa: BLE001  # the one place where any failure is recorded
            # Any: the panic of a library in Rust is no Exception.
            traceback.print_exc()
            self._channel.send("error", problem=self._explain(error, message))


def unexpected(error: BaseException, message: Json) -> Json:
    """The problem of a job's failure that no error of the science describes."""
    from surgery.library_errors import failure_of_model  # these import torch
    from surgery.prefix_store import release_held
    from surgery.sample import is_out_of_memory

    if is_out_of_memory(error):
        release_held()
        options = message["spec"].get("training") or message["spec"]
        size = options.get("batch_size")
        hint = f"try batch_size {max(1, size // 2)}" if size else "give a smaller batch_size"
        shorter = f" or max_length below {options['max_length']}"
        return OutOfMemory(f"the device ran out of memory; {hint}{shorter}").as_problem()
    failed = failure_of_model(error)
    if failed is not None:
        return failed.as_problem()
    return internal_problem(error, message)


def internal_problem(error: BaseException, message: Json) -> Json:  # noqa: ARG001  # as `Explain` is called
    """The problem of a failure of which nothing is known; a full disk is."""
    # Safetensors' own error is no OSError, but says the same.
    if os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EDQUOT) in str(error):
        return StorageFailed(
            "the worker's disk is full: what was being written is dropped, earlier checkpoints are "
            "as they were; free some room and submit again"
        ).as_problem()
    return {
        "type": "about:blank",
        "title": "Internal error",
        "code": "internal",
        "detail": f"{type(error).__name__}: {str(error)[:500]}",
        "retriable": False,
        "errors": [],
    }


def open_channel(parent: int) -> Channel:
    """Set up a process that a supervisor started, and the pipe to it."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Libraries that print must not write into the protocol.
    channel = Channel(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    return channel


@contextmanager
def uncollected() -> Iterator[None]:
    """For imports of torch and its like: they take some ten seconds, a tenth less this way.

    Python would look for garbage again and again among many thousand things that all stay.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def main() -> None:
    """Confine this process, then import torch and serve."""
    parent, kept = int(sys.argv[1]), Confinement.from_json(sys.argv[2])
    for failure in confine(kept):
        print(f"the job's process is not fully confined: {failure}", file=sys.stderr)  # noqa: T201
    # After it: new namespaces make the kernel forget whose death is to be followed.
    channel = open_channel(parent)
    with uncollected():
        from worker.runners import RUNNERS

    Child(channel, RUNNERS, unexpected).serve()


if __name__ == "__main__":
    main()
