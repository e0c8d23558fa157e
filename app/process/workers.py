"""Worker processes on this machine, which are restarted when they die."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

log = logging.getLogger("surgeon.workers")
STOP_SECONDS = 30.0
RESTART_SECONDS = 2.0  # before a worker that died is started again


class Workers:
    """One worker for each of ``environments``, the variables that it has beside this process's.

    They share ``cores``, all of the machine's unless given. ``arguments`` are options of
    ``worker.main``.
    """

    def __init__(
        self,
        environments: Sequence[Mapping[str, str]],
        arguments: Sequence[str] = (),
        cores: int | None = None,
    ) -> None:
        share = max(1, (cores or os.cpu_count() or 1) // len(environments))
        self._environments = [{**os.environ, **own} for own in environments]
        self._arguments = ("--cores", str(share), *arguments)
        self._processes = [self._start(each) for each in self._environments]
        self._stopping = threading.Event()
        # One thread starts every worker and lives as long as this process: Linux sends the
        # parent-death signal when the thread that started a child ends.
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        arguments = ("--parent", str(os.getpid()), *self._arguments)
        command = [sys.executable, "-m", "worker.main", *arguments]
        # In its own session: Ctrl-C in the terminal reaches this process only, which stops it.
        return subprocess.Popen(command, env=dict(environment), start_new_session=True)

    def _watch(self) -> None:
        while not self._stopping.wait(RESTART_SECONDS):
            for index, process in enumerate(self._processes):
                if process.poll() is not None:
                    log.warning("a worker died with code %s; starting another", process.returncode)
                    self._processes[index] = self._start(self._environments[index])

    def stop(self) -> None:
        """Ask each worker to give its job back and to stop; kill those that do not stop in time."""
        self._stopping.set()
        self._watcher.join()
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
