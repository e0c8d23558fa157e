"""A process that carries out its supervisor's orders and reports how each of them ended."""

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
from surgery.schemas.resolved import PeakMemory
from worker.protocol import (
    Cancel,
    Channel,
    ChannelReporter,
    Drain,
    Ending,
    Failed,
    Fetched,
    Finished,
    Halted,
    JobReporter,
    Published,
    Ready,
    WorkOrder,
    die_with_parent,
    read_message,
)

Work = TypeVar("Work", bound=WorkOrder)


class Child(Generic[Work]):
    """Reads the supervisor's orders on one thread and carries them out on the main thread.

    ``orders`` parses the orders that this process accepts and ``runner`` carries them out.
    ``explain`` turns any exception that is no `SurgeryError` into one. ``peaks`` measures the
    memory that an order took.
    """

    def __init__(
        self,
        channel: Channel,
        orders: TypeAdapter[Work | Cancel | Drain],
        runner: Callable[[Work, JobReporter], Finished | Fetched | Published],
        explain: Callable[[BaseException, Work], SurgeryError],
        peaks: Callable[[], PeakMemory] = PeakMemory,
    ) -> None:
        self._channel, self._orders = channel, orders
        self._runner, self._explain, self._peaks = runner, explain, peaks
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._stop, self._drain = threading.Event(), threading.Event()

    def listen(self, stream: TextIO) -> None:
        """Read orders until the supervisor closes the pipe, then end this process at once."""
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
        """Carry out the orders that arrive on standard input, one after the other."""
        threading.Thread(target=self.listen, args=(sys.stdin,), daemon=True).start()
        self._channel.send(Ready())
        while True:
            order = self._work.get()
            self._stop.clear()
            self._drain.clear()
            self.run(order)

    def run(self, order: Work) -> None:
        """Carry out an order and report how it ended."""
        report = ChannelReporter(self._channel, order.scratch, self._stop, self._drain)
        try:
            self._end(self._runner(order, report))
        except Stopped as stop:
            self._end(Halted(resumable=stop.resumable))
        except SurgeryError as error:
            self._end(Failed.by(error))
        except BaseException as error:  # noqa: BLE001  # the one place where any failure is recorded
            # BaseException, because the panic of a library written in Rust is no Exception.
            traceback.print_exc()
            self._end(Failed.by(self._explain(error, order)))

    def _end(self, ending: Ending) -> None:
        peak = ending.peak.combined(self._peaks())
        self._channel.send(ending.model_copy(update={"peak": peak}))


def internal_error(error: BaseException) -> SurgeryError:
    """The error to report for an unexpected exception; a full disk is recognised by its text."""
    # The error class of safetensors is no OSError, but contains the same text.
    if os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EDQUOT) in str(error):
        return StorageFailed(
            "the worker's disk is full: what was being written is lost, "
            "earlier checkpoints are as they were; free some space and submit the job again"
        )
    return InternalError(f"{type(error).__name__}: {str(error)[:500]}")


def open_channel(parent: int) -> Channel:
    """Set up this process, which a supervisor started, and open the pipe to the supervisor."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Text that libraries print must not get between the messages.
    channel = Channel(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    return channel


@contextmanager
def uncollected() -> Iterator[None]:
    """Switch garbage collection off while torch and other large libraries are imported.

    The import takes about ten seconds, and a tenth less this way: Python would otherwise search
    many thousand new objects for garbage again and again, and none of them is.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
