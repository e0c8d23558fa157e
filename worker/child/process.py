"""A process that runs one job after the other, as its supervisor says, and tells how each ended."""

from __future__ import annotations

import errno
import gc
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from surgery.errors import StorageFailed, SurgeryError
from surgery.io.reporter import Stopped
from worker.protocol import Channel, ChannelReporter, JobReporter, Json, die_with_parent

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
