"""What can go wrong when the client speaks to a service."""

from __future__ import annotations

from typing import Any

from surgery.errors import fault_line

Json = dict[str, Any]


class ApiError(Exception):
    """The service answered with an error. ``problem`` is its JSON; the text is for people.

    ``retry_after`` is how many seconds the service asks to wait, if it does.
    """

    def __init__(self, problem: Json, retry_after: float | None = None) -> None:
        self.problem = problem
        self.retry_after = retry_after
        lines = [
            f"{problem.get('title', 'Error')} ({problem.get('code')}): {problem.get('detail')}"
        ]
        lines += [fault_line(fault, problem.get("detail")) for fault in problem.get("errors", [])]
        super().__init__("\n".join(lines))


class Unreachable(Exception):
    """No service answers at the URL, or its answer broke off.

    ``refused`` is whether no connection was made at all.
    """

    def __init__(self, detail: str, *, refused: bool = False) -> None:
        super().__init__(detail)
        self.refused = refused


class InvalidRequest(Exception):
    """The arguments make no valid request: a malformed URL, malformed Unicode, or NaN."""


class DamagedDownload(Exception):
    """What was received has another SHA-256 than the service says."""


class JobUnfinished(Exception):
    """The job has no result yet; wait for it."""


class JobFailed(Exception):
    """The job failed or was cancelled. ``job`` is its JSON, with the problem in ``error``."""

    def __init__(self, job: Json) -> None:
        self.job = job
        error = job["error"] or {}
        why = f": {error['detail']} ({error['code']})" if error else ""
        super().__init__(f"{job['id']} {job['status']}{why}")
