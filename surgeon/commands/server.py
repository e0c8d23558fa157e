"""The commands of an operator: run the service or a part of it, migrate its database, make a key.

The server is imported when one of them is called: it need not be installed for the other commands.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgeon.commands.failures import failing_plainly, require
from surgeon.terminal import terminal

if TYPE_CHECKING:
    from app.settings import Settings

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]


def _refusing_plainly() -> AbstractContextManager[None]:
    """Why a service will not start like this is a message, no traceback."""
    from app.errors import Misconfigured, NotMigrated, Refused

    return failing_plainly(Misconfigured, NotMigrated, Refused)


def _settings() -> Settings:
    """The settings of the environment; the log is set up by them."""
    from app.settings import settings_from_environment

    with _refusing_plainly():
        settings = settings_from_environment()
    # Alembic and httpx speak at INFO of things only their authors want to know.
    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("surgeon", "uvicorn.error"):
        logging.getLogger(name).setLevel(settings.log_level)
    return settings


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    data_dir: Annotated[Path | None, typer.Option(help="Database, artifacts, caches.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
) -> None:
    """Run everything here: API and workers, no other services. Ctrl-C stops all."""
    require("server", "worker")
    from app.main import serve_embedded

    if data_dir is not None:
        os.environ["SURGEON_DATA_DIR"] = str(data_dir.resolve())  # the workers read it too
    os.environ.setdefault("SURGEON_POLL", "0.2")  # a local file is cheap to look at
    settings = _settings()

    def ready() -> None:
        address, data = f"http://{host}:{port}", settings.data_dir.resolve()
        line = f"Layer Surgeon on {address} (documentation at /docs), data in {data}"
        terminal.errors.print(line, highlight=False)

    with _refusing_plainly():
        serve_embedded(settings, host, port, workers, ready)


def api(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Run the API alone."""
    require("server")
    from app.main import serve_api

    settings = _settings()
    with _refusing_plainly():
        serve_api(settings, host, port)


def worker(
    queues: Annotated[str, typer.Option(help="Kinds of job to serve.")] = "ranking,finetune",
) -> None:
    """Run a worker: on Celery where SURGEON_REDIS_URL is set, else polling the database."""
    require("server", "worker")
    # Nothing here imports the worker's package: it becomes that process.
    command = [sys.executable, "-m", "worker.main", "--queues", queues]
    os.execv(sys.executable, command)  # noqa: S606  # our own argument list, no shell


def db_upgrade() -> None:
    """Apply every migration."""
    require("server")
    from app.db import Database

    settings = _settings()
    opened = Database(settings.resolved_database_url)
    opened.upgrade()
    opened.close()
    terminal.errors.print("the database is at its newest migration")


def key() -> None:
    """Make an API key. It is shown once; the service is given its hash only."""
    secret = f"sk_{secrets.token_urlsafe(32)}"
    terminal.console.out(f"key   {secret}", highlight=False)
    terminal.console.out(f"hash  {hashlib.sha256(secret.encode()).hexdigest()}", highlight=False)
