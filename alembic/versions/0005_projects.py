"""Create projects, keys, audit events, attempts, workers and webhooks; widen jobs and datasets.

Idempotency keys of the last day are forgotten: they are kept with the whole answer from now on.
"""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app.db import Instant

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
PROJECT = "pr_default"


def upgrade() -> None:
    _create_projects()
    _create_attempts_and_workers()
    _create_webhooks()
    _widen_jobs()
    _rebuild_datasets(
        "id, 'pr_default', 1, NULL, fingerprint, report, path, 0, created_at", _dataset_columns()
    )
    op.create_index("datasets_list", "datasets", ["project", "created_at", "id"])
    op.drop_table("idempotency_keys")
    op.create_table(
        "idempotency_keys",
        sa.Column("project", sa.String(length=40), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_sha256", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=32), nullable=False),
        sa.Column("held_until", Instant(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", JSON, nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"]),
        sa.PrimaryKeyConstraint("project", "key"),
    )
    op.create_index("idempotency_keys_created", "idempotency_keys", ["created_at"])
    _number_metrics()
    _create_job_labels()
    if op.get_bind().dialect.name == "postgresql":
        op.execute(ANNOUNCE)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(ANNOUNCE_NO_MORE)
        op.execute(LABEL_NO_MORE)
    else:
        for name in SQLITE_LABELLING:
            op.execute(f"DROP TRIGGER {name}")
    op.drop_table("job_labels")
    op.drop_index("metrics_tail", "metrics")
    op.drop_column("metrics", "seq")
    op.drop_table("idempotency_keys")
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_sha256", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("key"),
    )
    _rebuild_datasets(
        "id, fingerprint, report, path, created_at",
        [column for column in _dataset_columns() if column.name in OLD_DATASET],
        unique=["fingerprint"],
    )
    for name in (*JOB_INDEXES, *PARTIAL_INDEXES):
        op.drop_index(name, "jobs")
    for column in reversed(_job_columns()):
        op.drop_column("jobs", column.name)
    for name, columns in OLD_JOB_INDEXES.items():
        op.create_index(name, "jobs", columns)
    for table in (
        "webhook_deliveries",
        "webhooks",
        "workers",
        "job_attempts",
        "past_usage",
        "audit_events",
        "signing_keys",
        "api_keys",
        "projects",
    ):
        op.drop_table(table)


