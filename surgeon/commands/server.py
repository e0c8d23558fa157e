"""The operator's commands: run the service or a part of it, migrate its database, make an API key.

They import the server only when they are called, so the other commands work without it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgeon.commands.failures import ExitCode, expected_failures, require
from surgeon.commands.options import AsJson
from surgeon.terminal import terminal
from surgeon.terminal.tables import findings_table

if TYPE_CHECKING:
    from app.settings import Settings

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]


def _start_failures() -> AbstractContextManager[None]:
    """Turn the reasons why a service does not start into a message and exit code 1."""
    from app.errors import Misconfigured, NotMigrated, Refused

    return expected_failures(Misconfigured, NotMigrated, Refused)


def _settings() -> Settings:
    """Read the settings from the environment, and set up the log."""
    from app.process.logs import set_up_log
    from app.settings import settings_from_environment

    with _start_failures():
        settings = settings_from_environment()
    set_up_log(settings.log_level, settings.log_format)
    return settings


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the database, artifacts and caches.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of worker processes.")] = 1,
) -> None:
    """Run the API and its workers on this machine, without other services. Ctrl-C stops them."""
    require("server", "worker")
    from app.main import serve_embedded

    if data_dir is not None:
        os.environ["SURGEON_DATA_DIR"] = str(data_dir.resolve())  # the workers read it too
    os.environ.setdefault("SURGEON_POLL", "0.2")  # polling a local database file costs little
    settings = _settings()

    def ready() -> None:
        address, data = f"http://{host}:{port}", settings.data_dir.resolve()
        line = f"Layer Surgeon on {address} (documentation at /docs), data in {data}"
        terminal.errors.print(line, highlight=False)

    with _start_failures():
        serve_embedded(settings, host, port, workers, ready)


def api(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Run the API without workers."""
    require("server")
    from app.main import serve_api

    settings = _settings()
    with _start_failures():
        serve_api(settings, host, port)


def worker(
    queues: Annotated[
        str, typer.Option(help="Kinds of job to run, separated by commas.")
    ] = "ranking,finetune,search,prediction,export",
) -> None:
    """Run a worker. It uses Celery if SURGEON_REDIS_URL is set, else it polls the database."""
    require("server", "worker")
    # This process becomes the worker, so that nothing here needs to import the worker's package.
    command = [sys.executable, "-m", "worker.main", "--queues", queues]
    os.execv(sys.executable, command)  # noqa: S606  # our own argument list, no shell


def db_upgrade() -> None:
    """Migrate the database to the newest version."""
    require("server")
    from app.db import Database

    settings = _settings()
    opened = Database(settings.resolved_database_url)
    opened.upgrade()
    opened.close()
    terminal.errors.print("the database is at the newest version")


def db_check(as_json: AsJson = False) -> None:
    """Check that the stored files which the database names are there, as after a restore.

    Exits with 1 if some are missing.
    """
    require("server")
    from app.artifacts.storage import open_storage
    from app.db import open_database
    from app.diagnosis.stored import missing_folders

    settings = _settings()
    with _start_failures():
        opened = open_database(settings)
    missing = list(missing_folders(opened, open_storage(settings)))
    opened.close()
    if as_json:
        terminal.show_json([asdict(each) for each in missing])
    for each in [] if as_json else missing:
        terminal.errors.print(f"{each.owner}: {each.path} is missing; {each.remedy}")
    if missing:
        raise typer.Exit(ExitCode.FAILED)
    terminal.errors.print("every stored folder that the database names is there")


def doctor(as_json: AsJson = False) -> None:
    """Check what the settings name: database, broker, storage, disk, mirrors, devices.

    Exits with 1 if something does not work, so that it can be a probe.
    """
    require("server")
    from app.diagnosis.doctor import examine
    from app.diagnosis.finding import State

    with _start_failures():
        findings = list(examine(_settings()))
    if as_json:
        terminal.show_json([asdict(finding) for finding in findings])
    else:
        terminal.show(findings_table([asdict(finding) for finding in findings]))
    if any(finding.state == State.FAILED for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


def key() -> None:
    """Make an operator's API key, without a service: set its hash in SURGEON_API_KEY_HASHES.

    The key is shown only once. A running service makes keys with `surgeon keys create`.
    """
    secret = f"sk_{secrets.token_urlsafe(32)}"
    terminal.console.out(f"key   {secret}", highlight=False)
    terminal.console.out(f"hash  {hashlib.sha256(secret.encode()).hexdigest()}", highlight=False)
