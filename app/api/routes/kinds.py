"""What the jobs of each kind have in common over HTTP: how they are submitted, listed and found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import cleandoc
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import JSONResponse

from app.api.deps import JobDep, ServiceDep, require_json
from app.api.example_answers import JOBS, answers, body_examples
from app.api.pages import Page
from app.api.routes.jobs import ListingDep, get_job, list_jobs
from app.api.views import COLLECTION, JobView, job_views
from app.errors import NotFound
from app.service import Service
from app.submissions.estimates import estimate, question_of
from app.submissions.submit import Prepared, submit
from app.tables import Job, Kind
from surgery.schemas.finetune import FinetuneSpec
from surgery.schemas.ranking import Submission
from surgery.schemas.resolved import shown

Json = dict[str, Any]
POLL_AFTER_SECONDS = 1

ValidateOnly = Annotated[
    bool, Query(description="Do every check, create nothing, answer what would be created.")
]
IdempotencyKey = Annotated[
    str | None,
    Header(max_length=255, description="The same key and body give the same job for a day."),
]


@dataclass(frozen=True)
class KindOfJob:
    """One kind of job, as its routes and their descriptions have it."""

    kind: Kind
    name: str  # in a sentence: "no fine-tune"
    spec: type[Submission]
    prepare: Callable[[Service, Any], Prepared]
    bodies: Json  # examples of a submission by their names
    job: Json  # an example of the answer
    refusals: tuple[int, ...]  # statuses of the problems that a submission can be answered with
    summary: str
    description: str

    def find(self, job: JobDep) -> Job:
        """A job of this kind."""
        if job.kind != self.kind:
            raise NotFound(f"{job.id} is no {self.name}; GET /v1/jobs/{job.id} has it")
        return job

    def router(self, more_answers: dict[int | str, Json] | None = None) -> APIRouter:
        """Its routes to submit a job, list all and get one; ``more_answers`` a submission has."""
        router = APIRouter(prefix=f"/v1/{COLLECTION[self.kind]}", tags=[f"{self.name}s"])
        router.post(
            "",
            name=f"create_{self.kind}",
            summary=self.summary,
            description=cleandoc(self.description),
            status_code=202,
            response_model=JobView,
            responses=answers(self.job, *self.refusals, status=202) | (more_answers or {}),
            dependencies=[Depends(require_json)],
        )(_submission(self))
        router.get(
            "", name=f"get_{self.kind}s", summary=f"List {self.name}s", responses=answers(JOBS)
        )(_listing(self.kind))
        router.get(
            "/{job_id}",
            name=f"get_{self.kind}",
            summary=f"Get a {self.name}",
            responses=answers(self.job, 404),
        )(_getting(self))
        return router


def _submission(of: KindOfJob) -> Callable[..., Response]:
    def create(
        service: ServiceDep,
        spec: Any,
        validate_only: ValidateOnly = False,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        prepared = of.prepare(service, spec)
        if validate_only:
            return _dry_run(service, prepared, spec)
        return _submitted(service, prepared, spec, idempotency_key)

    # FastAPI reads the body's type here; a closure's own variables it could not see.
    create.__annotations__["spec"] = Annotated[of.spec, body_examples(of.bodies)]
    return create


def _listing(kind: Kind) -> Callable[..., Page[JobView]]:
    def get_all(service: ServiceDep, asked: ListingDep) -> Page[JobView]:
        """Newest first."""
        return list_jobs(service, asked, kind)

    return get_all


def _getting(of: KindOfJob) -> Callable[..., JobView]:
    def get_one(job: Any, service: ServiceDep) -> JobView:
        """The same object as `GET /v1/jobs/{id}`."""
        return get_job(job, service)

    get_one.__annotations__["job"] = Annotated[Job, Depends(of.find)]
    return get_one


def _dry_run(service: Service, prepared: Prepared, spec: Submission) -> JSONResponse:
    """200 with what would be created, and for a fine-tune with what it would take."""
    body: Json = {
        "valid": True,
        "cached": prepared.cached,
        "resolved": shown(prepared.job.resolved),
    }
    if isinstance(spec, FinetuneSpec) and spec.processes == 1:  # nobody has measured several
        answer = estimate(service, question_of(spec), prepared.subject)
        body["estimate"] = answer.model_dump(mode="json")
    return JSONResponse({**body, "spec": spec.model_dump(mode="json")})


def _submitted(
    service: Service, prepared: Prepared, spec: Submission, key: str | None
) -> JSONResponse:
    """202 with the queued job, or 200 with a stored result."""
    job, replayed = prepared.job, False
    if not prepared.cached:
        job, replayed = submit(service, prepared, key, spec.model_dump(mode="json"))
    with service.database.read() as session:
        view = job_views(session, [job], cached=prepared.cached)[0]
    headers = {"Location": view.links["self"]}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    status = 200 if prepared.cached else 202
    if not view.terminal:
        headers["Retry-After"] = str(POLL_AFTER_SECONDS)
    return JSONResponse(view.model_dump(mode="json"), status, headers=headers)
