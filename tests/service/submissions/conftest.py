"""The API without workers, on a database of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.db import Database
from app.main import create_app
from app.settings import Settings


@pytest.fixture
def settings(database: Database, few_mirrors: str, tmp_path: Path) -> Settings:
    """Whatever is queued stays queued."""
    return Settings(
        data_dir=tmp_path / "data", database_url=database.url, mirror_dir=few_mirrors, offline=True
    )


@pytest.fixture
def either(settings: Settings) -> Iterator[TestClient]:
    """The API that these settings make."""
    app = create_app(settings)
    with TestClient(app, raise_server_exceptions=False, base_url="http://127.0.0.1") as client:
        yield client
