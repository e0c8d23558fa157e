"""docs/how-to/two-teams.md: its commands are run, and print what the page shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from surgeon.client import Client
from tests.support.service.deployment import ROOT
from tests.support.service.services import Running, free_port
from tests.support.stories.one_shell import run_page, steps_of

PAGE = ROOT / "docs/how-to/two-teams.md"
OPERATOR = "sk_operator-of-two-teams"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    """An API alone, with the operator's key in its environment."""
    port = free_port()
    settings = {
        "SURGEON_DATA_DIR": str(tmp_path / "data"),
        "SURGEON_OFFLINE": "true",
        "SURGEON_API_KEY_HASHES": hashlib.sha256(OPERATOR.encode()).hexdigest(),
    }
    with Client(f"http://127.0.0.1:{port}") as client:
        running = Running(client, tmp_path, settings)
        running.start("api", "--port", str(port))
        running.wait_ready()
        yield running
        running.stop()


@pytest.mark.slow
def test_the_commands_of_the_page_print_what_it_shows(service: Running, tmp_path: Path) -> None:
    assert len(steps_of(PAGE)) > 15
    environment = {"SURGEON_URL": service.client.url, "SURGEON_API_KEY": OPERATOR, "COLUMNS": "200"}
    assert run_page(PAGE, tmp_path, environment) == []
