"""The API process: the application, by itself or together with workers."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from types import FrameType

import uvicorn
from fastapi import APIRouter, Depends, FastAPI
from starlette.routing import BaseRoute

from app.access.keys import Keyring, has_keys
from app.access.rates import RateLimiter
from app.api.deps import submission_places
from app.api.following.broadcaster import Broadcaster
from app.api.http.access.auditing import AuditMiddleware
from app.api.http.access.authentication import AuthenticationMiddleware
from app.api.http.access.browsers import CrossOriginMiddleware, is_loopback
from app.api.http.bodies.middleware import BodyMiddleware
from app.api.http.measurements import MeasuringMiddleware, RequestMeter
from app.api.http.methods import answer_other_method
from app.api.http.middleware import RequestMiddleware
from app.api.http.problems import install_handlers
from app.api.http.reads import ReadMiddleware
from app.api.http.request_checks import check_path, check_query, refuse_useless_body
from app.api.openapi import complete_openapi, operation_id
from app.api.routes import checkpoints, datasets, estimates, models, tasks
from app.api.routes.compat import files, fine_tuning
from app.api.routes.jobs import (
    attempts,
    comparisons,
    exports,
    finetunes,
    life,
    listing,
    predictions,
    rankings,
    records,
    searches,
)
from app.api.routes.platform import (
    audit,
    docs,
    health,
    keys,
    limits,
    metrics,
    page,
    projects,
    workers,
)
from app.api.routes.webhooks import deliveries, receivers, subscriptions
from app.api.statistics import Statistics
from app.artifacts.machine import tidying
from app.artifacts.storage import open_storage
from app.db import open_database
from app.errors import Refused
from app.jobs.queue import make_ring
from app.process.tracing import set_up_tracing
from app.process.workers import Workers
from app.service import Service, read_cursor_key
from app.settings import Settings, settings_from_environment
from surgery import __version__

DESCRIPTION = """
Name a pretrained encoder and a dataset. The service ranks the encoder's layers by Fisher
information or another method, and fine-tunes only the layers that are worth it.

Rankings, fine-tunes, searches, predictions, exports and comparisons run as jobs: a request to
create one answers with the job's id, and `GET /v1/jobs/{id}` with its state and, at the end, its
result. Every error is answered as `application/problem+json` (RFC 9457) and says which field is
wrong and what to do.

