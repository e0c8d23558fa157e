"""The supervisor's end of its further processes: start them, talk to them, kill them."""

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
from collections.abc import Mapping, Sequence
from typing import IO

from pydantic import ValidationError

from app.settings import Settings
from worker.protocol import REPORTS, Message, Report, read_message
from worker.supervisor.environments import (
    WorkerFolders,
    child_confinement,
    child_environment,
    fetcher_environment,
)

log = logging.getLogger("surgeon.worker")
LOG_SECONDS = 0.2  # for the log to catch up
MAX_MESSAGE_BYTES = 64_000_000  # a ranking of every tensor of a large encoder has some 3 MB
MAX_LOG_LINE_BYTES = 10_000
FAULTS_SHOWN = 3  # of a message that is none
LOG_LINES = 50  # kept for the error of a job whose process died


class Gone:
    """The process has ended, and said all it had to say."""


class Unreadable(ValueError):
    """A line of the process is no message."""


Heard = Report | Gone | Unreadable


def _heard(line: bytes) -> Report | Unreadable:
    try:
        return read_message(REPORTS, line)
    except ValidationError as error:
        # Each fault of a hostile message costs memory when it is asked for.
        count = error.error_count()
        faults = error.errors(include_input=False) if count <= FAULTS_SHOWN else []
        places = [".".join(map(str, fault["loc"])) + ": " + fault["msg"] for fault in faults]
        return Unreadable(ascii("; ".join(places) or f"{count} faults")[1:301])
    except (ValueError, RecursionError) as error:
        return Unreadable(type(error).__name__)


def start_child(settings: Settings, folders: WorkerFolders, *, several: bool) -> ChildProcess:
    """The process that runs jobs; ``several`` where it is for one on several processes."""
    kept = child_confinement(settings, folders, several=several)
    process = ChildProcess(("worker.child", kept.to_json()), child_environment(folders))
    process.several = several
    return process


def start_fetcher(settings: Settings) -> ChildProcess:
    """The process that lays models and datasets ready."""
    return ChildProcess(("worker.child.fetcher",), fetcher_environment(settings))


class ChildProcess:
    """A warm process and the messages it sent: ``python -m MODULE PID-OF-THIS-ONE ARGUMENT…``."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        module, *arguments = command
        self.jobs = 0
        self._killed = False
        self.several = False  # whether it may run a job on several processes
        self.messages: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self.log_tail: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(os.getpid()), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
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
        while line := stream.readline(MAX_MESSAGE_BYTES):
            if len(line) == MAX_MESSAGE_BYTES:
                log.warning("the job's process sends a message without end: it is killed")
                os.killpg(self._process.pid, signal.SIGKILL)
                break
            if not line.endswith(b"\n"):
                break  # it died over this one
            self.messages.put(_heard(line))
        self.messages.put(Gone())

    def _read_log(self, stream: IO[bytes]) -> None:
        while raw := stream.readline(MAX_LOG_LINE_BYTES):
            line = raw.decode(errors="replace").rstrip()
            self.log_tail.append(line)
            log.info("job process: %s", line)

    def begin_job(self) -> None:
        """Count one job more, and forget what was printed of the last one."""
        self.jobs += 1
        self.log_tail.clear()

    def send(self, order: Message) -> None:
        """One message; a process that is gone is noticed by `Gone`, not here."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(order.line().encode())
            self._process.stdin.flush()

    def receive(self, seconds: float) -> Heard | None:
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
        """The whole group, at once, and every descriptor it held; a second time has no effect."""
        if self._killed:  # its number may be another's by now
            return
        self._killed = True
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

    @property
    def overran(self) -> bool:
        """Whether the kernel ended it for the processor time it used."""
        return self._process.wait() == -signal.SIGXCPU

    @property
    def aborted(self) -> bool:
        """Whether a library in it gave up (SIGABRT) or broke (SIGSEGV)."""
        return self._process.wait() in {-signal.SIGABRT, -signal.SIGSEGV}

    def how_it_ended(self) -> str:
        """In words, for the job's error."""
        code = self._process.wait()
        if code >= 0:
            return f"the job's process exited with code {code}"
        name = signal.Signals(-code).name
        if self.overran:
            return "the job used more processor time than its deadline leaves to all its cores"
        hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
        return f"the job's process was killed by {name}{hint}"
