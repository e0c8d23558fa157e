"""The attempts at a job, and their logs."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy import select

from app.api.deps import JobDep, ServiceDep
from app.api.examples.answers import ATTEMPTS, LOGS, answers
from app.api.pages import Page, PagingDep
from app.artifacts.attempt_logs import LINE, LogPart, read_log
from app.db import db_now
from app.db.tables import TERMINAL, Attempt, Job, JobKind
from app.errors import Conflict, NotFound, Unprocessable
from app.jobs.attempts import AttemptOutcome
from app.service import Service
from surgery.schemas.answers.usage import Usage

Json = dict[str, Any]
router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
TRIES = 3  # a worker may remove a part of the log's middle while it is read
PAUSE_SECONDS = 0.05
CLOSED_AFTER_SECONDS = 10.0  # a worker that died with its attempt adds nothing to the log
TEXT = "text/plain; charset=utf-8"


class AttemptView(BaseModel):
    """One attempt at a job: who made it, how it ended and what it used."""

    number: int = Field(description="Attempts are numbered from 1, whatever ended them.")
    epoch: int = Field(description="The epoch of the lease under which it wrote; its number.")
    worker: str = Field(description="The worker that made it, as `GET /v1/workers` names it.")
    started_at: datetime = Field(description="When the worker claimed the job.")
    ended_at: datetime | None = Field(description="When it ended; null while it runs.")
    outcome: AttemptOutcome | None = Field(
        description="`succeeded`, `failed`, `crashed` (its process died), `lost` (its worker "
        "stopped answering), `drained` (its worker was stopped), `paused` or `cancelled`; null "
        "while it runs. Only `crashed` and `lost` count towards `max_attempts`."
    )
    error: Json | None = Field(description="Why it failed, crashed or was lost, as a problem.")
    usage: Usage | None = Field(
        description="What it has used: until now, or of a lost one until its last heartbeat; null "
        "before its first heartbeat."
    )
    log_bytes: int = Field(description="How much has been written to its log.")
    links: dict[str, str] = Field(description="The path of its log.")


class LogLine(BaseModel):
    """One line of a log."""

    at: str = Field(description="When it was written, by the worker's clock.")
    source: str = Field(
        description="`supervisor`: what the worker says about the attempt. `fetcher` and `job`: "
        "what the processes print that fetch the model and the data and that run the job."
    )
    text: str = Field(description="The line, with control characters escaped.")


class LogPage(BaseModel):
    """The lines of a log from a position on."""

    attempt: int | None = Field(description="The number of the attempt; null before the first.")
    data: list[LogLine] = Field(description="The lines, oldest first.")
    next: int = Field(description="The position behind the last line: the `after` to go on with.")
    cut_bytes: int = Field(description="Bytes that are missing in the middle of a long log.")
    complete: bool = Field(description="Whether nothing will be added any more.")


@router.get(
    "/{job_id}/attempts", summary="List the attempts at a job", responses=answers(ATTEMPTS, 404)
)
def get_attempts(job: JobDep, service: ServiceDep, paging: PagingDep) -> Page[AttemptView]:
    """Lists the attempts at a job, oldest first, each with its outcome and what it used.

    A job has more than one if a worker or its process died, was stopped, or if the job was paused.
    A comparison has none: its children have.
    """
    query = select(Attempt).where(Attempt.job_id == job.id)
    order = [Attempt.epoch]
    return paging.page(service.database, query, order, attempt_view, newest_first=False)


def attempt_view(row: Attempt) -> AttemptView:
    """An attempt as it is answered."""
    return AttemptView(
        number=row.epoch,
        epoch=row.epoch,
        worker=row.worker,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=AttemptOutcome(row.outcome) if row.outcome else None,
        error=row.error,
        usage=Usage.of(row.usage) if row.usage else None,
        log_bytes=row.log_bytes,
        links={"logs": f"/v1/jobs/{row.job_id}/logs?attempt={row.epoch}"},
    )


Number = Annotated[
    int | None,
    Query(
        ge=1,
        lt=1 << 31,
        description="The attempt whose log is wanted; the latest one if it is left out.",
    ),
]
After = Annotated[
    int,
    Query(
        ge=0,
        lt=1 << 62,
        description="The `next` of the previous answer, so that only new lines are answered.",
    ),
]
Accept = Annotated[str, Header(include_in_schema=False)]  # OpenAPI knows it from the answers


@router.get(
    "/{job_id}/logs",
    summary="Read the log of a job",
    response_model=LogPage,
    responses={
        **answers(LOGS, 404, 409),
        200: {
            "description": "The log from that position on.",
            "content": {
                "application/json": {"example": LOGS},
                "text/plain": {
                    "schema": {"type": "string"},
                    "example": "".join(
                        f"{line['at']} {line['source']} {line['text']}\n" for line in LOGS["data"]
                    ),
                },
            },
        },
    },
)
def get_logs(
    job: JobDep,
    service: ServiceDep,
    attempt: Number = None,
    after: After = 0,
    accept: Accept = "application/json",
) -> Response:
    """Answers what a job's worker said about an attempt, and what its processes printed.

    While the attempt runs, new lines can be read within a few seconds: ask again with the `next`
    of the last answer as `after`, and with the same `attempt`, until `complete` is true. With
    `Accept: text/plain`, each line is one of text and the header `Link` leads on. The beginning and
    the end of a log are kept, 1 MB together; a line says how much is missing between them.
    """
    page = _page(service, job, attempt, after)
    part, links = page[1], {"Vary": "Accept"}
    if not _prefers_text(accept):
        return JSONResponse(page[0].model_dump(mode="json"), headers=links)
    if page[0].attempt is not None:
        query = f"attempt={page[0].attempt}&after={page[0].next}"
        links["Link"] = f'</v1/jobs/{job.id}/logs?{query}>; rel="next"'
    return Response(part.text, media_type=TEXT, headers=links)


def _page(service: Service, job: Job, number: int | None, after: int) -> tuple[LogPage, LogPart]:
    """The lines from a position on, taken apart and as they are stored."""
    if job.kind == JobKind.COMPARISON:
        raise NotFound(f"a comparison has no log; GET /v1/jobs?parent={job.id} lists its jobs")
    for tried in range(TRIES):
        time.sleep(PAUSE_SECONDS if tried else 0)
        found = _attempt(service, job.id, number)
        if found is None and number is None:
            empty = LogPage(attempt=None, data=[], next=0, cut_bytes=0, complete=False)
            return empty.model_copy(update={"complete": job.status in TERMINAL}), LogPart("", 0)
        if found is None:
            raise NotFound(f"{job.id} has no attempt {number}; {job.lease_epoch} were made")
        row, complete = found
        if after > row.log_bytes:
            detail = f"the log of attempt {row.epoch} has {row.log_bytes} bytes so far"
            raise Unprocessable(detail, errors=[{"pointer": "/after", "detail": detail}])
        try:
            part = read_log(service.storage, row.log_path or "", row.log_bytes, after)
        except FileNotFoundError:
            continue
        lines = [LogLine(**found.groupdict()) for found in LINE.finditer(part.text)]
        page = LogPage(
            attempt=row.epoch,
            data=lines,
            next=row.log_bytes,
            cut_bytes=part.cut_bytes,
            complete=complete,
        )
        return page, part
    raise Conflict("the worker is replacing the log at this moment; ask again")


def _attempt(service: Service, job_id: str, number: int | None) -> tuple[Attempt, bool] | None:
    """An attempt, by default the latest one, and whether its log is complete."""
    settled = Attempt.ended_at < db_now(-CLOSED_AFTER_SECONDS)
    query = select(Attempt, Attempt.log_closed | settled).where(Attempt.job_id == job_id)
    if number is not None:
        query = query.where(Attempt.epoch == number)
    with service.database.read() as session:
        found = session.execute(query.order_by(Attempt.epoch.desc()).limit(1)).one_or_none()
    return (found[0], bool(found[1])) if found else None


def _prefers_text(accept: str) -> bool:
    """Whether a client asks for text rather than for JSON."""
    quality: dict[str, float] = {}
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        weights = [each.removeprefix("q=") for each in parameters if each.startswith("q=")]
        try:
            quality[kind] = float(weights[0]) if weights else 1.0
        except ValueError:
            continue
    rest = quality.get("*/*", 0.0)
    text = quality.get("text/plain", quality.get("text/*", rest))
    return text > quality.get("application/json", quality.get("application/*", rest))
