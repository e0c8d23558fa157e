"""Builds requests: their options, their idempotency keys and the JSON of their arguments."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
from pydantic import BaseModel

from surgeon.client.errors import InvalidRequest

TIMEOUT = httpx2.Timeout(30.0, write=300.0, read=300.0)
IDEMPOTENCY_KEY = "Idempotency-Key"


@contextlib.contextmanager
def sendable(what: str) -> Iterator[None]:
    """Turn the errors of what cannot be sent into InvalidRequest."""
    try:
        yield
    except (ValueError, httpx2.InvalidURL) as error:
        raise InvalidRequest(f"{what} cannot be sent: {error}") from error


@dataclass(frozen=True)
class Request:
    """A request, which may be sent several times. ``options`` are those of httpx's requests."""

    method: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def with_key(self) -> Request:
        """The same; one that creates something gets a key, under which it is carried out once."""
        headers = dict(self.options.get("headers") or {})
        if self.method != "POST" or IDEMPOTENCY_KEY in headers:
            return self
        headers[IDEMPOTENCY_KEY] = str(uuid.uuid4())
        return replace(self, options={**self.options, "headers": headers})

    def built(self, http: httpx2.Client | httpx2.AsyncClient) -> httpx2.Request:
        """The request of a connection. Raises InvalidRequest."""
        with sendable("the request"):
            return http.build_request(self.method, self.path, **self.options)


def connection_options(url: str, key: str | None) -> dict[str, Any]:
    """The options of a connection to a service, of either kind."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": url, "headers": headers, "timeout": TIMEOUT}


def json_of(value: Any) -> Any:
    """A value as JSON carries it: models by what was set in them, jobs and datasets by their id."""
    if isinstance(value, BaseModel) and "id" in type(value).model_fields:
        return getattr(value, "id")  # noqa: B009  # mypy knows no id of a BaseModel
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return {str(name): json_of(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_of(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    return getattr(value, "id", value)
