"""Turns every error into an answer of type application/problem+json (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from app.db import is_outage, is_too_much
from app.errors import ServiceError
from surgery.errors import MAX_FAULTS, SurgeryError, fault_line
from surgery.schemas.answers.problem import ProblemDetails
from surgery.schemas.validation import faults_of, validation_faults

log = logging.getLogger("surgeon.api")
OPENAI = "/compat/openai/v1/"
"""Below this, operations have OpenAI's shapes, and errors a member that its clients read."""


TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    412: "Precondition failed",
    413: "Too large",
    414: "URI too long",
    415: "Unsupported media type",
    416: "Range not satisfiable",
    422: "Invalid request",
    429: "Too many requests",
    431: "Header fields too large",
    500: "Internal error",
    503: "Unavailable",
}


# Codes of errors that a framework raises itself.
HTTP_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def respond(
    request: Request,
    status: int,
    code: str,
    detail: str,
    *,
    errors: list[dict[str, Any]] | None = None,
    retriable: bool = False,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer to a request that failed."""
    problem = ProblemDetails(
        title=TITLES.get(status) or HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        instance=request.url.path,
        retriable=retriable,
        errors=(errors or [])[:MAX_FAULTS],
        request_id=getattr(request.state, "request_id", None),
    )
    body = problem.model_dump()
    body["errors"] = [fault.model_dump(exclude_unset=True) for fault in problem.errors]
    if request.url.path.startswith(OPENAI):
        body["error"] = _in_openai_shape(body)
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


def _in_openai_shape(problem: dict[str, Any]) -> dict[str, Any]:
    """The member of a problem that clients of OpenAI's API read."""
    faults, detail = problem["errors"], problem["detail"]
    lines = [detail, *(fault_line(fault, detail) for fault in faults)]
    first = next((fault["pointer"] for fault in faults if fault.get("pointer")), None)
    return {
        "message": "\n".join(lines),
        "type": "invalid_request_error" if problem["status"] < 500 else "server_error",
        "code": problem["code"],
        "param": first and first.strip("/").replace("/", "."),
    }


def _service(request: Request, error: ServiceError) -> JSONResponse:
    return respond(
        request,
        error.status,
        error.code,
        error.detail,
        errors=error.errors,
        retriable=error.retriable,
        headers=error.headers,
    )


def _surgery(request: Request, error: SurgeryError) -> JSONResponse:
    faults = [fault.as_dict() for fault in error.faults]
    if error.code == "upstream_unavailable":
        return _unavailable(request, error.code, error.detail, faults, retry_after="10")
    return respond(request, 422, error.code, error.detail, errors=faults)


def _unavailable(
    request: Request, code: str, detail: str, faults: list[dict[str, Any]], retry_after: str
) -> JSONResponse:
    headers = {"Retry-After": retry_after}  # in seconds
    return respond(request, 503, code, detail, errors=faults, retriable=True, headers=headers)


def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    found = error.errors()
    if any(fault["type"] == "json_invalid" for fault in found):
        return respond(request, 400, "not_json", "the body is not JSON")
    if any(fault["type"] == "missing" and tuple(fault["loc"]) == ("body",) for fault in found):
        return respond(request, 400, "not_json", "the body is empty; send a JSON object")
    wrong_ids = [fault for fault in found if fault["loc"][:1] == ("path",)]
    if wrong_ids:  # an id or name that cannot exist, such as one that is too long
        detail = f"nothing has this path: {wrong_ids[0]['loc'][-1]}: {wrong_ids[0]['msg']}"
        return respond(request, 404, "not_found", detail)
    where = [(f["loc"][0] if f["loc"] else "body", f) for f in found]
    body = getattr(request.scope.get("route"), "body_field", None)
    kind = body.field_info.annotation if body else None
    faults = validation_faults(
        [{**f, "loc": f["loc"][1:]} for _, f in where],
        schema=kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None,
    )
    parts = {str(part) for part, _ in where}
    detail = "the request body has errors" if parts == {"body"} else "the request has errors"
    return respond(request, 422, "invalid", detail, errors=faults)


def _shape(request: Request, error: ValidationError) -> JSONResponse:
    faults = faults_of(error)
    return respond(request, 422, "invalid", "the request has errors", errors=faults)


def _http(request: Request, error: HTTPException) -> JSONResponse:
    status = error.status_code
    code = getattr(error, "code", None) or HTTP_CODES.get(status, "http_error")
    return respond(
        request,
        status,
        code,
        _explained(error),
        errors=getattr(error, "errors", None),
        headers=error.headers,
    )


def _explained(error: HTTPException) -> str:
    """The detail of an error that a framework raised, with the reason that it left out."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, FormParserError):
        inner = inner.__cause__ or inner.__context__
    if inner is not None:
        return f"the multipart body is malformed: {inner}"
    if error.status_code == 404:  # a route's own errors are of another class
        return "there is no such path; /openapi.json lists them"
    return str(error.detail)


def _database(request: Request, error: DBAPIError) -> JSONResponse:
    if is_outage(error):
        log.error("database unavailable: %s", error.orig)
        detail = "the database does not answer; try again"
        return _unavailable(request, "database_unavailable", detail, [], retry_after="5")
    if is_too_much(error):
        return _unstorable(request, error)
    return internal_error(request, error)


def _busy(request: Request, error: PoolTimeout) -> JSONResponse:
    log.error("no connection to the database is free: %s", error)
    detail = "too many requests use the database at this moment; try again"
    return _unavailable(request, "database_unavailable", detail, [], retry_after="5")


def _unstorable(request: Request, error: DBAPIError) -> JSONResponse:
    log.warning("the database cannot store a value: %s", error.orig)
    detail = (
        "the database cannot store a value of the request: it is too long, nested too deeply or "
        "out of range"
    )
    return respond(request, 422, "invalid", detail)


def internal_error(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request on which the service itself failed."""
    log.error("unexpected error", exc_info=error)
    detail = "an unexpected error; the server's log has it under this request_id"
    return respond(request, 500, "internal", detail)


HANDLERS: dict[type[Exception], Callable[[Request, Any], JSONResponse]] = {
    ServiceError: _service,
    SurgeryError: _surgery,
    RequestValidationError: _invalid,
    ValidationError: _shape,
    HTTPException: _http,
    DBAPIError: _database,
    DataError: _unstorable,
    PoolTimeout: _busy,
}


def answer_error(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that failed with an error."""
    kind = next(kind for kind in type(error).__mro__ if kind in HANDLERS)
    return HANDLERS[kind](request, error)


def install_handlers(app: FastAPI) -> None:
    """Make an application answer every error as a problem."""
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
