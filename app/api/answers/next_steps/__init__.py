"""What to do after a job: the requests that use it or settle what it leaves open, with its own ids.

They are made when a job is answered, and nothing of them is stored. A finished ranking names what
would tell whether its order is about the task, a search what would make its choice certain, a
fine-tune or a comparison the download of what it is worth or what would tell more, and a job that
failed or was cancelled its retry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from app.api.answers.next_steps.layers import after_ranking, after_search
from app.api.answers.next_steps.requests import Json, step
from app.api.answers.next_steps.training import after_comparison, after_finetune
from app.db.tables import JobKind, Status
from app.jobs.actions import Action, allowed_actions

_AFTER: Mapping[str, Callable[[Any], Iterator[Json]]] = {
    JobKind.RANKING: after_ranking,
    JobKind.SEARCH: after_search,
    JobKind.FINETUNE: after_finetune,
    JobKind.COMPARISON: after_comparison,
}


def next_steps(row: Any) -> list[Json]:
    """What to do after a job, best first; empty while it has not ended."""
    if row.status in {Status.FAILED, Status.CANCELLED}:
        return list(_retry(row))
    after = _AFTER.get(row.kind)
    if row.status != Status.SUCCEEDED or after is None or "model" not in row.spec:
        return []
    return list(after(row))


def _retry(row: Any) -> Iterator[Json]:
    if Action.RETRY not in allowed_actions(row):
        return
    why = "the same request may succeed when it is sent again"
    if row.status == Status.CANCELLED:
        why = "the same request, sent again"
    elif not (row.error or {}).get("retriable"):
        why = "the same request again, once what the error names is mended; it would fail as it is"
    yield step(why, f"/v1/jobs/{row.id}/retry")
