"""What the service can refuse or fail with: errors of HTTP requests, and of starting a process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class ServiceError(Exception):
    """An expected failure with its answer."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, detail: str | None = None, **extra: Any) -> None:
        self.detail = detail or (self.__doc__ or "").strip()
        self.errors = extra.pop("errors", [])
        self.headers: Mapping[str, str] = extra.pop("headers", {})
        super().__init__(self.detail)


class NotFound(ServiceError):
    """No such object."""

    status = 404
    code = "not_found"


class Conflict(ServiceError):
    """The object's state does not allow this."""

    status = 409
    code = "conflict"


class Unauthorized(ServiceError):
    """Send an API key: Authorization: Bearer sk_…"""

    status = 401
    code = "unauthorized"


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


class Refused(Exception):
    """The service will not start like this; the message says why and what to do."""


class Misconfigured(Exception):
    """A variable of the environment cannot be what it is set to; the message names it."""


class NotMigrated(RuntimeError):
    """The database lacks migrations; run: surgeon db upgrade"""
