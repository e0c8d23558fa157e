"""The client waits for a job while the service is restarted."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from app.db import Database
from surgeon import client as client_module
from surgeon.client import Client, Unreachable
from tests.support.service.live_api import live_api
from tests.support.service.services import free_port


def test_a_service_that_comes_back_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "RETRY_SECONDS", 0.1)
    url, port = f"sqlite:///{tmp_path / 'test.db'}", free_port()
    Database(url).upgrade()
    seen: list[str] = []
    known = threading.Event()

    def on_update(job: Any) -> None:
        seen.append(job["status"])
        if len(seen) > 1:
            known.set()

    with Client(f"http://127.0.0.1:{port}") as client:
        ended: list[Any] = []
        with live_api(tmp_path, url, port) as live:
            job_id, lease = live.run()
            waiter = threading.Thread(
                target=lambda: ended.append(client.wait(client.job(job_id), on_update))
            )
            waiter.start()
            assert known.wait(30)
        with live_api(tmp_path, url, port) as live:
            live.finish(lease)
            waiter.join(30)
    assert [job["status"] for job in ended] == ["cancelled"]
    assert seen[0] == "running"
    assert seen[-1] == "cancelled"


def test_a_service_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(client_module, "PATIENCE_SECONDS", 0.1)
    with Client(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(Unreachable):
        client.wait({"id": "ft_1", "terminal": False})
