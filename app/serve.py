"""Run the service: API alone, or API and workers together in one command."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from app.main import create_app
from app.middleware import is_loopback
from app.settings import Settings
from app.workers import Workers

log = logging.getLogger("surgeon.serve")


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


def serve_embedded(
    settings: Settings, host: str, port: int, workers: int, ready: Callable[[], None]
) -> None:
    """API and workers on the embedded database; Ctrl-C stops all."""
    check_address(settings, host)
    signal.signal(signal.SIGTERM, _exit)  # uvicorn raises it again once it has shut down
    create_app(settings)  # migrates the database before workers open it
    pool = Workers([{}] * workers)
    try:
        ready()
        serve_api(settings, host, port)
    except KeyboardInterrupt:
        log.info("stopping")
    finally:
        pool.stop()


def _exit(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)
