"""Answers a request whose method the path does not have, and one that asks which it has."""

from __future__ import annotations

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.api.http.problems import respond

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def allowed_methods(request: Request) -> list[str]:
    """Every method that some operation at the path of a request has."""
    routes = request.app.router.routes
    found = [
        method
        for method in METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes
        )
    ]
    return [*found, *(["HEAD"] if "GET" in found else []), "OPTIONS"]


def answer_other_method(request: Request, error: HTTPException) -> Response:
    """405, or 204 for OPTIONS; both say in ``Allow`` which methods the path has."""
    methods = allowed_methods(request)
    headers = {"Allow": ", ".join(methods)}
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=headers)
    detail = f"{request.method} is not possible here; this path takes {headers['Allow']}"
    return respond(request, error.status_code, "method_not_allowed", detail, headers=headers)
