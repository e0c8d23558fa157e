"""The API process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from app.db import Database
from app.deps import Service, require_key
from app.errors import install_handlers
from app.middleware import RequestMiddleware
from app.queue import make_ring
from app.request_checks import check_query, refuse_nul
from app.routes import (
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
from app.settings import Settings, settings_from_environment
from app.storage import open_storage
from surgery import __version__

DESCRIPTION = """
Name a pretrained encoder and a dataset: get its layers ranked by Fisher information, and get it
fine-tuned on just the layers worth tuning.

Everything that runs is a job: `GET /v1/jobs/{id}` polls any of them. Errors are
`application/problem+json` and say where and what to do.
"""


class NotMigrated(RuntimeError):
    """The database lacks migrations; run: surgeon db upgrade"""


def open_database(settings: Settings) -> Database:
    """The database, at its newest migration.

    The embedded one is migrated here; a production database is never changed by starting a
    process: raises NotMigrated.
    """
    database = Database(settings.resolved_database_url)
    if not database.is_at_head():
        if not settings.embedded:
            database.close()
            raise NotMigrated(NotMigrated.__doc__)
        database.upgrade()
    return database


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
