"""The operations that every kind of job has: submit a job, list the jobs and read one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import cleandoc
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from app.api.answers.job_documents import whole_job
from app.api.answers.views import COLLECTION
from app.api.deps import PLACE, JobDep, JobId, ServiceDep, require_json
from app.api.examples.answers import JOBS, answers, body_examples
from app.api.following.waiting import WAITS, WaitingRoute
from app.api.http.access.auditing import Change, ChangeDep
from app.api.http.idempotency import KeyDep, keep_answer
from app.api.http.reads import json_answer
from app.api.pages import Page
from app.api.routes.jobs.listing import JobFilterDep, NamesDep, answer_job, list_jobs
from app.db.tables import Job, JobKind
from app.errors import NotFound
from app.service import Service
from app.submissions.estimating.estimate import estimate, estimate_spec_of
from app.submissions.idempotency import HeldKey
from app.submissions.submit import Prepared, rehearse, submit
from surgery.schemas.answers.job import DryRun, JobView
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.ranking import JobRequest
from surgery.schemas.jobs.search import SearchSpec
from surgery.schemas.resolved import shown

Json = dict[str, Any]
POLL_AFTER_SECONDS = 1
LISTING = """Lists the {} that were submitted, newest first.

Parameters `metadata[key]=value` leave only those that were submitted with these labels."""

ValidateOnly = Annotated[
    bool,
    Query(description="Only check the request: create nothing, and answer what would be created."),
]


CHECKED = "With `validate_only`: what would be created."
AT_ONCE = {
    JobKind.RANKING: f"The same ranking, computed and stored earlier. {CHECKED}",
    JobKind.FINETUNE: CHECKED,
    JobKind.SEARCH: CHECKED,
    JobKind.PREDICTION: CHECKED,
    JobKind.EXPORT: CHECKED,
    JobKind.COMPARISON: CHECKED,
}


@dataclass(frozen=True)
class KindOfJob:
    """One kind of job, and what its operations and their descriptions need to know of it."""

    kind: JobKind
    name: str  # as a sentence has it, such as "fine-tune"
    spec: type[JobRequest]
    prepare: Callable[[Service, Any], Prepared]
    bodies: Json  # examples of a request by their names
    job: Json  # an example of the answer
    refusals: tuple[int, ...]  # statuses with which a submission can be refused
    summary: str
    description: str
    at_once: Any = DryRun  # the shape of an answer with status 200
    plural: str = ""  # if it is not the name with an s
    path: str = ""  # of submissions, if it is not the kind's collection; they are then answered by
    submission: Callable[..., Response] | None = None

    @property
    def several(self) -> str:
        """Several of this kind, as a sentence has them."""
        return self.plural or f"{self.name}s"

    def find(self, job: JobDep) -> Job:
        """The job of this kind that the path names. Raises NotFound."""
        self.check(job.id, job.kind)
        return job

    def check(self, job_id: str, kind: str) -> None:
        """Raises NotFound for a job of another kind."""
        if kind != self.kind:
            raise NotFound(f"{job_id} is not a {self.name}; GET /v1/jobs/{job_id} has it")

    def router(self) -> APIRouter:
        """The operations of this kind."""
        collection = f"/v1/{COLLECTION[self.kind]}"
        prefix, inside = ("", collection) if self.path else (collection, "")
        router = APIRouter(prefix=prefix, tags=[self.several], route_class=WaitingRoute)
        router.post(
            self.path,
            name=f"create_{self.kind}",
            summary=self.summary,
            description=cleandoc(self.description),
            status_code=202,
            response_model=JobView,
            responses=answers(self.job, *self.refusals, status=202)
            | {200: {"model": self.at_once, "description": AT_ONCE[self.kind]}},
            dependencies=[Depends(require_json), WAITS, PLACE],
        )(self.submission or _submission(self))
        router.get(
            inside,
            name=f"get_{COLLECTION[self.kind]}",
            summary=f"List {self.several}",
            description=LISTING.format(self.several),
            response_model=Page[JobView],
            responses=answers(JOBS),
        )(_listing(self.kind))
        router.get(
            f"{inside}/{{job_id}}",
            name=f"get_{self.kind}",
            summary=f"Get a {self.name}",
            description=f"Answers the state of a {self.name}, as `GET /v1/jobs/{{id}}` does.",
            response_model=JobView,
            responses=answers(self.job, 404),
            dependencies=[WAITS],
        )(_getting(self))
        return router


def _submission(of: KindOfJob) -> Callable[..., Response]:
    def create(
        service: ServiceDep,
        spec: Any,
        key: KeyDep,
        change: ChangeDep,
        validate_only: ValidateOnly = False,
    ) -> Response:
        prepared = of.prepare(service, spec)
        return answer_submission(service, prepared, spec, key, change, dry=validate_only)

    # FastAPI reads the type of the body from here, as it does not see the variables of a closure.
    create.__annotations__["spec"] = Annotated[of.spec, body_examples(of.bodies)]
    return create


def answer_submission(
    service: Service,
    prepared: Prepared,
    spec: JobRequest,
    key: HeldKey | None,
    change: Change,
    *,
    dry: bool,
) -> Response:
    """Submit a job, or say what would be submitted."""
    if dry:
        answer = _dry_run(service, prepared, spec)
        return JSONResponse(answer.model_dump(mode="json"))
    return submitted(service, prepared, key, change)


def _listing(kind: JobKind) -> Callable[..., Response]:
    def get_all(service: ServiceDep, filters: JobFilterDep) -> Response:
        return list_jobs(service, filters, [kind])

    return get_all


def _getting(of: KindOfJob) -> Callable[..., Response]:
    def get_one(job_id: JobId, service: ServiceDep, request: Request, names: NamesDep) -> Response:
        return answer_job(service, job_id, request, names, of.check)

    return get_one


def _dry_run(service: Service, prepared: Prepared, spec: JobRequest) -> DryRun:
    """The job that would be created and, for a fine-tune or a search, an estimate of its costs."""
    job = rehearse(service, prepared)
    answer = DryRun(
        cached=job.result_of is not None,
        waits_for=job.waits_for,
        resolved=shown(job.resolved),
        spec=spec.stored(),
        warnings=[] if job.result_of else job.warnings,
    )
    # Estimates of fine-tunes are for one process.
    if isinstance(spec, SearchSpec) or (isinstance(spec, FinetuneSpec) and spec.processes == 1):
        assert prepared.subject is not None, "it works on a dataset"
        answer.estimate = estimate(service, estimate_spec_of(spec), prepared.subject)
    return answer


def submitted(
    service: Service, prepared: Prepared, key: HeldKey | None, change: Change
) -> Response:
    """202 with the queued job, or 200 with a result that is stored already."""
    answers: list[Response] = []

    def accepted(session: Session, job: Job) -> None:
        answers.append(_answer(session, job))
        keep_answer(session, key, answers[0])
        change.record(session, job.id)

    submit(service, prepared, accepted)
    return answers[0]


def _answer(session: Session, job: Job) -> Response:
    document = whole_job(session, job.id)
    assert document is not None
    headers = {"Location": document["links"]["self"]}
    if not document["terminal"]:
        headers["Retry-After"] = str(POLL_AFTER_SECONDS)
    return json_answer(document, status=200 if document["cached"] else 202, headers=headers)
