"""Running services: starting one costs seconds, most of them the import of torch."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.support.rows.invented import write_tasks
from tests.support.service.services import Running, embedded, production


@pytest.fixture(scope="session")
def mirrors(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Models, and CoLA, RTE and STS-B: the real ones where a mirror holds them, else rows of
    our own making in their shape."""
    given = os.environ.get("SURGEON_MIRROR_DIR", "")
    own = tmp_path_factory.mktemp("data")
    write_tasks(own)
    return os.pathsep.join(part for part in (str(mirror), given, str(own)) if part)


@pytest.fixture(scope="module")
def module_postgres(postgres: str) -> Iterator[str]:
    """A database for as long as a module's service runs."""
    name = f"surgeon_module_{os.getpid()}_{random.getrandbits(32)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    base, _, query = postgres.partition("?")
    yield f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="session")
def few_mirrors(mirrors: str) -> str:
    """The same models, and of the presets the invented rows alone: an epoch takes a second."""
    own = mirrors.split(os.pathsep)
    return os.pathsep.join((own[0], own[-1]))


@pytest.fixture(scope="session")
def embedded_service(
    few_mirrors: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """One embedded service for every module that asks nothing of what it holds."""
    with embedded(tmp_path_factory.mktemp("embedded"), few_mirrors) as running:
        yield running


@pytest.fixture(scope="session")
def real_service(mirrors: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Another for those that want the real rows, where a mirror has them."""
    with embedded(tmp_path_factory.mktemp("real"), mirrors) as running:
        yield running


@pytest.fixture(scope="module")
def own_service(mirrors: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An embedded service that is new, with the module's own mirrors."""
    with embedded(tmp_path_factory.mktemp("own"), mirrors) as running:
        yield running


@pytest.fixture(scope="module")
def production_service(
    mirrors: str, module_postgres: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """One production service a module."""
    data = tmp_path_factory.mktemp("production")
    with production(data, mirrors, module_postgres, redis_url) as running:
        yield running


@pytest.fixture(scope="module", params=["embedded", "production"])
def fragile_service(
    request: pytest.FixtureRequest, few_mirrors: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A service, with one worker, whose parts a module kills. On invented rows: only speed matters."""
    data = tmp_path_factory.mktemp("fragile")
    if request.param == "embedded":
        with embedded(data, few_mirrors) as running:
            yield running
        return
    postgres = request.getfixturevalue("module_postgres")
    redis = request.getfixturevalue("redis_url")
    with production(data, few_mirrors, postgres, redis) as running:
        yield running


@pytest.fixture(scope="module")
def api(mirrors: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """An API without workers: whatever is queued stays queued."""
    data = tmp_path_factory.mktemp("api")
    app = create_app(Settings(data_dir=data, mirror_dir=mirrors, offline=True))
    with TestClient(app, raise_server_exceptions=False, base_url="http://127.0.0.1") as client:
        yield client
