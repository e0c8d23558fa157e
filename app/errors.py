"""Expected errors: those that HTTP requests are answered with, and those of starting a process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from surgery.schemas.answers.problem import JOB_ERRORS


class ServiceError(Exception):
    """An error that a request is answered with; its docstring is the default message."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retriable: ClassVar[bool] = False  # whether the same request may succeed later

    def __init__(self, detail: str | None = None, **extra: Any) -> None:
        self.detail = detail or (self.__doc__ or "").strip()
        self.errors = extra.pop("errors", [])
        self.headers: Mapping[str, str] = extra.pop("headers", {})
        super().__init__(self.detail)


class NotFound(ServiceError):
    """There is no such object."""

    status = 404
    code = "not_found"


class Conflict(ServiceError):
    """The state of the object does not allow this."""

    status = 409
    code = "conflict"


class ChangedMeanwhile(ServiceError):
    """The object has changed since it was read; read it again."""

    status = 412
    code = "changed"


class KeyInUse(ServiceError):
    """The first request with this Idempotency-Key is in progress; wait and send it again."""

    status = 409
    code = "idempotency_key_in_use"
    retriable = True


class KeyReused(ServiceError):
    """This Idempotency-Key belongs to another method, path, query or body; use a new key."""

    status = 422
    code = "idempotency_key_reused"


class KeyAnswered(ServiceError):
    """The first request with this Idempotency-Key succeeded; its answer is not given again."""

    status = 409
    code = "idempotency_key_answered"


class Unauthorized(ServiceError):
    """Send an API key: Authorization: Bearer sk_…"""

    status = 401
    code = "unauthorized"


class Forbidden(ServiceError):
    """Your key does not allow this."""

    status = 403
    code = "forbidden"


class CrossSite(ServiceError):
    """Without API keys, no web page of another site is answered; see SURGEON_CORS_ORIGINS."""

    status = 403
    code = "cross_site"


class WrongHost(ServiceError):
    """Without API keys, only requests to 127.0.0.1 or localhost are answered."""

    status = 400
    code = "wrong_host"


class RateLimited(ServiceError):
    """This key has sent too many requests; wait as long as Retry-After says."""

    status = 429
    code = "rate_limited"
    retriable = True


class QuotaExceeded(ServiceError):
    """The project has used up a quota."""

    status = 429
    code = "quota_exceeded"
    retriable = True


class TooLarge(ServiceError):
    """The body is too large."""

    status = 413
    code = "too_large"


class WrongMediaType(ServiceError):
    """The body must be application/json."""

    status = 415
    code = "unsupported_media_type"


class Unprocessable(ServiceError):
    """The request cannot be carried out."""

    status = 422
    code = "invalid"


class UploadDamaged(ServiceError):
    """What arrived of a file has another SHA-256 than its part's Content-Digest; send it again."""

    status = 422
    code = "upload_damaged"
    retriable = True


class NotRunnable(Unprocessable):
    """No worker can run this job."""

    code = "not_runnable"


def job_problem(error: Mapping[str, Any], instance: str, request_id: str | None) -> dict[str, Any]:
    """The stored error of a job as a whole problem document (RFC 9457).

    ``instance`` is the path of the job and ``request_id`` that of its submission.
    """
    code = str(error.get("code", "internal"))
    facts = JOB_ERRORS.get(code, JOB_ERRORS["internal"])
    problem = {
        "type": "about:blank",
        "title": facts.title,
        "status": facts.status,
        "detail": str(error.get("detail") or facts.title),
        "instance": instance,
        "code": code,
        "retriable": bool(error.get("retriable", False)),
        "request_id": request_id,
        "errors": list(error.get("errors") or []),
    }
    return problem | ({"log": error["log"]} if "log" in error else {})


class Refused(Exception):
    """The service refuses to start; the message says why and what to do."""


class Misconfigured(Exception):
    """An environment variable has an unusable value; the message names the variable."""


class NotMigrated(RuntimeError):
    """The database lacks migrations; run: surgeon db upgrade"""


class NewerDatabase(NotMigrated):
    """A newer version of Layer Surgeon has migrated the database; install that version here"""
