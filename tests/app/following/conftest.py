"""The API on a database of each kind, behind a socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db import Database
from tests.support.service.live_api import LiveApi, live_api


@pytest.fixture
def live(database: Database, tmp_path: Path) -> Iterator[LiveApi]:
    with live_api(tmp_path / "data", database.url) as running:
        yield running
