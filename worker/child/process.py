"""A process that runs one job after the other, as its supervisor says, and tells how each ended."""

from __future__ import annotations

import errno
import gc
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TextIO, TypeVar

from pydantic import TypeAdapter

from surgery.errors import InternalError, StorageFailed, SurgeryError
from surgery.io.reporter import Stopped
from worker.protocol import (
    Cancel,
    Channel,
    ChannelReporter,
    Drain,
    Failed,
    Fetched,
    Finished,
    Halted,
    JobReporter,
    Ready,
    WorkOrder,
    die_with_parent,
    read_message,
)

Work = TypeVar("Work", bound=WorkOrder)


class Child(Generic[Work]):
    """Hears the supervisor on one thread, works on the main one.

    ``orders`` reads what this process may be told and ``runner`` does what it is told. ``explain``
    makes an error of a failure that is no error of the science.
    """

    def __init__(
        self,
        channel: Channel,
        orders: TypeAdapter[Work | Cancel | Drain],
        runner: Callable[[Work, JobReporter], Finished | Fetched],
        explain: Callable[[BaseException, Work], SurgeryError],
    ) -> None:
        self._channel, self._orders = channel, orders
        self._runner, self._explain = runner, explain
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._stop, self._drain = threading.Event(), threading.Event()

    def listen(self, stream: TextIO) -> None:
        """Until the other side closes the pipe, which ends the process at once."""
        for line in stream:
            match read_message(self._orders, line):
                case Cancel():
                    self._stop.set()
                case Drain():
                    self._drain.set()
                case order:
                    self._work.put(order)
        os._exit(0)

    def serve(self) -> None:
        """Do one thing after the other, as standard input says."""
        threading.Thread(target=self.listen, args=(sys.stdin,), daemon=True).start()
        self._channel.send(Ready())
        while True:
            order = self._work.get()
            self._stop.clear()
            self._drain.clear()
            self.run(order)

    def run(self, order: Work) -> None:
        """Do what is ordered and say how it ended."""
        report = ChannelReporter(self._channel, order.scratch, self._stop, self._drain)
        try:
            self._channel.send(self._runner(order, report))
        except Stopped as stop:
            self._channel.send(Halted(resumable=stop.resumable))
        except SurgeryError as error:
            self._channel.send(Failed.by(error))
        except BaseException as error:  # noqa: BLE001  # the one place where any failure is recorded
            # Any: the panic of a library in Rust is no Exception.
            traceback.print_exc()
            self._channel.send(Failed.by(self._explain(error, order)))


def internal_error(error: BaseException) -> SurgeryError:
    """A failure of which nothing is known; a full disk is."""
    # Safetensors' own error is no OSError, but says the same.
    if os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EDQUOT) in str(error):
        return StorageFailed(
            "the worker's disk is full: what was being written is dropped, earlier checkpoints are "
            "as they were; free some room and submit again"
        )
    return InternalError(f"{type(error).__name__}: {str(error)[:500]}")


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
