"""What can be asked of a job of any kind while it exists: cancel it, pause it, let it go on."""

from __future__ import annotations

from fastapi import APIRouter

from app.api.deps import JobDep, ServiceDep
from app.api.examples.answers import JOB, answers
from app.api.http.idempotency import IdempotentRoute
from app.api.job_documents import job_views
from app.api.views import JobView
from app.errors import NotFound
from app.jobs import state_machine as machine
from app.service import Service
from app.tables import Job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=IdempotentRoute)


def _view(service: Service, job: Job | None) -> JobView:
    if job is None:
        raise NotFound("the job was deleted meanwhile")
    with service.database.read() as session:
        return job_views(session, [job])[0]


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=answers(JOB, 404))
def cancel_job(job: JobDep, service: ServiceDep) -> JobView:
    """Ends a job: one that waits at once, and a running one after its current step.

    Cancelling a comparison cancels all its children, and it ends with the last of them. A job that
    has ended already stays as it is.
    """
    return _view(service, machine.cancel(service.database, job.id))


@router.post("/{job_id}/pause", summary="Pause a job", responses=answers(JOB, 404, 409))
def pause_job(job: JobDep, service: ServiceDep) -> JobView:
    """Sets a job aside until it is resumed, without charging it an attempt.

    A queued job is `paused` at once. A running one saves its state after the current step and
    frees its device; until then it has `pause_requested`. A job without a saved state, such as a
    ranking, starts over when it is resumed. Pausing a comparison pauses all its children, and it is
    `paused` when none of them runs any more. A job that is paused already stays as it is.
    """
    return _view(service, machine.pause(service.database, job.id))


@router.post("/{job_id}/resume", summary="Resume a job", responses=answers(JOB, 404, 409))
def resume_job(job: JobDep, service: ServiceDep) -> JobView:
    """Queues a paused job again, in the place that it had in the queue.

    If a running job was asked to pause and has not stopped yet, the request is withdrawn. Resuming
    a comparison resumes all its children. Any other job that has not ended stays as it is.
    """
    resumed, queued = machine.resume(service.database, job.id)
    for waiting in queued:
        service.ring(waiting)
    return _view(service, resumed)
