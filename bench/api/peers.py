"""What the API is compared with: two servers that only answer one job each.

    python -m bench.api.peers sqlalchemy|asyncpg --port 8001 --database postgresql://…

``sqlalchemy`` is what one writes by hand with FastAPI: the row from a session, answered by a
response model. ``asyncpg`` is the limit: no framework, no objects, the fastest driver. Both answer
the fields that the service answers, and check neither keys nor the names of query parameters.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import asyncpg
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic_core import to_json
from sqlalchemy import create_engine, func, or_, select
from sqlalchemy.orm import Session

from app.api.answers.views import COLLECTION
from app.db.tables import TERMINAL, Job, Status
from surgery.schemas.answers.job import JobView
from surgery.schemas.answers.usage import Usage

Json = dict[str, Any]
SAME = [name for name in JobView.model_fields if name in Job.__table__.columns]
MORE = ("labels", "crashes", "stored_bytes")
PARTS = ("events", "metrics", "checkpoints", "attempts", "logs", "retry")
NOTHING_USED = Usage().model_dump()


def with_sqlalchemy(url: str) -> Any:
    """A FastAPI application with one handler."""
    app = FastAPI()
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))

    @app.get("/v1/jobs/{job_id}")
    def get_job(job_id: str) -> JobView:
        with Session(engine) as session:
            job = session.get(Job, job_id)
            if job is None:
                raise HTTPException(404)
            ahead = None
            if job.status == Status.QUEUED:
                older = (Job.priority == job.priority) & (Job.queued_at < job.queued_at)
                before = or_(Job.priority > job.priority, older)
                count = select(func.count()).where(Job.status == Status.QUEUED, before)
                ahead = {"ahead": session.scalar(count)}
            fields = {name: getattr(job, name) for name in SAME}
            more = {name: getattr(job, name) for name in MORE}
            return JobView(**_completed(fields, more, ahead))

    return app


def _completed(fields: Json, more: Json, ahead: Json | None) -> Json:
    job_id = fields["id"]
    links = {"self": f"/v1/{COLLECTION[fields['kind']]}/{job_id}"}
    links |= {name: f"/v1/jobs/{job_id}/{name}" for name in PARTS}
    return {
        **fields,
        "metadata": more["labels"],
        "usage": {**NOTHING_USED, **(fields["usage"] or {}), "stored_bytes": more["stored_bytes"]},
        "terminal": fields["status"] in TERMINAL,
        "queue": ahead,
        "attempt": min(more["crashes"] + 1, fields["max_attempts"]),
        "links": links,
    }


def with_asyncpg(url: str) -> Any:
    """An ASGI application without a framework."""
    columns = ", ".join(f'"{name}"' for name in [*SAME, *MORE])
    query = f"SELECT {columns} FROM jobs WHERE id = $1"
    pool: list[asyncpg.Pool] = []

    async def decode(connection: asyncpg.Connection) -> None:
        await connection.set_type_codec(
            "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
        )

    async def app(scope: Json, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            pool.append(await asyncpg.create_pool(url, min_size=4, max_size=16, init=decode))
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        row = dict(await pool[0].fetchrow(query, scope["path"].rpartition("/")[2]))
        more = {name: row.pop(name) for name in MORE}
        body = to_json(_completed(row, more, None))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def main() -> None:
    """Serve one of them, with the server and the settings that the service uses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["sqlalchemy", "asyncpg"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", required=True)
    given = parser.parse_args()
    make = {"sqlalchemy": with_sqlalchemy, "asyncpg": with_asyncpg}[given.which]
    app = make(given.database)
    uvicorn.run(
        app, port=given.port, access_log=False, log_level="warning",
        loop="uvloop", http="httptools",
    )  # fmt: skip


if __name__ == "__main__":
    main()
