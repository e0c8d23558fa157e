"""Claims, places in the queue and sweeps look at unfinished jobs only, whatever has finished."""

from __future__ import annotations

import re
from datetime import timedelta

from sqlalchemy import event, text

from app.api.answers.job_documents import read_job
from app.db import Database
from app.db.tables import DEFAULT_PROJECT
from app.jobs import state_machine
from tests.support.service.queued_jobs import insert_jobs, take

FINISHED = 3000


def plans(database: Database, *calls: object) -> list[str]:
    """How the database carries out the first statement that each call reads or writes jobs with."""
    sent: list[tuple[str, object]] = []

    def note(_: object, __: object, statement: str, parameters: object, *___: object) -> None:
        sent.append((statement, parameters))

    engines = (database.engine, database._reader)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    explained = []
    for call in calls:
        sent.clear()
        assert callable(call)
        call()
        statement, parameters = next(each for each in sent if "jobs" in each[0])
        sqlite = database.engine.dialect.name == "sqlite"
        with database.engine.connect() as connection:
            cursor = connection.connection.cursor()
            how = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "
            cursor.execute(how + statement, parameters)
            explained.append(" ".join(str(row) for row in cursor.fetchall()))
    return explained


def test_what_has_finished_is_not_looked_at(database: Database) -> None:
    insert_jobs(database, FINISHED)
    with database.write() as session:
        session.execute(text("UPDATE jobs SET status = 'succeeded'"))
    _, second = insert_jobs(database, 2)
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("ANALYZE jobs"))
    ahead, claim, reap, comparisons = plans(
        database,
        lambda: read_job(database, DEFAULT_PROJECT, second, ()),
        lambda: take(database),
        lambda: state_machine.reap(database, timedelta(0)),
        lambda: state_machine.advance_comparisons(database),
    )
    everything = (ahead, claim, reap, comparisons)
    if database.engine.dialect.name == "postgresql":  # which has more than one good way
        assert not any("Seq Scan on jobs" in plan for plan in everything)
        return
    expected = ("jobs_queue", "jobs_queue", "jobs_running", "jobs_running")
    for plan, index in zip(everything, expected, strict=True):
        assert f"USING INDEX {index}" in plan or f"USING COVERING INDEX {index}" in plan, plan
        scans = re.findall(
            r"SCAN jobs\w*\b(?! USING (?:COVERING )?INDEX jobs_(?:queue|running|paused))", plan
        )
        assert not scans, plan
