"""The units of deploy/systemd: their very commands are run, with a real Postgres and Redis."""

from __future__ import annotations

import configparser
import hashlib
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest

from surgeon.client import Client
from tests.support.models.mirror import TINY
from tests.support.service.deployment import ROOT, parse_command, variables
from tests.support.service.problems import ROWS
from tests.support.service.services import FAST, START_SECONDS, Running, free_port

UNITS = ROOT / "deploy/systemd"
EXAMPLE = UNITS / "surgeon.env.example"
INSTALLED = "/opt/surgeon/bin/surgeon"
KEY = "sk_of-the-units"


def unit(name: str) -> dict[str, dict[str, str]]:
    """The sections of a unit file."""
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((UNITS / f"surgeon-{name}.service").read_text())
    return {section: dict(parser[section]) for section in parser.sections()}


def example() -> dict[str, str]:
    """The variables of the environment's example."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def command(name: str, environment: dict[str, str]) -> list[str]:
    """The words of a unit's command after the program's, with the variables put in."""
    program, *words = shlex.split(unit(name)["Service"]["ExecStart"])
    assert program == INSTALLED
    return [Template(word).substitute(environment) for word in words]


@pytest.fixture
def environment(postgres_url: str, redis_url: str, tmp_path: Path, mirror: Path) -> dict[str, str]:
    """The example, filled in as the page says, and what makes a test fast."""
    filled = {
        "SURGEON_DATA_DIR": str(tmp_path / "data"),
        "SURGEON_DATABASE_URL": postgres_url,
        "SURGEON_REDIS_URL": redis_url,
        "SURGEON_API_KEY_HASHES": hashlib.sha256(KEY.encode()).hexdigest(),
        "SURGEON_PORT": str(free_port()),
    }
    assert filled.keys() <= example().keys()
    return {**example(), **FAST, **filled, "SURGEON_MIRROR_DIR": str(mirror)}


@pytest.fixture
def service(environment: dict[str, str], tmp_path: Path) -> Iterator[Running]:
    """The commands of the units in the order that `Requires` and `After` ask for."""
    with Client(f"http://127.0.0.1:{environment['SURGEON_PORT']}", KEY) as client:
        running = Running(client, tmp_path, environment)
        migrate = running.start(*command("migrate", environment))
        assert migrate.wait(START_SECONDS) == 0, running.logs()
        for name in ("api", "worker"):
            assert "surgeon-migrate.service" in unit(name)["Unit"]["After"].split()
            assert unit(name)["Unit"]["Requires"] == "surgeon-migrate.service"
            running.start(*command(name, environment))
        running.wait_ready()
        yield running
        running.stop()


@pytest.mark.slow
def test_the_units_commands_run_a_job_and_stop_on_sigterm(service: Running, tmp_path: Path) -> None:
    rows = tmp_path / "train.csv"
    rows.write_text(ROWS)
    dataset = service.client.upload(rows).id
    job = service.run("rankings", {"model": TINY, "dataset": dataset, "samples": 8})
    assert len(job["result"]["layers"]) > 1
    for process in service.processes[1:]:
        process.send_signal(signal.SIGTERM)  # to the one process, as KillMode=mixed does
    migrated, api, worker = (process.wait(30) for process in service.processes)
    assert (migrated, worker) == (0, 0), service.logs()
    # uvicorn ends by the signal itself once it is done, which systemd counts as success.
    assert api == -signal.SIGTERM


@pytest.mark.parametrize("name", ["migrate", "api", "worker"])
def test_a_unit_runs_a_command_that_exists_as_a_user_of_its_own(name: str) -> None:
    service = unit(name)["Service"]
    assert parse_command(["surgeon", *command(name, {"SURGEON_PORT": "8000"})])
    assert service["User"] == service["Group"] == "surgeon"
    assert service["EnvironmentFile"] == "/etc/surgeon/surgeon.env"
    assert service["StateDirectory"] == "surgeon"  # of /var/lib
    assert service["WorkingDirectory"] == example()["SURGEON_DATA_DIR"] == "/var/lib/surgeon"
    assert service["NoNewPrivileges"] == "yes"
    if name != "migrate":
        assert (service["Restart"], service["KillMode"]) == ("always", "mixed")


def test_a_worker_has_more_time_to_stop_than_it_takes() -> None:
    assert int(unit("worker")["Service"]["TimeoutStopSec"]) > float(variables()["SURGEON_GRACE"])


def test_the_example_names_settings_alone() -> None:
    assert set(example()) - set(variables()) == {"SURGEON_PORT"}
    assert subprocess.run(["sh", "-n", EXAMPLE], check=False).returncode == 0
