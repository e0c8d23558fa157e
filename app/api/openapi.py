"""Completes the OpenAPI document that FastAPI derives from the routes.

What operations have in common is said here once: errors are problems (RFC 9457), every answer
carries the id of its request, and what one operation answers can be given to others (links).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from app.api.http.access.scopes import PREFIXES, add_scopes
from app.api.http.problems import TITLES
from surgery.schemas.answers.problem import ProblemDetails
from surgery.schemas.data.dataset import DatasetReference

Json = dict[str, Any]
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
ALWAYS = (400, 414, 422, 431, 500, 503)
GUARDED = (401, 403, 429)  # of what needs a key where keys are configured
WITH_BODY = (413, 415)
REQUEST_ID = {
    "X-Request-ID": {
        "description": "The id of this request in the server's log: the caller's own, if it sent "
        "one.",
        "schema": {"type": "string"},
    }
}
# The path parameter that takes the `id` of an answered object, by the name of its schema.
TAKES_ID = {"JobView": "job_id", "DatasetView": "dataset_id", "CheckpointView": "checkpoint_id"}


def operation_id(route: APIRoute) -> str:
    """The id of an operation: the name of its route, from which clients make a function's name."""
    return route.name


def complete_openapi(app: FastAPI) -> None:
    """Make an application serve the completed document."""
    derive = app.openapi

    def document() -> Json:
        if app.openapi_schema is None:
            _complete(derive())
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _complete(document: Json) -> None:
    schemas = document["components"]["schemas"]
    template = "#/components/schemas/{model}"
    # The second is the JSON body of an operation that takes a form too.
    _, more = models_json_schema(
        [(ProblemDetails, "serialization"), (DatasetReference, "validation")],
        ref_template=template,
    )
    schemas.update({**more["$defs"], **schemas})
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; ours are problems
        schemas.pop(unused, None)
    add_scopes(document)
    takers = list(_takers(document))
    for path, _, operation in _operations(document):
        _add_errors(path, operation)
        for response in operation["responses"].values():
            response.setdefault("headers", {}).update(REQUEST_ID)
            _add_links(path, response, takers)


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def _add_errors(path: str, operation: Json) -> None:
    statuses = {*ALWAYS, *(GUARDED if path.startswith(PREFIXES) else ())}
    statuses |= set(WITH_BODY if "requestBody" in operation else ())
    responses = operation["responses"]
    for status in statuses:
        responses.setdefault(str(status), {"description": TITLES[status]})
    for status, response in responses.items():
        if int(status) >= 400:
            response["content"] = PROBLEM
    operation["responses"] = dict(sorted(responses.items()))


def _takers(document: Json) -> Iterator[tuple[str, str, str]]:
    """Each operation that needs one id in its path: its path, its id and the parameter's name."""
    for path, _, operation in _operations(document):
        given = [each for each in operation.get("parameters", []) if each["in"] == "path"]
        if len(given) == 1 and "requestBody" not in operation:
            yield path, operation["operationId"], given[0]["name"]


def _add_links(path: str, response: Json, takers: list[tuple[str, str, str]]) -> None:
    """Say which operations take the id of the object that this response has."""
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    parameter = TAKES_ID.get(schema.get("$ref", "").rpartition("/")[2])
    if parameter is None:
        return
    collection = "/".join(path.split("/")[:3])  # such as /v1/rankings
    response["links"] = {
        taker: {"operationId": taker, "parameters": {name: "$response.body#/id"}}
        for place, taker, name in takers
        if name == parameter and place.startswith((f"{collection}/", "/v1/jobs/", "/v1/datasets/"))
    }
