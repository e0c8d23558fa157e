"""Run the service: API alone, or API and workers together in one command."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from app.main import create_app
from app.middleware import is_loopback
from app.settings import Settings

log = logging.getLogger("surgeon.serve")
WORKER_STOP_SECONDS = 30.0
RESTART_SECONDS = 2.0  # before a worker that died is started again


class Refused(Exception):
    """The service will not start like this; the message says why and what to do."""


def check_address(settings: Settings, host: str) -> None:
    """Only loopback may go without API keys."""
    if settings.api_key_hashes or is_loopback(host):
        return
    raise Refused(
        f"{host} is reachable from other machines and no API key is configured; make one with "
        "`surgeon key` and set SURGEON_API_KEY_HASHES, or listen on 127.0.0.1"
    )


def serve_api(settings: Settings, host: str, port: int) -> None:
    """The API until a signal stops it."""
    check_address(settings, host)
    # Requests that read a model's files compute; the thread that answers others waits for one of
    # them no longer than this.
    sys.setswitchinterval(0.001)
    app = create_app(settings)
    config = uvicorn.Config(
        app, host=host, port=port, log_config=None, access_log=False,
        timeout_graceful_shutdown=5, server_header=False,
    )  # fmt: skip
    uvicorn.Server(config).run()


class Workers:
    """Worker processes of the embedded service, started again when they die."""

    def __init__(self, count: int) -> None:
        threads = max(1, (os.cpu_count() or 1) // count)
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self._processes = [self._start() for _ in range(count)]
        self._stopping = threading.Event()
        # One thread for the whole life: Linux ties a child's parent-death signal to the thread
        # that started it.
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "worker.main", "--parent", str(os.getpid())]
        # A session of its own: Ctrl-C in the terminal reaches us alone, and we stop the workers.
        return subprocess.Popen(command, env=self._environment, start_new_session=True)

    def _watch(self) -> None:
        while not self._stopping.wait(RESTART_SECONDS):
            for index, process in enumerate(self._processes):
                if process.poll() is not None:
                    log.warning("a worker died with code %s; starting another", process.returncode)
                    self._processes[index] = self._start()

    def stop(self) -> None:
        """Let each give its job back; kill what does not stop."""
        self._stopping.set()
        self._watcher.join()
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + WORKER_STOP_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def serve_embedded(
    settings: Settings, host: str, port: int, workers: int, ready: Callable[[], None]
) -> None:
    """API and workers on the embedded database; Ctrl-C stops all."""
    check_address(settings, host)
    signal.signal(signal.SIGTERM, _exit)  # uvicorn raises it again once it has shut down
    create_app(settings)  # migrates the database before workers open it
    pool = Workers(workers)
    try:
        ready()
        serve_api(settings, host, port)
    except KeyboardInterrupt:
        log.info("stopping")
    finally:
        pool.stop()


def _exit(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)
