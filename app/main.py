"""The API process: the application, alone or with workers beside it."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
from fastapi import Depends, FastAPI

from app.api.deps import require_key
from app.api.middleware import RequestMiddleware, is_loopback
from app.api.problems import install_handlers
from app.api.request_checks import check_query, refuse_nul
from app.api.routes import (
    checkpoints,
    comparisons,
    datasets,
    estimates,
    finetunes,
    health,
    jobs,
    models,
    rankings,
    tasks,
)
from app.artifacts.storage import open_storage
from app.db import open_database
from app.errors import Refused
from app.jobs.queue import make_ring
from app.service import Service
from app.settings import Settings, settings_from_environment
from app.workers import Workers
from surgery import __version__

DESCRIPTION = """
Name a pretrained encoder and a dataset: get its layers ranked by Fisher information, and get it
fine-tuned on just the layers worth tuning.

Everything that runs is a job: `GET /v1/jobs/{id}` polls any of them. Errors are
`application/problem+json` and say where and what to do.
"""

log = logging.getLogger("surgeon.serve")


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; settings from the environment when none are given."""
    settings = settings or settings_from_environment()
    database = open_database(settings)
    service = Service(settings, database, open_storage(settings), make_ring(settings))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        database.close()

    app = FastAPI(
        title="Layer Surgeon", version=__version__, description=DESCRIPTION, lifespan=lifespan
    )
    app.state.service = service
    install_handlers(app)
    app.add_middleware(
        RequestMiddleware, upload_max_bytes=settings.upload_max_bytes,
        any_host=bool(settings.api_key_hashes),
    )  # fmt: skip
    checks = [Depends(refuse_nul), Depends(check_query)]
    guarded = [Depends(require_key), *checks]
    for module in (
        models, tasks, datasets, rankings, finetunes, comparisons, estimates, jobs, checkpoints,
    ):  # fmt: skip
        app.include_router(module.router, dependencies=guarded)
    app.include_router(health.router, dependencies=checks)
    return app


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
