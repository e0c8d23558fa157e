"""The state machine of jobs: every change of a job's status, and the leases that allow it.

A worker may write for a job only while it holds the job's lease. Whoever ends a job locks its
comparison's row first and the job's row after it, so that no two transactions wait for each other.

Every lock of a job's row is one that the foreign keys of others may pass (``key_share``). When a
transaction writes a child for the second time, Postgres checks its foreign key and locks the
comparison's row so weakly: a claim would otherwise wait there for whoever waits for the child.
"""

from app.jobs.state_machine.changes import close
from app.jobs.state_machine.children import advance_comparisons, end
from app.jobs.state_machine.ends import (
    crash,
    end_cancelled,
    end_overdue,
    fail,
    fail_overdue,
    finish,
    give_back,
    reap,
    release,
)
from app.jobs.state_machine.history import record_event
from app.jobs.state_machine.leases import (
    Fenced,
    Lease,
    Renewal,
    claim,
    locked_for_request,
    locked_job,
    locked_with_comparison,
    renew,
)
from app.jobs.state_machine.queueing import (
    enqueue,
    enqueue_comparison,
    enqueue_with_ranking,
    store_finished,
)
from app.jobs.state_machine.requests import cancel, pause, resume
from app.jobs.state_machine.sharing import settle_waiting, share_ranking

__all__ = [
    "Fenced",
    "Lease",
    "Renewal",
    "advance_comparisons",
    "cancel",
    "claim",
    "close",
    "crash",
    "end",
    "end_cancelled",
    "end_overdue",
    "enqueue",
    "enqueue_comparison",
    "enqueue_with_ranking",
    "fail",
    "fail_overdue",
    "finish",
    "give_back",
    "locked_for_request",
    "locked_job",
    "locked_with_comparison",
    "pause",
    "reap",
    "record_event",
    "release",
    "renew",
    "resume",
    "settle_waiting",
    "share_ranking",
    "store_finished",
]
