"""The JSON form of the log."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.process.logs import JsonLine, OneLine, note_subject
from app.settings import Settings


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """What the handler that the log is set up with prints."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(OneLine())
    handler.setFormatter(JsonLine())
    logger = logging.getLogger("surgeon")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(before)
    note_subject()


def lines(printed: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.getvalue().splitlines()]


def test_each_request_is_one_object_with_its_id(printed: io.StringIO, tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path, offline=True))
    with TestClient(app, base_url="http://127.0.0.1") as api:
        api.get("/v1/jobs/rk_1%0a%22", headers={"X-Request-ID": "mine"})
    (line,) = lines(printed)
    assert line["time"].endswith("Z")
    assert {name: line[name] for name in ("level", "logger", "request_id", "method", "status")} == {
        "level": "INFO", "logger": "surgeon.api", "request_id": "mine", "method": "GET",
        "status": 404,
    }  # fmt: skip
    assert line["path"] == '/v1/jobs/rk_1\n"'


def test_errors_of_a_request_have_its_id(
    printed: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the request runs on a thread of its own."""
    app = create_app(Settings(data_dir=tmp_path, offline=True))

    def broken(*_: object) -> None:
        raise RuntimeError("broken\nFORGED")

    monkeypatch.setattr("app.api.routes.platform.health.Health", broken)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as api:
        assert api.get("/readyz", headers={"X-Request-ID": "mine"}).status_code == 500
    failed = next(line for line in lines(printed) if line["level"] == "ERROR")
    assert failed["request_id"] == "mine"
    assert "RuntimeError" in failed["exception"]


def test_what_a_message_is_about_can_change(printed: io.StringIO) -> None:
    log = logging.getLogger("surgeon.worker")
    note_subject(job_id="rk_1", epoch=2, request_id=None)
    log.info("about %s", "a job")
    log.info("says it itself", extra={"job_id": "rk_2"})
    note_subject()
    log.info("about nothing")
    first, second, third = lines(printed)
    assert (first["message"], first["job_id"], first["epoch"]) == ("about a job", "rk_1", 2)
    assert "request_id" not in first
    assert second["job_id"] == "rk_2"
    assert "job_id" not in third
