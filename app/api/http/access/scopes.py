"""The scope that each operation needs: the one place that says so."""

from __future__ import annotations

import re
from typing import Any

from app.access.principal import Scope
from app.api.http.problems import OPENAI

READ, SUBMIT, ADMIN = Scope.READ, Scope.SUBMIT, Scope.ADMIN
PREFIX = "/v1/"
PREFIXES = (PREFIX, OPENAI)
"""Every operation below these needs a key; the others, such as ``/healthz``, need none."""

RESOURCES: dict[str, tuple[Scope, Scope]] = {
    "models": (READ, SUBMIT),
    "tasks": (READ, SUBMIT),
    "datasets": (READ, SUBMIT),
    "rankings": (READ, SUBMIT),
    "finetunes": (READ, SUBMIT),
    "searches": (READ, SUBMIT),
    "predictions": (READ, SUBMIT),
    "exports": (READ, SUBMIT),
    "comparisons": (READ, SUBMIT),
    "jobs": (READ, SUBMIT),
    "checkpoints": (READ, SUBMIT),
    "estimates": (READ, READ),  # POST computes an answer and stores nothing
    "queue": (READ, SUBMIT),
    "workers": (READ, SUBMIT),
    "limits": (READ, ADMIN),
    "usage": (READ, ADMIN),
    "projects": (ADMIN, ADMIN),
    "keys": (ADMIN, ADMIN),
    "webhooks": (ADMIN, ADMIN),
    "audit": (ADMIN, ADMIN),
}
"""The first part of a path → the scopes that reading and changing it need."""

OPENAI_RESOURCES: dict[str, tuple[Scope, Scope]] = {
    "files": (READ, SUBMIT),
    "fine_tuning": (READ, SUBMIT),
}
"""The same of the paths in OpenAI's shapes."""

EXCEPTIONS = {
    re.compile(r"POST /v1/datasets/[^/]+/preview"): READ,  # shows rows and stores nothing
}
READING = frozenset({"GET", "HEAD", "OPTIONS"})


def scope_of(method: str, path: str) -> Scope | None:
    """The scope that a request needs, or None if there is no such resource.

    What is not in the table does not exist, so that no operation is ever open by oversight.
    """
    method = method.upper()
    for pattern, scope in EXCEPTIONS.items():
        if pattern.fullmatch(f"{method} {path}"):
            return scope
    prefix, resources = (
        (OPENAI, OPENAI_RESOURCES) if path.startswith(OPENAI) else (PREFIX, RESOURCES)
    )
    scopes = resources.get(path.removeprefix(prefix).partition("/")[0])
    return scopes and scopes[0 if method in READING else 1]


def add_scopes(document: dict[str, Any]) -> None:
    """Add the security scheme to the OpenAPI document, and to each operation its scope."""
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["HTTPBearer"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, such as `sk_…`. A service without any key needs none. The "
        "scope `admin` includes `submit`, which includes `read`.",
    }
    for path, operations in document["paths"].items():
        if not path.startswith(PREFIXES):
            continue
        for method, operation in operations.items():
            scope = scope_of(method, path)
            if scope is None:
                raise LookupError(f"{path} has no scope; name its resource in {__name__}.RESOURCES")
            operation["security"] = [{"HTTPBearer": [scope.value]}]
            operation["description"] += f"\n\nNeeds a key with the scope `{scope.value}`."
