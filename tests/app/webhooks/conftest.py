"""An API on a database of each kind, whose webhooks may reach this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db import Database
from app.main import create_app
from app.settings import Settings
from tests.support.outside.receiver import LOOPBACK, Receiver, receiver

Json = dict[str, Any]


@pytest.fixture
def settings(database: Database, tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data", database_url=database.url,
        webhook_networks=[ip_network(LOOPBACK)],
    )  # fmt: skip


@pytest.fixture
def api(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def hook_receiver() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def new_webhook(api: TestClient, hook_receiver: Receiver) -> Callable[..., Json]:
    """Creates a webhook at the receiver."""

    def create(**fields: Any) -> Json:
        answer = api.post("/v1/webhooks", json={"url": hook_receiver.url, **fields})
        assert answer.status_code == 201, answer.text
        created: Json = answer.json()
        return created

    return create
