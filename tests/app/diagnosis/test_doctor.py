"""The doctor: an installation that works, each part of one that does not, and no secret in it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import text
from typer.testing import CliRunner, Result

from app.db import Database
from app.diagnosis import machine, services
from app.diagnosis.finding import Finding, State
from app.settings import Settings, settings_from_environment
from app.submissions.fleet import WorkerFacts, register
from surgeon.cli import app

SECRET = "s3cr3t"
KEY_HASH = "0" * 64
Found = dict[str, tuple[str, str]]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setenv("SURGEON_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SURGEON_OFFLINE", "true")
    settings_from_environment.cache_clear()
    yield monkeypatch
    settings_from_environment.cache_clear()


def doctor(*options: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *options], env={"COLUMNS": "80"})


def told(findings: Sequence[Finding]) -> Found:
    return {each.checked: (each.state.value, each.found) for each in findings}


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_new_installation_is_fit_to_start(environment: Any, tmp_path: Path) -> None:
    done = doctor("--json")
    assert done.exit_code == 0, done.output
    found = {each["checked"]: each for each in json.loads(done.stdout)}
    assert {each["state"] for each in found.values()} <= {"ok", "warning"}
    assert "will be made when the service starts" in found["database"]["found"]
    assert found["storage"]["state"] == "ok"
    assert found["hub"]["found"] == "is never asked, as SURGEON_OFFLINE says"
    assert not (tmp_path / "data/surgeon.db").exists()
    left = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert left == []


def test_a_database_that_is_used(database: Database, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=database.url)
    found = told(list(services.database_findings(settings)))
    assert found["database"][0] == "ok"
    assert found["clock"] == ("ok", "that of this machine is the database's")
    assert found["workers"] == ("warning", "none is alive")
    assert found["keys"][0] == "warning"
    register(database, WorkerFacts("a", ["ranking"], [{"name": "cpu"}], ["fp32"], 1, "0.1.0"))
    settings = settings.model_copy(update={"api_key_hashes": [KEY_HASH]})
    found = told(list(services.database_findings(settings)))
    assert found["workers"] == ("ok", "1 alive, for ranking")
    assert found["keys"] == ("ok", "requests need an API key")


def test_a_clock_that_differs_is_told(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) - timedelta(minutes=5)

    monkeypatch.setattr(services, "datetime", Late)
    settings = Settings(data_dir=tmp_path, database_url=database.url)
    state, words = told(list(services.database_findings(settings)))["clock"]
    assert state == "warning"
    assert re.search(r"differ by (30\d|299)\.\d s", words)


def test_a_database_without_a_migration_is_broken(database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    [finding] = services.database_findings(Settings(data_dir=tmp_path, database_url=database.url))
    assert (finding.state, "lacks migrations" in finding.found) == (State.FAILED, True)
    embedded = database.url.startswith("sqlite")
    assert finding.remedy == (
        "start the service, which migrates it" if embedded else "surgeon db upgrade"
    )


def test_a_database_of_a_newer_version_is_broken(database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    [finding] = services.database_findings(Settings(data_dir=tmp_path, database_url=database.url))
    assert (finding.state, finding.remedy) == (State.FAILED, "install that version here")


def test_redis_that_takes_writes_and_one_that_refuses_them(redis_url: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, redis_url=redis_url)
    assert told(list(services.broker_findings(settings)))["broker"][0] == "ok"
    with Redis.from_url(redis_url) as redis:
        assert redis.keys("surgeon:doctor:*") == []
        before = redis.config_get("maxmemory")["maxmemory"]
        redis.config_set("maxmemory", "1")
        try:
            state, words = told(list(services.broker_findings(settings)))["broker"]
        finally:
            redis.config_set("maxmemory", before)
    assert (state, "does not take writes" in words) == ("failed", True)


def test_what_is_unreachable_is_named_without_its_password(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = closed_port()
    (tmp_path / "file").touch()
    environment.setenv("SURGEON_DATABASE_URL", f"postgres://u:{SECRET}@127.0.0.1:{port}/x")
    environment.setenv("SURGEON_REDIS_URL", f"redis://:{SECRET}@127.0.0.1:{port}/0")
    environment.setenv("SURGEON_ARTIFACTS_URL", str(tmp_path / "file/artifacts"))
    environment.setenv("SURGEON_MIRROR_DIR", str(tmp_path / "nowhere"))
    done = doctor()
    assert done.exit_code == 1
    words = " ".join(done.output.split())
    for part in ("database", "broker", "storage", "mirror"):
        assert f"{part} failed" in words, words
    for remedy in ("SURGEON_DATABASE_URL", "SURGEON_REDIS_URL", "SURGEON_MIRROR_DIR"):
        assert f"correct {remedy}" in words
    assert SECRET not in done.output


@pytest.mark.parametrize(
    ("free", "state"), [(1 << 29, "failed"), (5 << 30, "warning"), (1 << 40, "ok")]
)
def test_a_disk_that_is_full(
    free: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        def __init__(self, _: Path) -> None:
            self.free = free

    monkeypatch.setattr(services.shutil, "disk_usage", Usage)
    findings = list(services.disk_findings(Settings(data_dir=tmp_path / "not/made/yet")))
    assert [finding.state.value for finding in findings] == [state, state]
    assert all((finding.remedy is None) == (state == "ok") for finding in findings)


@pytest.mark.parametrize(
    ("driver", "cuda", "gpus", "state", "words"),
    [
        (None, None, [], "ok", "without a GPU"),
        ("/usr/bin/nvidia-smi", None, [], "warning", "is a build for CPUs"),
        ("/usr/bin/nvidia-smi", "12.8", [], "warning", "for CUDA 12.8 finds no usable GPU"),
        ("/usr/bin/nvidia-smi", "12.8", ["H200"], "ok", "on H200"),
    ],
)
def test_devices(
    driver: str | None,
    cuda: str | None,
    gpus: list[str],
    state: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = json.dumps({"version": "2.13.0", "cuda": cuda, "gpus": gpus})
    monkeypatch.setattr(machine, "ASK_TORCH", f"print({answer!r})")
    monkeypatch.setattr(machine.shutil, "which", lambda _: driver)
    [finding] = machine.device_findings()
    assert (finding.state.value, words in finding.found) == (state, True)


def test_a_torch_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ASK_TORCH", "raise ImportError('libcudart.so')")
    [finding] = machine.device_findings()
    assert finding.found == "torch cannot be imported: ImportError: libcudart.so"
    assert finding.state is State.FAILED


def test_a_hub_that_is_there_and_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path)
    with socket.socket() as hub:
        hub.bind(("127.0.0.1", 0))
        hub.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        assert told(list(machine.source_findings(settings)))["hub"][0] == "ok"
    state, words = told(list(machine.source_findings(settings)))["hub"]
    assert (state, "cannot be reached" in words) == ("warning", True)
