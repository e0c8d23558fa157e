"""Reads answers: JSON, models, and errors."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from surgeon.client.errors import ApiError

Json = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


def unexpected(code: object, detail: str) -> ApiError:
    """The error for an answer that no service of this kind gives."""
    return ApiError({"title": "Unexpected answer", "code": code, "detail": detail[:300]})


def checked(answer: httpx2.Response) -> httpx2.Response:
    """The answer itself. Raises ApiError if it is an error."""
    if answer.is_error:
        raise ApiError(document(answer), _retry_after(answer.headers.get("retry-after")))
    return answer


def document(answer: httpx2.Response) -> Json:
    """The JSON object of an answer. Raises ApiError if it is none."""
    try:
        body = answer.json() if answer.content else {}
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise unexpected(answer.status_code, answer.text)
    return body


def parsed(model: type[Model], body: Any) -> Model:
    """A part of an answer as its model. Raises ApiError if it is of another shape."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        detail = f"the service is of another version than this client: {error}"
        raise unexpected(model.__name__, detail) from error


def _retry_after(header: str | None) -> float | None:
    """The seconds that a `Retry-After` asks to wait, be it a number or a date."""
    if not header:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
