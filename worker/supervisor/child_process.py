"""How the supervisor starts the fetcher and the child, exchanges messages with them, ends them."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from pydantic import ValidationError

from app.process.restarts import surviving
from app.settings import Settings
from surgery.schemas.jobs.estimate import Probe
from surgery.schemas.jobs.export import Destination
from surgery.schemas.resolved import PeakMemory
from worker.protocol import Message, Probed, Report, read_report
from worker.supervisor.environments import (
    WorkerFolders,
    child_confinement,
    child_environment,
    fetcher_environment,
    publisher_environment,
)
from worker.supervisor.job_log import NO_SECRETS, Scrubber
from worker.supervisor.meter import host_peak, reset_host_peak

log = logging.getLogger("surgeon.worker")
LOG_SECONDS = 0.2  # time for the last lines of the log to arrive
MAX_MESSAGE_BYTES = 64_000_000  # a ranking of every tensor of a large encoder has some 3 MB
MAX_LOG_LINE_BYTES = 10_000
END_SECONDS = 5.0  # for a process to end that has closed the pipe of its messages
FAULTS_SHOWN = 3  # of a message that cannot be read
LOG_LINES = 50  # that are kept for the error of a job whose process died


class ProcessEnded:
    """The process has ended, and all of its messages have been read."""


class UnreadableMessage(ValueError):
    """The process wrote a line that is no valid message."""


Received = Report | ProcessEnded | UnreadableMessage


def _parsed(line: bytes) -> Report | UnreadableMessage:
    try:
        return read_report(line)
    except ValidationError as error:
        # A hostile message may have millions of faults, and listing them takes memory for each.
        count = error.error_count()
        faults = error.errors(include_input=False) if count <= FAULTS_SHOWN else []
        places = [".".join(map(str, fault["loc"])) + ": " + fault["msg"] for fault in faults]
        return UnreadableMessage(ascii("; ".join(places) or f"{count} faults")[1:301])
    except (ValueError, RecursionError) as error:
        return UnreadableMessage(type(error).__name__)


@dataclass(frozen=True)
class ProbeRequest:
    """Measure the device in these precisions, and call ``done`` with the result, on any thread."""

    precisions: Sequence[str]
    done: Callable[[Probe], None]


def start_child(
    settings: Settings,
    folders: WorkerFolders,
    *,
    multi_process: bool,
    probe: ProbeRequest | None = None,
) -> ChildProcess:
    """The process that runs jobs; ``multi_process`` when it starts further processes for a job.

    With ``probe`` it measures its device before its first job.
    """
    confinement = child_confinement(settings, folders, multi_process=multi_process)
    asked = [",".join(probe.precisions)] if probe else []
    process = ChildProcess(
        ("worker.child", confinement.to_json(), *asked),
        child_environment(folders),
        Scrubber.of(settings),
        on_probe=probe.done if probe else None,
    )
    process.multi_process = multi_process
    return process


def start_fetcher(settings: Settings) -> ChildProcess:
    """The process that fetches models and datasets."""
    command, environment = ("worker.child.fetcher",), fetcher_environment(settings)
    return ChildProcess(command, environment, Scrubber.of(settings))


def start_publisher(settings: Settings, to: Destination) -> ChildProcess:
    """A process that hands one model over."""
    command, environment = ("worker.publisher",), publisher_environment(settings, to)
    return ChildProcess(command, environment, Scrubber.of(settings))


def _print(line: str) -> None:
    log.info("job process: %s", line)


class ChildProcess:
    """A running process and the messages it sent: ``python -m MODULE SUPERVISOR-PID ARGUMENT…``.

    ``scrubber`` makes what it prints safe to show. ``on_probe`` is called if the first message is a
    probe: later the process has read strangers' models, and is not trusted.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        scrubber: Scrubber = NO_SECRETS,
        on_probe: Callable[[Probe], None] | None = None,
    ) -> None:
        module, *arguments = command
        self.jobs = 0
        self._killed = False
        self._scrubber = scrubber
        self._on_probe = on_probe
        self._on_line: Callable[[str], None] = _print
        self.multi_process = False  # whether it may run a job on several processes
        self.messages: queue.SimpleQueue[Received] = queue.SimpleQueue()
        self.log_tail: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(os.getpid()), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,  # a new process group, so that all of it can be killed
        )
        self._readers = [
            threading.Thread(target=self._read_messages, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_log, args=(self._process.stderr,), daemon=True),
        ]
        # Orders are written by a thread of their own: a process that does not read them lets its
        # pipe fill up, and must not hold up whoever sends them.
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_orders, daemon=True)
        for thread in (*self._readers, self._writer):
            thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read_messages(self, stream: IO[bytes]) -> None:
        heard = False
        with surviving("message-reader"):
            self._read_until_end(stream)
            heard = True
        if not heard:  # nobody reads its pipe any more
            os.killpg(self._process.pid, signal.SIGKILL)
        self.messages.put(ProcessEnded())

    def _read_until_end(self, stream: IO[bytes]) -> None:
        while line := stream.readline(MAX_MESSAGE_BYTES):
            if len(line) == MAX_MESSAGE_BYTES:
                log.warning(
                    "the job's process is killed: it sent a message of %d bytes or more",
                    MAX_MESSAGE_BYTES,
                )
                os.killpg(self._process.pid, signal.SIGKILL)
                break
            if not line.endswith(b"\n"):
                break  # the process died before the message was complete
            received, on_probe = _parsed(line), self._on_probe
            self._on_probe = None
            if isinstance(received, Probed) and on_probe is not None:
                on_probe(received.probe)
            else:
                self.messages.put(received)

    def _read_log(self, stream: IO[bytes]) -> None:
        while raw := stream.readline(MAX_LOG_LINE_BYTES):
            with surviving("log-reader"):
                line = self._scrubber.clean(raw.decode(errors="replace").rstrip())
                self.log_tail.append(line)
                self._on_line(line)

    def begin_job(self, on_line: Callable[[str], None]) -> None:
        """Count one more job, forget the log of the last one, and measure memory anew.

        ``on_line`` is called with every line that the process prints from now on.
        """
        self.jobs += 1
        self._on_line = on_line
        self.log_tail.clear()
        reset_host_peak(self.pid)

    def peak_memory(self) -> PeakMemory:
        """The most main memory that the process has held since the job began."""
        return host_peak(self.pid)

    def send(self, order: Message) -> None:
        """Send one message, without waiting until it is read.

        It is no error if the process has ended: `receive` will say so.
        """
        self._orders.put(order.line().encode())

    def _write_orders(self) -> None:
        assert self._process.stdin is not None
        while (order := self._orders.get()) is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(order)
                self._process.stdin.flush()

    def receive(self, seconds: float) -> Received | None:
        """The next message, or None if none arrives within ``seconds``."""
        try:
            return self.messages.get(timeout=max(0.001, seconds))
        except queue.Empty:
            return None

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill the whole process group at once and close its pipes. A second call has no effect."""
        if self._killed:  # another process may have the same id by now
            return
        self._killed = True
        self._strike()
        self._process.wait()
        self._orders.put(None)
        for thread in (*self._readers, self._writer):
            thread.join(timeout=2)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def kill_group(self) -> None:
        """Kill the whole process group, and leave the rest to `kill`. Any thread may do so."""
        if not self._killed and self.alive:
            self._strike()

    def _strike(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _code(self) -> int:
        """How the process ended. One that has closed its pipe and goes on is killed."""
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._strike()
            return self._process.wait()

    def last_lines(self) -> list[str]:
        """The last lines that the process printed.

        The log has a pipe of its own, so its lines may arrive later than the messages.
        """
        time.sleep(LOG_SECONDS)
        return list(self.log_tail)

    @property
    def overran(self) -> bool:
        """Whether the kernel ended it for the processor time it used."""
        return self._code() == -signal.SIGXCPU

    @property
    def aborted(self) -> bool:
        """Whether a library in it gave up (SIGABRT) or broke (SIGSEGV)."""
        return self._code() in {-signal.SIGABRT, -signal.SIGSEGV}

    def how_it_ended(self) -> str:
        """A sentence on how the process ended, for the job's error."""
        code = self._code()
        if code >= 0:
            return f"the job's process exited with code {code}"
        name = signal.Signals(-code).name
        if self.overran:
            return "the job used more processor time than its deadline allows on all cores together"
        hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
        return f"the job's process was killed by {name}{hint}"