If the service has API keys, send one as `Authorization: Bearer sk_…`. A key belongs to a project,
whose jobs, datasets and checkpoints it can see, and has scopes: `admin` includes `submit`, which
includes `read`.
"""
TAGS = {
    "models": "Models of the Hugging Face Hub and of mirrors: their layers and sizes.",
    "tasks": "Presets: the tasks of GLUE and SuperGLUE, ready to train and evaluate on.",
    "datasets": "Datasets that you upload. Every row is checked before anything is stored.",
    "rankings": "Rankings of a model's layers by how much they matter for a dataset.",
    "fine-tunes": "Fine-tunes, which train only the selected layers and the task's head.",
    "searches": "Searches for the layers that learn a dataset best, and for their learning rate.",
    "predictions": "What a checkpoint says about rows that you send.",
    "exports": "Models that are handed over to a place outside their fine-tune.",
    "comparisons": "Several ways to fine-tune, on the same data and with the same seeds.",
    "estimates": "The memory and time that fine-tunes and searches would take, before any runs.",
    "jobs": "Jobs of every kind: poll them, cancel them, read their records.",
    "checkpoints": "What fine-tunes have trained: pin it, delete it, download it.",
    "projects and keys": "Projects are tenants; API keys belong to them and carry scopes.",
    "webhooks": "Addresses that are told of what happens to jobs, signed as the Standard Webhooks "
    "specification says.",
    "OpenAI's shapes": "Fine-tunes as clients of OpenAI's API write and read them.",
    "limits and usage": "How much a project may use, and how much it has used.",
    "platform": "Whether the service is alive and ready, without an API key, and its numbers.",
}

ROUTED = (
    models,
    tasks,
    datasets,
    rankings,
    finetunes,
    searches,
    predictions,
    exports,
    comparisons,
    estimates,
    listing,
    life,
    records,
    attempts,
    checkpoints,
    workers,
    subscriptions,
    deliveries,
    projects,
    keys,
    limits,
    audit,
    health,
    metrics,
    docs,
    page,
    files,
    fine_tuning,
)

log = logging.getLogger("surgeon.serve")


@cache
def operations() -> list[BaseRoute]:
    """All operations. FastAPI takes 0.2 s to see what they take and answer, once for all here."""
    router = APIRouter(generate_unique_id_function=operation_id)
    checks = [Depends(check_path), Depends(check_query), Depends(refuse_useless_body)]
    for module in ROUTED:
        router.include_router(module.router, dependencies=checks)
    return router.routes


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; the settings come from the environment unless they are given."""
    settings = settings or settings_from_environment()
    database = open_database(settings)
    service = Service(
        settings,
        database,
        open_storage(settings),
        make_ring(settings),
        read_cursor_key(database),
    )
    keyring = Keyring(database, settings.api_key_hashes)
    rates = RateLimiter(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with tidying(settings):
            async with app.state.broadcaster.running():
                yield
        keyring.close()
        await rates.close()
        database.close()

    app = FastAPI(
        title="Layer Surgeon",
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=[{"name": tag, "description": text} for tag, text in TAGS.items()],
        lifespan=lifespan,
        routes=list(operations()),
        webhooks=receivers.documented,
        generate_unique_id_function=operation_id,
        # Only traces, where `set_up_tracing` has said where they go; /metrics has the numbers.
        telemetry={"metrics": False, "logs": False, "operation_spans": False},
        docs_url=None,  # FastAPI's own pages load their scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,  # the address would be made of the request's Host header
    )
    app.state.service = service
    app.state.broadcaster = Broadcaster(database)
    app.state.registry = metrics.make_registry(Statistics(database, settings.lease))
    app.state.keyring = keyring
    app.state.submission_places = submission_places()
    install_handlers(app)
    app.add_exception_handler(405, answer_other_method)  # type: ignore[arg-type]  # takes its kind
    app.add_middleware(ReadMiddleware)
    # The last one is the outermost: a body is not read before the request was let in.
    app.add_middleware(BodyMiddleware, upload_max_bytes=settings.upload_max_bytes)
    app.add_middleware(AuditMiddleware, database=database)
    app.add_middleware(AuthenticationMiddleware, keyring=keyring, rates=rates, settings=settings)
    if settings.cors_origins:
        app.add_middleware(CrossOriginMiddleware, origins=settings.cors_origins)
    app.add_middleware(RequestMiddleware)
    app.add_middleware(MeasuringMiddleware, meter=RequestMeter(app.state.registry))
    complete_openapi(app)
    return app


def check_address(settings: Settings, host: str) -> None:
    """Raises Refused if other machines can reach the address and the service needs no API key."""
    if settings.api_key_hashes or is_loopback(host):
        return
    database = open_database(settings)
    try:
        if has_keys(database):
            return
    finally:
        database.close()
    raise Refused(
        f"{host} is reachable from other machines and there is no API key; make one with "
        "`surgeon key` and set SURGEON_API_KEY_HASHES, or listen on 127.0.0.1"
    )


class Server(uvicorn.Server):
    """A server that sends whoever follows a job away before it waits for open requests."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: requests that wait are answered, event streams end and may be opened elsewhere."""
        self.config.app.state.broadcaster.close()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def serve_api(settings: Settings, host: str, port: int) -> None:
    """Run the API until a signal stops it."""
    check_address(settings, host)
    # Requests that read a model's files hold the interpreter; this is the longest time in seconds
    # that the thread which answers other requests waits for one of them.
    sys.setswitchinterval(0.001)
    set_up_tracing("api")
    app = create_app(settings)
    # What there is now stays until the end. Looking through it for garbage again and again would
    # stop every request for a tenth of a second, once in some thousand submissions.
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    Server(config).run()


def serve_embedded(
    settings: Settings, host: str, port: int, workers: int, ready: Callable[[], None]
) -> None:
    """Run the API and workers on the embedded database until Ctrl-C or a signal stops them all."""
    check_address(settings, host)
    signal.signal(signal.SIGTERM, _exit)  # uvicorn raises the signal again after its shutdown
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
