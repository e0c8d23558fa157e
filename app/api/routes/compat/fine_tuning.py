"""Fine-tuning jobs of OpenAI's shape: the service's fine-tunes, in other words."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from app.api.answers.job_documents import ALL, document, read_job, select_page, whole_job
from app.api.deps import PLACE, PrincipalDep, ServiceDep, require_json
from app.api.examples.answers import answers, body_examples
from app.api.examples.compat import CHECKPOINTS, EVENTS, JOB, JOBS, REQUESTS
from app.api.http.access.auditing import ChangeDep
from app.api.http.idempotency import IdempotentRoute, KeyDep, keep_answer
from app.api.http.reads import json_answer
from app.api.http.request_checks import MetadataFilter
from app.api.routes.compat.lists import After, Limit, no_such, older
from app.api.routes.compat.shapes import (
    FineTuningCheckpoint,
    FineTuningEvent,
    FineTuningJob,
    FineTuningRequest,
    Listed,
)
from app.api.routes.compat.translation import (
    checkpoint_of,
    event_of,
    finetune_of,
    job_of,
    told_by_fields,
)
from app.api.routes.jobs.finetunes import FINETUNES
from app.api.routes.jobs.life import cancel_job, pause_job, resume_job
from app.db.tables import Job, JobEvent, JobKind, JobLabel
from app.errors import NotFound
from app.jobs.outputs.records import checkpoints_of
from app.service import Service
from app.submissions.submit import prepare_finetune, submit

router = APIRouter(
    prefix="/compat/openai/v1/fine_tuning/jobs",
    tags=["OpenAI's shapes"],
    route_class=IdempotentRoute,
)
ORDER = (Job.created_at, Job.id)
EVENT = re.compile(r"ev_(\d{1,18})")
FinetuneDep = Annotated[Job, Depends(FINETUNES.find)]


@router.post(
    "",
    name="create_fine_tuning_job",
    summary="Fine-tune selected layers (OpenAI's shape)",
    response_model=FineTuningJob,
    responses=answers(JOB, 400, 409, 413, 415, 503),
    dependencies=[Depends(require_json), PLACE],
)
def create_job(
    service: ServiceDep,
    request: Annotated[FineTuningRequest, body_examples(REQUESTS)],
    key: KeyDep,
    change: ChangeDep,
) -> Response:
    """Queues a fine-tune, as `POST /v1/finetunes` does, with the same checks, limits and errors.

    `method.type` is `surgical`, and `method.surgical` has the fields of that request. Methods,
    hyperparameters and integrations of other services are refused.
    """
    made: list[Response] = []

    def accepted(session: Session, job: Job) -> None:
        found = whole_job(session, job.id)
        assert found is not None
        made.append(json_answer(job_of(found, service.project).model_dump(mode="json")))
        keep_answer(session, key, made[0])
        change.record(session, job.id)

    spec = finetune_of(request)
    with told_by_fields():
        submit(service, prepare_finetune(service, spec), accepted)
    return made[0]


@router.get(
    "",
    name="get_fine_tuning_jobs",
    summary="List fine-tuning jobs (OpenAI's shape)",
    responses=answers(JOBS),
)
def get_jobs(
    service: ServiceDep, metadata: MetadataFilter, limit: Limit = 20, after: After = None
) -> Listed[FineTuningJob]:
    """Lists fine-tunes, newest first, however they were submitted.

    Parameters `metadata[key]=value` leave only those that were submitted with these labels.
    """
    query = select(*ORDER).where(Job.project == service.project, Job.kind == JobKind.FINETUNE)
    for key, values in metadata.items():
        label = (JobLabel.project == Job.project, JobLabel.job_id == Job.id, JobLabel.key == key)
        query = query.where(exists().where(*label, JobLabel.value.in_(values)))
    if after is not None:
        with service.database.read() as session:
            last = session.get(Job, after)
        if last is None or last.project != service.project:
            raise no_such(after, "job")
        query = query.where(older(ORDER, last))
    newest = [column.desc() for column in ORDER]
    page = query.order_by(*newest).limit(limit + 1).cte("page")
    found = service.database.rows(select_page(ALL, page, *ORDER).order_by(*newest), {})
    data = [job_of(document(row, ALL), service.project) for row in found[:limit]]
    return Listed(data=data, has_more=len(found) > limit)


@router.get(
    "/{job_id}",
    name="get_fine_tuning_job",
    summary="Get a fine-tuning job (OpenAI's shape)",
    responses=answers(JOB, 404),
)
def get_job(job: FinetuneDep, service: ServiceDep) -> FineTuningJob:
    """Answers the state of a fine-tune; `GET /v1/finetunes/{id}` has more of it."""
    return _present(service, job)


def _present(service: Service, job: Job) -> FineTuningJob:
    found = read_job(service.database, service.project, job.id, ALL)
    if found is None:
        raise NotFound("the job was deleted meanwhile")
    return job_of(document(found.row, ALL), service.project)


@router.post(
    "/{job_id}/cancel",
    name="cancel_fine_tuning_job",
    summary="Cancel a fine-tuning job (OpenAI's shape)",
    responses=answers(JOB, 404),
)
def cancel(job: FinetuneDep, service: ServiceDep, principal: PrincipalDep) -> FineTuningJob:
    """Ends a fine-tune, as `POST /v1/jobs/{id}/cancel` does."""
    cancel_job(job, service, principal)
    return _present(service, job)


@router.post(
    "/{job_id}/pause",
    name="pause_fine_tuning_job",
    summary="Pause a fine-tuning job (OpenAI's shape)",
    responses=answers(JOB, 404, 409),
)
def pause(job: FinetuneDep, service: ServiceDep) -> FineTuningJob:
    """Sets a fine-tune aside, as `POST /v1/jobs/{id}/pause` does."""
    pause_job(job, service)
    return _present(service, job)


@router.post(
    "/{job_id}/resume",
    name="resume_fine_tuning_job",
    summary="Resume a fine-tuning job (OpenAI's shape)",
    responses=answers(JOB, 404, 409),
)
def resume(job: FinetuneDep, service: ServiceDep) -> FineTuningJob:
    """Queues a paused fine-tune again, as `POST /v1/jobs/{id}/resume` does."""
    resume_job(job, service)
    return _present(service, job)


@router.get(
    "/{job_id}/events",
    name="get_fine_tuning_events",
    summary="List a fine-tuning job's events (OpenAI's shape)",
    responses=answers(EVENTS, 404),
)
def get_events(
    job: FinetuneDep, service: ServiceDep, limit: Limit = 20, after: After = None
) -> Listed[FineTuningEvent]:
    """Lists what happened to a fine-tune, newest first."""
    query = select(JobEvent).where(JobEvent.job_id == job.id)
    if after is not None:
        last = EVENT.fullmatch(after)
        if last is None:
            raise no_such(after, "event")
        query = query.where(JobEvent.seq < int(last[1]))
    with service.database.read() as session:
        found = session.scalars(query.order_by(JobEvent.seq.desc()).limit(limit + 1)).all()
    return Listed(data=[event_of(row) for row in found[:limit]], has_more=len(found) > limit)


@router.get(
    "/{job_id}/checkpoints",
    name="get_fine_tuning_checkpoints",
    summary="List a fine-tuning job's checkpoints (OpenAI's shape)",
    responses=answers(CHECKPOINTS, 404),
)
def get_checkpoints(
    job: FinetuneDep, service: ServiceDep, limit: Limit = 10, after: After = None
) -> Listed[FineTuningCheckpoint]:
    """Lists the checkpoints of a fine-tune, newest first."""
    found = [checkpoint_of(row) for row in reversed(checkpoints_of(service.database, job.id))]
    if after is not None:
        places = [place for place, each in enumerate(found) if each.id == after]
        if not places:
            raise no_such(after, "checkpoint of this job")
        found = found[places[0] + 1 :]
    return Listed(data=found[:limit], has_more=len(found) > limit)
