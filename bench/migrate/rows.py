"""Fills the tables of the first migration, by SQL alone: a job of every kind in every state."""

from __future__ import annotations

import json
from collections.abc import Iterable

from alembic import command
from sqlalchemy import Connection, text

from app.api.examples.answers import COMPARISON, FINETUNE, RANKING
from app.db import Database, alembic_config

FIRST = "0001"
KINDS = ("comparison", "ranking", "finetune")
STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")
DOCUMENTS = ("spec", "resolved", "result")
DATASET_OF = 1000  # jobs have a dataset together
METRICS = 4  # of each fine-tune that succeeded
# How often a job's status changed: a queued one was queued, a running one claimed as well.
EVENTS = """
INSERT INTO job_events (job_id, lease_epoch, type, data, at)
SELECT jobs.id, change.place - 1, 'status', {change}, jobs.created_at
FROM jobs JOIN ({numbers}) AS change
ON change.place <= CASE jobs.status WHEN 'queued' THEN 1 WHEN 'running' THEN 2 ELSE 3 END
ORDER BY jobs.created_at, jobs.id, change.place
"""
STATUS_THEN = "CASE change.place WHEN 1 THEN 'queued' WHEN 2 THEN 'running' ELSE jobs.status END"
JOBS = """
INSERT INTO jobs (id, kind, name, labels, priority, model, dataset, digest, parent, status, crashes,
    max_attempts, cancel_requested, lease_epoch, lease_owner, lease_expires_at, spec, resolved,
    result, error, created_at, queued_at, started_at, finished_at, updated_at)
SELECT {prefix} || '_' || {digits}, {kind}, 'job ' || n, {labels}, n % 3,
    'owner/model-' || (n % 40), 'ds_' || (n / {dataset_of}), 'digest-' || n,
    CASE WHEN n % 3 = 2 AND n > 2 THEN 'cmp_' || {parent} END, {status}, 0, 3, {false},
    CASE {status} WHEN 'queued' THEN 0 ELSE 1 END,
    CASE {status} WHEN 'running' THEN 'host:1' END, CASE {status} WHEN 'running' THEN {at} END,
    {spec}, {resolved},
    CASE WHEN {status} = 'succeeded' THEN {result} END,
    CASE WHEN {status} IN ('failed', 'cancelled') THEN {error} END,
    {at}, {at}, CASE {status} WHEN 'queued' THEN NULL ELSE {at} END,
    CASE WHEN {status} IN ('queued', 'running') THEN NULL ELSE {at} END, {at}
FROM ({numbers}) AS numbers ORDER BY n
"""
CHECKPOINTS = """
INSERT INTO checkpoints (id, job_id, lease_epoch, step, epoch, form, is_best, metrics, files, bytes,
    path, created_at)
SELECT 'ck_' || substr(id, 4), id, 1, 10, 1, 'delta', {true}, {empty}, {empty}, 1000,
    'jobs/' || id || '/1/checkpoint-10', created_at
FROM jobs WHERE kind = 'finetune' AND status = 'succeeded'
"""
MEASURED = """
INSERT INTO metrics (job_id, name, step, epoch, value, at)
SELECT jobs.id, 'train_loss', measured.place, measured.place, 0.5, jobs.created_at
FROM jobs CROSS JOIN ({numbers}) AS measured
WHERE jobs.kind = 'finetune' AND jobs.status = 'succeeded'
"""
DATASETS = """
INSERT INTO datasets (id, fingerprint, report, path, created_at)
SELECT 'ds_' || n, 'sha256:' || n, {report}, 'datasets/ds_' || n, {at} FROM ({numbers}) AS numbers
"""
KEYS = """
INSERT INTO idempotency_keys (key, request_sha256, job_id, created_at)
SELECT 'key-' || id, 'x', id, created_at FROM jobs WHERE status = 'queued'
"""


def fill(database: Database, jobs: int) -> int:
    """Make the first migration's tables in an empty database, and this many jobs in them.

    Every comparison has a fine-tune, for which there may be two jobs more. Returns how many.
    """
    jobs += (2 - jobs) % len(KINDS)
    command.upgrade(alembic_config(database.url), FIRST)
    with database.engine.execution_options(writes=True).begin() as connection:
        sqlite = connection.dialect.name == "sqlite"
        words = _words(sqlite=sqlite)
        _run(connection, DATASETS, words, count=jobs // DATASET_OF + 1)
        _run(connection, JOBS, words, count=jobs)
        change = (
            f"json_object('status', {STATUS_THEN})"
            if sqlite
            else f"jsonb_build_object('status', {STATUS_THEN})"
        )
        _run(connection, EVENTS, words | {"change": change}, count=3)
        _run(connection, CHECKPOINTS, words)
        _run(connection, MEASURED, words, count=METRICS)
        _run(connection, KEYS, words)
    analyze = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    with analyze.connect() as connection:
        connection.execute(text("ANALYZE"))
    return jobs


def _run(connection: Connection, template: str, words: dict[str, str], **given: int) -> None:
    statement = template.format(**words)
    if ":count" not in statement:
        given = {}
    values = _documents()
    used = {name: value for name, value in values.items() if f":{name}" in statement}
    connection.execute(text(statement), {**used, **given})


def _documents() -> dict[str, str]:
    """The JSON documents of the jobs of each kind, of a usual size."""
    examples = {"comparison": COMPARISON, "ranking": RANKING, "finetune": FINETUNE}
    documents = {
        f"{name}_{kind}": json.dumps(example[name])
        for kind, example in examples.items()
        for name in DOCUMENTS
    }
    error = {"code": "out_of_memory", "detail": "too large", "title": "Out of memory"}
    return documents | {"error": json.dumps(error), "report": "{}"}


def _words(*, sqlite: bool) -> dict[str, str]:
    """What the templates leave to the dialect, and what is computed of a job's number ``n``."""
    if sqlite:
        rows = (
            "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted "
            "WHERE n < :count) SELECT n, n AS place FROM counted"
        )
        digits, parent = "printf('%012d', n)", "printf('%012d', n - 2)"
        at, json_of = "1790000000.0 - 1000000.0 + n", ":{}"
        labels = "json_object('team', 'team-' || (n % 40))"
        words = {"true": "1", "false": "0", "empty": "'{}'"}
    else:
        rows = "SELECT n, n AS place FROM generate_series(1, :count) AS n"
        digits = "lpad(CAST(n AS text), 12, '0')"
        parent = "lpad(CAST(n - 2 AS text), 12, '0')"
        at = "to_timestamp(1790000000.0 - 1000000.0 + n)"
        json_of = "CAST(:{} AS jsonb)"
        labels = "jsonb_build_object('team', 'team-' || (n % 40))"
        words = {"true": "true", "false": "false", "empty": "CAST('{}' AS jsonb)"}
    of_kind = {
        name: _by_number("n % 3", [json_of.format(f"{name}_{kind}") for kind in KINDS])
        for name in DOCUMENTS
    }
    same = {name: json_of.format(name) for name in ("error", "report")}
    return words | of_kind | same | {
        "numbers": rows, "digits": digits, "parent": parent, "at": at, "labels": labels,
        "dataset_of": str(DATASET_OF),
        "kind": _by_number("n % 3", map(repr, KINDS)),
        "prefix": _by_number("n % 3", ("'cmp'", "'rk'", "'ft'")),
        "status": _by_number("(n / 3) % 5", map(repr, STATUSES)),
    }  # fmt: skip


def _by_number(number: str, values: Iterable[str]) -> str:
    cases = " ".join(f"WHEN {place} THEN {value}" for place, value in enumerate(values))
    return f"(CASE {number} {cases} END)"
