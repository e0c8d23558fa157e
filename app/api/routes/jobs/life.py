"""What can be asked of a job of any kind while it exists: change, pause, cancel, retry, delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response

from app.api.answers.job_documents import ALL, document, read_job
from app.api.deps import JobDep, PrincipalDep, ServiceDep, require_merge_patch
from app.api.examples.answers import JOB, answers, body_examples, problems
from app.api.examples.bodies import CHANGES
from app.api.http.access.auditing import ChangeDep
from app.api.http.idempotency import IdempotentRoute, KeyDep
from app.api.http.preconditions import check_version
from app.api.http.reads import json_answer
from app.api.routes.jobs.comparisons import COMPARISONS
from app.api.routes.jobs.exports import EXPORTS
from app.api.routes.jobs.finetunes import FINETUNES
from app.api.routes.jobs.kinds import submitted
from app.api.routes.jobs.predictions import PREDICTIONS
from app.api.routes.jobs.rankings import RANKINGS
from app.api.routes.jobs.searches import SEARCHES
from app.db.tables import Job
from app.errors import Conflict, NotFound
from app.jobs import state_machine as machine
from app.jobs.actions import Action, allowed_actions, is_child, refusal
from app.jobs.changes import JobChanges, change_job
from app.jobs.deletion import delete_job
from app.jobs.outputs.exports import remove_folders
from app.jobs.outputs.records import rows_of
from app.service import Service
from surgery.schemas.answers.job import JobView

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=IdempotentRoute)
KINDS = {
    of.kind.value: of for of in (RANKINGS, FINETUNES, SEARCHES, PREDICTIONS, EXPORTS, COMPARISONS)
}
IfMatch = Annotated[
    str | None,
    Header(
        max_length=1000,
        description="The `ETag` of the job as you have read it: if the job has changed since, the "
        "request is refused with 412.",
    ),
]


def unchanged(if_match: IfMatch = None) -> Callable[[Job], None]:
    """A check of the locked row that raises ChangedMeanwhile where ``If-Match`` does not match."""
    return lambda job: check_version(if_match, job.version)


Unchanged = Annotated[Callable[[Job], None], Depends(unchanged)]


def _answer(service: Service, job: Job | None) -> Response:
    found = job and read_job(service.database, service.project, job.id, ALL)
    if not found:
        raise NotFound("the job was deleted meanwhile")
    return json_answer(document(found.row, ALL))


@router.patch(
    "/{job_id}",
    summary="Change a job",
    response_model=JobView,
    responses=answers(JOB, 404, 409, 412, 415),
    dependencies=[Depends(require_merge_patch)],
)
def change(
    job: JobDep,
    service: ServiceDep,
    changes: Annotated[JobChanges, body_examples(CHANGES)],
    check: Unchanged,
) -> Response:
    """Changes the name, the metadata or the priority of a job, and leaves out what is left out.

    The body is a JSON Merge Patch (RFC 7396). Name and metadata can be changed at any time, the
    priority until the job has ended. What a job computes cannot be changed: submit another one.
    """
    return _answer(service, change_job(service.database, job.id, changes, check))


@router.delete(
    "/{job_id}",
    summary="Delete a job",
    status_code=204,
    responses={**problems(404, 409, 412), 204: {"description": "The job is deleted."}},
)
def delete(job: JobDep, service: ServiceDep, check: Unchanged) -> Response:
    """Deletes a job that has ended: its result, events, metrics, checkpoints and files.

    With an export to a folder goes that folder, unless a later export has the same content there.

    With a comparison go all its children, and with a fine-tune the ranking or the search that it
    computed for itself, unless another job has chosen its layers by that too. A child of a
    comparison cannot be deleted alone. While a checkpoint of the job is pinned, or another job that
    has not ended needs one of its checkpoints, its ranking or its search, the answer is 409 and
    names them.
    """
    for folder in delete_job(service.database, job.id, check):
        service.storage.delete(folder)
    remove_folders(service.database, service.storage.delete)
    return Response(status_code=204)


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job",
    response_model=JobView,
    responses=answers(JOB, 404),
)
def cancel_job(job: JobDep, service: ServiceDep, principal: PrincipalDep) -> Response:
    """Ends a job: one that waits at once, and a running one after its current step.

    Cancelling a comparison cancels all its children, and it ends with the last of them. A job that
    has ended already stays as it is.
    """
    return _answer(service, machine.cancel(service.database, job.id, principal.key))


@router.post(
    "/{job_id}/pause",
    summary="Pause a job",
    response_model=JobView,
    responses=answers(JOB, 404, 409),
)
def pause_job(job: JobDep, service: ServiceDep) -> Response:
    """Sets a job aside until it is resumed, without charging it an attempt.

    A queued job is `paused` at once. A running one saves its state after the current step and
    frees its device; until then it has `pause_requested`. A job without a saved state, such as a
    ranking, starts over when it is resumed. Pausing a comparison pauses all its children, and it is
    `paused` when none of them runs any more. A job that is paused already stays as it is.
    """
    return _answer(service, machine.pause(service.database, job.id))


@router.post(
    "/{job_id}/resume",
    summary="Resume a job",
    response_model=JobView,
    responses=answers(JOB, 404, 409),
)
def resume_job(job: JobDep, service: ServiceDep) -> Response:
    """Queues a paused job again, in the place that it had in the queue.

    If a running job was asked to pause and has not stopped yet, the request is withdrawn. Resuming
    a comparison resumes all its children. Any other job that has not ended stays as it is.
    """
    resumed, queued = machine.resume(service.database, job.id)
    for waiting in queued:
        service.ring(waiting)
    return _answer(service, resumed)


@router.post(
    "/{job_id}/retry",
    summary="Retry a job",
    status_code=202,
    response_model=JobView,
    responses=answers(JOB, 404, 409, 413, 415, status=202)
    | {200: {"model": JobView, "description": "An equal ranking, computed and stored meanwhile."}},
)
def retry_job(job: JobDep, service: ServiceDep, key: KeyDep, change: ChangeDep) -> Response:
    """Submits the request of a failed or cancelled job again, as a new job.

    Its model and its dataset are looked up anew, so it fails where a submission would. It has the
    present name, metadata and priority of the old job, as many seconds to its deadline, and the old
    job's id as `retry_of`. A child of a comparison cannot be retried alone.
    """
    if Action.RETRY not in allowed_actions(job):
        raise Conflict(_no_retry(job))
    of = KINDS[job.kind]
    present = {"name": job.name, "metadata": job.labels, "priority": job.priority}
    given = {"rows": rows_of(service.database, job.id)} if of is PREDICTIONS else {}
    spec = of.spec.model_validate({**job.spec, **given, **present})
    prepared = of.prepare(service, spec)
    prepared.job.retry_of = job.id
    return submitted(service, prepared, key, change)


def _no_retry(job: Job) -> str:
    if not is_child(job):
        return refusal(job, Action.RETRY)
    return (
        f"{job.id} is a part of comparison {job.parent}; POST /v1/jobs/{job.parent}/retry repeats "
        "the comparison once it has failed or was cancelled"
    )
