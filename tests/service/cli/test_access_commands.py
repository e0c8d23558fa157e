"""`surgeon keys` and `surgeon projects` against a real service."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from surgeon.client import Client
from tests.support.service.services import Running, free_port

OPERATOR = "sk_operator-of-this-test"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    """An API alone, with one key in its environment."""
    port = free_port()
    settings = {
        "SURGEON_DATA_DIR": str(tmp_path),
        "SURGEON_OFFLINE": "true",
        "SURGEON_API_KEY_HASHES": hashlib.sha256(OPERATOR.encode()).hexdigest(),
    }
    with Client(f"http://127.0.0.1:{port}") as client:
        running = Running(client, tmp_path, settings)
        running.start("api", "--port", str(port))
        running.wait_ready()
        yield running
        running.stop()


def surgeon(service: Running, key: str, *arguments: str, code: int = 0) -> str:
    """What a command prints."""
    environment = {**os.environ, "SURGEON_URL": service.client.url, "SURGEON_API_KEY": key}
    command = [sys.executable, "-m", "surgeon", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_from_the_operators_key_to_a_revoked_one(service: Running) -> None:
    project = surgeon(service, OPERATOR, "projects", "create", "search").strip()
    assert f"{project}  search" in surgeon(service, OPERATOR, "projects", "list")
    made = ("keys", "create", "--scope", "admin", "--project", project, "--name", "lead")
    printed = surgeon(service, OPERATOR, *made).split()
    key_id, admin = printed[1], printed[3]
    listed = surgeon(service, admin, "keys", "list")
    assert listed.startswith(f"{key_id}  active  admin  last used ")
    assert admin not in listed
    reader = surgeon(service, admin, "keys", "create", "--scope", "read", "--days", "1").split()
    assert "no jobs" in surgeon(service, reader[3], "jobs")
    assert "scope 'admin'" in surgeon(service, reader[3], "keys", "list", code=1)
    assert surgeon(service, admin, "keys", "revoke", reader[1]) == f"{reader[1]} is revoked\n"
    assert "was revoked" in surgeon(service, reader[3], "jobs", code=1)
    assert admin not in service.logs()
