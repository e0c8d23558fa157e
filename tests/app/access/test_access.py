"""Who may call: anyone on this machine, or whoever holds a key."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.errors import Refused
from app.main import check_address, create_app
from app.settings import Settings

SECRET = "sk_canary-2f9a"
HASH = hashlib.sha256(SECRET.encode()).hexdigest()


def client(settings: Settings, host: str = "127.0.0.1") -> TestClient:
    return TestClient(create_app(settings), base_url=f"http://{host}")


def test_with_keys_every_resource_wants_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with client(
        Settings(data_dir=tmp_path, api_key_hashes=f"{'0' * 64},{HASH}"), "any.host"
    ) as api:
        paths = [
            path for path in api.get("/openapi.json").json()["paths"] if path.startswith("/v1")
        ]
        for path in paths:
            answer = api.get(path.replace("{", "").replace("}", ""))
            assert answer.status_code in {401, 405}, path
        assert api.get("/v1/jobs").headers["www-authenticate"] == "Bearer"
        for wrong, said in (
            ("Bearer sk_other", "this API key is not known"),
            (f"Basic {SECRET}", "Send an API key"),
            ("Bearer", "Send an API key"),
            (SECRET, "Send an API key"),
        ):
            answer = api.get("/v1/jobs", headers={"Authorization": wrong})
            assert answer.status_code == 401
            assert said in answer.json()["detail"]
        good = {"Authorization": f"Bearer {SECRET}"}
        assert api.get("/v1/jobs", headers=good).status_code == 200
        assert api.get("/healthz").status_code == 200
    assert SECRET not in caplog.text
    assert not any(
        SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )


def test_without_keys_only_this_machines_names_are_answered(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    for host, status in (("localhost", 200), ("127.0.0.1:8000", 200), ("evil.example", 400)):
        with client(settings, host) as api:
            answer = api.get("/v1/jobs")
        assert answer.status_code == status, host
        assert status == 200 or answer.json()["code"] == "wrong_host"


def test_an_open_address_without_keys_is_refused_at_start(tmp_path: Path) -> None:
    open_to_all = Settings(data_dir=tmp_path)
    for host in ("127.0.0.1", "localhost", "::1"):
        check_address(open_to_all, host)
    for host in ("0.0.0.0", "192.168.1.5", "example.com", "::"):
        with pytest.raises(Refused, match="surgeon key"):
            check_address(open_to_all, host)
    check_address(Settings(data_dir=tmp_path, api_key_hashes=HASH), "0.0.0.0")


def test_the_command_makes_a_key_whose_hash_it_shows() -> None:
    printed = subprocess.check_output([sys.executable, "-m", "surgeon", "key"], text=True).split()
    key, digest = printed[1], printed[3]
    assert key.startswith("sk_")
    assert hashlib.sha256(key.encode()).hexdigest() == digest
    assert Settings(api_key_hashes=digest).api_key_hashes == [digest]


def test_unsafe_settings_are_refused() -> None:
    for wrong in (
        {"api_key_hashes": "plain"},
        {"lease": "10", "heartbeat": "9"},
        {"max_attempts": 0},
    ):
        with pytest.raises(ValidationError):
            Settings(**wrong)


def test_a_request_id_is_kept_when_harmless(tmp_path: Path) -> None:
    with client(Settings(data_dir=tmp_path)) as api:
        for given, kept in (("abc-1", True), ("bad id\t", False), ("x" * 101, False)):
            answered = api.get("/healthz", headers={"X-Request-ID": given}).headers["x-request-id"]
            assert (answered == given) is kept