def _create_projects() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("limits", JSON, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    # Postgres casts the time, SQLite's is in microseconds.
    sqlite = op.get_bind().dialect.name == "sqlite"
    now = "round((julianday('now') - 2440587.5) * 86400000000.0)" if sqlite else "now()"
    op.execute(f"INSERT INTO projects VALUES ('{PROJECT}', 'default', '{{}}', {now})")
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=True),
        sa.Column("last_used_at", Instant(), nullable=True),
        sa.Column("revoked_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(["project"], ["projects.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_index("ix_api_keys_project", "api_keys", ["project"])
    keys = op.create_table(
        "signing_keys",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.bulk_insert(keys, [{"name": "cursors", "key": secrets.token_hex(32)}])
    op.create_table(
        "audit_events",
        sa.Column("seq", SERIAL, autoincrement=True, nullable=False),
        sa.Column("project", sa.String(length=40), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=80), nullable=False),
        sa.Column("target", sa.String(length=300), nullable=True),
        sa.Column("request_id", sa.String(length=100), nullable=True),
        sa.Column("data", JSON, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"]),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("audit_events_project", "audit_events", ["project", "seq"])
    op.create_index("audit_events_age", "audit_events", ["at"])
    op.create_table(
        "past_usage",
        sa.Column("project", sa.String(length=40), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("device", sa.String(length=200), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"]),
        sa.PrimaryKeyConstraint("project", "day", "kind", "device"),
    )


def _create_attempts_and_workers() -> None:
    op.create_table(
        "job_attempts",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=False),
        sa.Column("started_at", Instant(), nullable=False),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.Column("outcome", sa.String(length=40), nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.Column("usage", JSON, nullable=True),
        sa.Column("log_path", sa.Text(), nullable=True),
        sa.Column("log_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("log_closed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("job_id", "epoch"),
    )
    op.create_index("job_attempts_started", "job_attempts", ["started_at"])
    op.create_index("job_attempts_ended", "job_attempts", ["ended_at"])
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("kinds", JSON, nullable=False),
        sa.Column("devices", JSON, nullable=False),
        sa.Column("precisions", JSON, nullable=False),
        sa.Column("max_processes", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(length=40), nullable=False),
        sa.Column("job", sa.String(length=40), nullable=True),
        sa.Column("started_at", Instant(), nullable=False),
        sa.Column("heartbeat_at", Instant(), nullable=False),
        sa.Column("stopped_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=40), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", JSON, nullable=False),
        sa.Column("description", sa.String(length=200), nullable=True),
        sa.Column("secret", sa.String(length=100), nullable=False),
        sa.Column("old_secret", sa.String(length=100), nullable=True),
        sa.Column("old_secret_expires_at", Instant(), nullable=True),
        sa.Column("enabled", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("disabled_reason", sa.String(length=200), nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_webhooks_project", "webhooks", ["project"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("webhook", sa.String(length=40), nullable=False),
        sa.Column("type", sa.String(length=80), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("attempts", JSON, nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", Instant(), nullable=True),
        sa.Column("retry_until", Instant(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(["webhook"], ["webhooks.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("webhook_deliveries_due", "webhook_deliveries", ["status", "next_at"])
    listed = ["webhook", "created_at", "id"]
    op.create_index("webhook_deliveries_list", "webhook_deliveries", listed)
    op.create_index("webhook_deliveries_age", "webhook_deliveries", ["created_at"])
    op.create_index("webhook_deliveries_ended", "webhook_deliveries", ["ended_at"])


def _job_columns() -> list[sa.Column]:
    return [
        sa.Column("project", sa.String(length=40), server_default=PROJECT, nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("retry_of", sa.String(length=40), nullable=True),
        sa.Column("request_id", sa.String(length=100), nullable=True),
        sa.Column("deadline_seconds", sa.Integer(), nullable=True),
        sa.Column("deadline_at", Instant(), nullable=True),
        sa.Column("pause_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("result_of", sa.String(length=40), nullable=True),
        sa.Column("traceparent", sa.String(length=55), nullable=True),
        sa.Column("usage", JSON, nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("warnings", JSON, server_default=sa.text("'[]'"), nullable=False),
        sa.Column("transitions", JSON, server_default=sa.text("'[]'"), nullable=False),
    ]


def _widen_jobs() -> None:
    # A batch would rebuild the table, to which foreign keys of others refer.
    for column in _job_columns():
        op.add_column("jobs", column)
    for name in OLD_JOB_INDEXES:
        op.drop_index(name, "jobs")
    if op.get_bind().dialect.name == "sqlite":
        second = "strftime('%Y-%m-%dT%H:%M:%S', CAST(at / 1000000 AS INTEGER), 'unixepoch')"
        at = f"{second} || printf('.%06dZ', at % 1000000)"
        each = f"json_object('status', data ->> 'status', 'at', {at}, 'reason', {REASON})"
        ordered = f"SELECT {each} AS change FROM job_events WHERE {OF_JOB} ORDER BY seq"
        listed = f"SELECT json_group_array(json(change)) FROM ({ordered})"
        op.execute(f"UPDATE jobs SET transitions = ({listed})")
    else:
        at = "to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        each = f"jsonb_build_object('status', data ->> 'status', 'at', {at}, 'reason', {REASON})"
        ordered = f"SELECT jsonb_agg({each} ORDER BY seq) FROM job_events WHERE {OF_JOB}"
        op.execute(f"UPDATE jobs SET transitions = coalesce(({ordered}), '[]')")
    _index_jobs()  # last: every row was just written again


def _number_metrics() -> None:
    """Number each job's measurements in the order in which they are written from now on."""
    op.add_column("metrics", sa.Column("seq", sa.BigInteger(), server_default="0", nullable=False))
    numbered = "row_number() OVER (PARTITION BY job_id ORDER BY step, name) AS number"
    op.execute(
        "UPDATE metrics SET seq = numbered.number "
        f"FROM (SELECT job_id, name, step, {numbered} FROM metrics) AS numbered "
        "WHERE metrics.job_id = numbered.job_id AND metrics.name = numbered.name "
        "AND metrics.step = numbered.step"
    )
    op.create_index("metrics_tail", "metrics", ["job_id", "seq"])


# Whoever follows a job learns of each change with its commit. An event gets its number only while
# its transaction has the job's row, so that a job's events become visible in the order of their
# numbers: a reader who has seen one will never meet a smaller one.
ANNOUNCE = """
CREATE FUNCTION announce_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('surgeon_jobs', NEW.id);
    RETURN NULL;
END $$;
CREATE FUNCTION number_job_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM jobs WHERE id = NEW.job_id FOR NO KEY UPDATE;
    NEW.seq := nextval('job_events_seq_seq');
    PERFORM pg_notify('surgeon_jobs', NEW.job_id);
    RETURN NEW;
END $$;
ALTER TABLE job_events ALTER COLUMN seq DROP DEFAULT;
CREATE TRIGGER jobs_announce AFTER INSERT OR UPDATE ON jobs
    FOR EACH ROW EXECUTE FUNCTION announce_job();
CREATE TRIGGER job_events_number BEFORE INSERT ON job_events
    FOR EACH ROW EXECUTE FUNCTION number_job_event();
"""
ANNOUNCE_NO_MORE = """
DROP TRIGGER job_events_number ON job_events;
DROP TRIGGER jobs_announce ON jobs;
ALTER TABLE job_events ALTER COLUMN seq SET DEFAULT nextval('job_events_seq_seq');
DROP FUNCTION number_job_event();
DROP FUNCTION announce_job();
"""
OLD_JOB_INDEXES = {
    "jobs_claim": ["status", "kind", "priority", "queued_at"],
    "jobs_lease": ["status", "lease_expires_at"],
    "jobs_list": ["created_at", "id"],
    "jobs_parent": ["parent"],
    "jobs_digest": ["digest"],
    "ix_jobs_model": ["model"],
    "ix_jobs_dataset": ["dataset"],
}
JOB_INDEXES = {
    "jobs_list": ["project", "created_at", "id"],
    "jobs_by_status": ["project", "status", "created_at", "id"],
    "jobs_by_kind": ["project", "kind", "created_at", "id"],
    "jobs_by_model": ["project", "model", "created_at", "id"],
    "jobs_by_dataset": ["project", "dataset", "created_at", "id"],
}
PARTIAL_INDEXES = {
    "jobs_queue": ([sa.text("priority DESC"), "queued_at", "id"], "status = 'queued'"),
    "jobs_running": (["project", "id"], "status = 'running'"),
    "jobs_paused": (["id"], "status = 'paused'"),
    "jobs_deadline": (
        ["deadline_at"],
        "deadline_at IS NOT NULL AND (status = 'queued' OR status = 'paused')",
    ),
    "jobs_digest": (["project", "digest"], "result_of IS NULL"),
    "jobs_waiting": (["waits_for"], "waits_for IS NOT NULL"),
    "jobs_sharing": (["result_of"], "result_of IS NOT NULL"),
    "jobs_parent": (["parent", "created_at", "id"], "parent IS NOT NULL"),
    "jobs_finished": (["finished_at"], "finished_at IS NOT NULL"),
}


def _index_jobs() -> None:
    for name, columns in JOB_INDEXES.items():
        op.create_index(name, "jobs", columns)
    for name, (columns, condition) in PARTIAL_INDEXES.items():
        only = sa.text(condition)
        op.create_index(name, "jobs", columns, postgresql_where=only, sqlite_where=only)


def _create_job_labels() -> None:
    """A table of labels by their values, which triggers keep as the jobs' own labels are."""
    op.create_table(
        "job_labels",
        sa.Column("project", sa.String(length=40), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=512), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("project", "key", "value", "created_at", "job_id"),
        sqlite_with_rowid=False,
    )
    sqlite = op.get_bind().dialect.name == "sqlite"
    each = "json_each(labels)" if sqlite else "jsonb_each_text(labels)"
    label = "project, label.key, label.value, created_at, jobs.id"
    op.execute(f"INSERT INTO job_labels SELECT {label} FROM jobs, {each} AS label")
    for statement in SQLITE_LABELLING.values() if sqlite else (LABEL,):
        op.execute(statement)


LABEL = """
CREATE FUNCTION label_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM job_labels USING jsonb_each_text(OLD.labels) AS label
        WHERE job_labels.project = OLD.project AND job_labels.key = label.key
            AND job_labels.value = label.value AND created_at = OLD.created_at
            AND job_id = OLD.id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO job_labels SELECT NEW.project, label.key, label.value, NEW.created_at, NEW.id
        FROM jsonb_each_text(NEW.labels) AS label;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_label AFTER INSERT ON jobs
    FOR EACH ROW WHEN (NEW.labels <> '{}') EXECUTE FUNCTION label_job();
CREATE TRIGGER jobs_relabel AFTER UPDATE OF labels ON jobs
    FOR EACH ROW WHEN (OLD.labels <> NEW.labels) EXECUTE FUNCTION label_job();
CREATE TRIGGER jobs_unlabel AFTER DELETE ON jobs
    FOR EACH ROW WHEN (OLD.labels <> '{}') EXECUTE FUNCTION label_job();
"""
LABEL_NO_MORE = """
DROP TRIGGER jobs_unlabel ON jobs;
DROP TRIGGER jobs_relabel ON jobs;
DROP TRIGGER jobs_label ON jobs;
DROP FUNCTION label_job();
"""
ADD_LABELS = """
INSERT INTO job_labels SELECT NEW.project, key, value, NEW.created_at, NEW.id
FROM json_each(NEW.labels);
"""
REMOVE_LABELS = """
DELETE FROM job_labels WHERE project = OLD.project AND created_at = OLD.created_at
    AND job_id = OLD.id AND (key, value) IN (SELECT key, value FROM json_each(OLD.labels));
"""
SQLITE_LABELLING = {
    "jobs_label": "CREATE TRIGGER jobs_label AFTER INSERT ON jobs WHEN NEW.labels <> '{}' "
    f"BEGIN {ADD_LABELS} END",
    "jobs_relabel": "CREATE TRIGGER jobs_relabel AFTER UPDATE OF labels ON jobs "
    f"WHEN OLD.labels <> NEW.labels BEGIN {REMOVE_LABELS} {ADD_LABELS} END",
    "jobs_unlabel": "CREATE TRIGGER jobs_unlabel AFTER DELETE ON jobs WHEN OLD.labels <> '{}' "
    f"BEGIN {REMOVE_LABELS} END",
}
REASON = "coalesce(data ->> 'reason', data ->> 'code')"
OF_JOB = "job_events.job_id = jobs.id AND type = 'status'"
OLD_DATASET = ("id", "fingerprint", "report", "path", "created_at")


def _dataset_columns() -> list[sa.Column]:
    return [
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=40), server_default=PROJECT, nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("name", sa.String(length=200), nullable=True),
        sa.Column("fingerprint", sa.String(length=80), nullable=False),
        sa.Column("report", JSON, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
    ]


def _rebuild_datasets(
    copied: str,
    columns: list[sa.Column],
    unique: tuple[str, ...] | list[str] = ("project", "fingerprint"),
) -> None:
    """SQLite cannot drop a constraint, and no foreign key refers to this table."""
    op.rename_table("datasets", "datasets_before")
    op.create_table(
        "datasets", *columns, sa.PrimaryKeyConstraint("id"), sa.UniqueConstraint(*unique)
    )
    op.execute(f"INSERT INTO datasets SELECT {copied} FROM datasets_before")
    op.drop_table("datasets_before")
