"""What can be asked of a job in its present state."""

from __future__ import annotations

from enum import StrEnum

from app.db.tables import Job, Status


class Action(StrEnum):
    """Something to ask of a job that changes its status or removes it."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    DELETE = "delete"


ALLOWED = {
    Status.QUEUED: (Action.PAUSE, Action.CANCEL),
    Status.RUNNING: (Action.PAUSE, Action.CANCEL),
    Status.PAUSED: (Action.RESUME, Action.CANCEL),
    Status.SUCCEEDED: (Action.DELETE,),
    Status.FAILED: (Action.RETRY, Action.DELETE),
    Status.CANCELLED: (Action.RETRY, Action.DELETE),
}
OF_COMPARISONS = {Action.RETRY, Action.DELETE}  # not of their children alone


def allowed_actions(job: Job) -> tuple[Action, ...]:
    """What a job can be asked now and has not been asked yet."""
    if job.cancel_requested and job.status == Status.RUNNING:
        return ()
    if job.pause_requested:
        return (Action.RESUME, Action.CANCEL)
    return tuple(
        action
        for action in ALLOWED[Status(job.status)]
        if not (is_child(job) and action in OF_COMPARISONS)
    )


def is_child(job: Job) -> bool:
    """Whether a job belongs to a comparison; the ranking of a fine-tune stands for itself."""
    return job.parent is not None and job.parent.startswith("cmp_")


def refusal(job: Job, action: Action) -> str:
    """Why a job cannot be asked this in its present state, and what it can be asked."""
    state = "is being cancelled" if job.cancel_requested else f"is {job.status}"
    if job.status in {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}:
        state = f"is over: it {'was cancelled' if job.status == Status.CANCELLED else job.status}"
    allowed = ", ".join(allowed_actions(job)) or "none; wait until it has ended"
    return f"{job.id} {state}, so {action} is not possible; possible now: {allowed}"
