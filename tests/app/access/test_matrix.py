"""Every operation, asked by every sort of key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.access.principal import Scope
from app.api.http.access.scopes import scope_of
from app.db import Database
from app.db.tables import JobKind, Status
from tests.support.service.tenants import (
    Tenants,
    insert_checkpoint,
    insert_dataset,
    insert_job,
    insert_key,
    insert_webhook,
    tenants_on,
)

MISSING = 404
# What the owner is answered, and what a key of another project is. A request without a valid body
# that is answered 422 has passed every check of the key.
EXPECTED = {
    "GET /v1/models": (200, 200),
    "GET /v1/models/{model_id}": (404, 404),
    "GET /v1/tasks": (200, 200),
    "GET /v1/tasks/{name}": (404, 404),
    "POST /v1/datasets": (415, 415),
    "GET /v1/datasets": (200, 200),
    "GET /v1/datasets/{dataset_id}": (200, MISSING),
    "PATCH /v1/datasets/{dataset_id}": (200, MISSING),
    "POST /v1/datasets/{dataset_id}/preview": (422, MISSING),
    "DELETE /v1/datasets/{dataset_id}": (204, MISSING),
    "POST /v1/rankings": (422, 422),
    "GET /v1/rankings": (200, 200),
    "GET /v1/rankings/{job_id}": (200, MISSING),
    "GET /v1/rankings/{job_id}/selection": (409, MISSING),
    "POST /v1/finetunes": (422, 422),
    "GET /v1/finetunes": (200, 200),
    "GET /v1/finetunes/{job_id}": (200, MISSING),
    "POST /v1/searches": (422, 422),
    "GET /v1/searches": (200, 200),
    "GET /v1/searches/{job_id}": (200, MISSING),
    "GET /v1/searches/{job_id}/selection": (409, MISSING),
    "POST /v1/predictions": (422, 422),
    "GET /v1/predictions": (200, 200),
    "GET /v1/predictions/{job_id}": (200, MISSING),
    "POST /v1/checkpoints/{checkpoint_id}/exports": (422, MISSING),
    "GET /v1/exports": (200, 200),
    "GET /v1/exports/{job_id}": (200, MISSING),
    "POST /v1/comparisons": (422, 422),
    "GET /v1/comparisons": (200, 200),
    "GET /v1/comparisons/{job_id}": (200, MISSING),
    "POST /v1/estimates": (422, 422),
    "GET /v1/jobs": (200, 200),
    "GET /v1/jobs/{job_id}": (200, MISSING),
    "PATCH /v1/jobs/{job_id}": (200, MISSING),
    "DELETE /v1/jobs/{job_id}": (409, MISSING),
    "POST /v1/jobs/{job_id}/retry": (409, MISSING),
    "POST /v1/jobs/{job_id}/cancel": (200, MISSING),
    "POST /v1/jobs/{job_id}/pause": (200, MISSING),
    "POST /v1/jobs/{job_id}/resume": (200, MISSING),
    "GET /v1/jobs/{job_id}/events": (200, MISSING),
    "GET /v1/jobs/{job_id}/metrics": (200, MISSING),
    "GET /v1/jobs/{job_id}/attempts": (200, MISSING),
    "GET /v1/jobs/{job_id}/logs": (200, MISSING),
    "GET /v1/jobs/{job_id}/tensorboard": (404, MISSING),
    "GET /v1/jobs/{job_id}/checkpoints": (200, MISSING),
    "GET /v1/checkpoints/{checkpoint_id}": (200, MISSING),
    "DELETE /v1/checkpoints/{checkpoint_id}": (409, MISSING),
    "POST /v1/checkpoints/{checkpoint_id}/pin": (200, MISSING),
    "DELETE /v1/checkpoints/{checkpoint_id}/pin": (200, MISSING),
    "GET /v1/checkpoints/{checkpoint_id}/files/{name}": (404, MISSING),
    "GET /v1/checkpoints/{checkpoint_id}/archive": (422, MISSING),
    "POST /v1/webhooks": (422, 422),
    "GET /v1/webhooks": (200, 200),
    "GET /v1/webhooks/{webhook_id}": (200, MISSING),
    "PATCH /v1/webhooks/{webhook_id}": (200, MISSING),
    "DELETE /v1/webhooks/{webhook_id}": (204, MISSING),
    "POST /v1/webhooks/{webhook_id}/test": (202, MISSING),
    "POST /v1/webhooks/{webhook_id}/rotate": (200, MISSING),
    "GET /v1/webhooks/{webhook_id}/deliveries": (200, MISSING),
    "GET /v1/webhooks/{webhook_id}/deliveries/{delivery}": (200, MISSING),
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery}/replay": (202, MISSING),
    "POST /v1/projects": (403, 403),
    "GET /v1/projects": (200, 200),
    "GET /v1/projects/{project_id}": (200, MISSING),
    "PATCH /v1/projects/{project_id}": (403, MISSING),
    "GET /v1/workers": (200, 200),
    "GET /v1/queue": (200, 200),
    "GET /v1/limits": (200, 200),
    "GET /v1/usage": (200, 200),
    "GET /v1/audit": (200, 200),
    "POST /v1/keys": (201, 201),
    "GET /v1/keys": (200, 200),
    "DELETE /v1/keys/{key_id}": (204, MISSING),
    "POST /compat/openai/v1/files": (415, 415),
    "GET /compat/openai/v1/files": (200, 200),
    "GET /compat/openai/v1/files/{dataset_id}": (200, MISSING),
    "DELETE /compat/openai/v1/files/{dataset_id}": (200, MISSING),
    "POST /compat/openai/v1/fine_tuning/jobs": (422, 422),
    "GET /compat/openai/v1/fine_tuning/jobs": (200, 200),
    "GET /compat/openai/v1/fine_tuning/jobs/{job_id}": (200, MISSING),
    "POST /compat/openai/v1/fine_tuning/jobs/{job_id}/cancel": (200, MISSING),
    "POST /compat/openai/v1/fine_tuning/jobs/{job_id}/pause": (200, MISSING),
    "POST /compat/openai/v1/fine_tuning/jobs/{job_id}/resume": (200, MISSING),
    "GET /compat/openai/v1/fine_tuning/jobs/{job_id}/events": (200, MISSING),
    "GET /compat/openai/v1/fine_tuning/jobs/{job_id}/checkpoints": (200, MISSING),
}
# Of the whole service and not of one project; tests/app/process has who may call it.
OPERATORS = {"GET /metrics"}
PUBLIC = {"GET /healthz", "GET /readyz"}


@pytest.fixture
def tenants(database: Database, tmp_path: Path) -> Iterator[Tenants]:
    with tenants_on(database, tmp_path) as opened:
        yield opened


def documented(tenants: Tenants) -> set[str]:
    """Every operation of the OpenAPI document."""
    paths = tenants.api.get("/openapi.json").json()["paths"]
    return {f"{method.upper()} {path}" for path, of in paths.items() for method in of}


def requests(tenants: Tenants) -> Iterator[tuple[str, str, str]]:
    """Each operation with a path that names new objects of the owner."""
    database, owner = tenants.database, tenants.owner
    for operation in EXPECTED:
        method, path = operation.split()
        kind = {
            "finetunes": JobKind.FINETUNE,
            "searches": JobKind.SEARCH,
            "predictions": JobKind.PREDICTION,
            "exports": JobKind.EXPORT,
            "comparisons": JobKind.COMPARISON,
            "openai": JobKind.FINETUNE,
        }.get(path.split("/")[2], JobKind.RANKING)
        job = insert_job(database, owner, kind)
        ids = {"job_id": job, "model_id": "nobody/nothing", "name": "nothing"}
        if "{checkpoint_id}" in path:
            tuned = insert_job(database, owner, JobKind.FINETUNE)
            ids["checkpoint_id"] = insert_checkpoint(database, tuned)
        if "{dataset_id}" in path:
            ids["dataset_id"] = insert_dataset(database, owner)
        if "{webhook_id}" in path:
            ids["webhook_id"], ids["delivery"] = insert_webhook(database, owner)
        if "{key_id}" in path:
            ids["key_id"] = f"key_{insert_key(database, owner, 'read').split('_')[1]}"
        yield operation, method, path.format(project_id=owner, **ids)


def answered(tenants: Tenants, who: str) -> dict[str, int]:
    """What somebody is answered by each operation."""
    return {
        operation: tenants.send(who, method, path, **body(method, path)).status_code
        for operation, method, path in requests(tenants)
    }


def body(method: str, path: str) -> dict[str, Any]:
    """A body without any field, where one is needed."""
    return {"json": {}} if method in {"POST", "PATCH"} and path != "/v1/datasets" else {}


def test_the_table_has_every_operation(tenants: Tenants) -> None:
    assert documented(tenants) == EXPECTED.keys() | PUBLIC | OPERATORS


def test_every_operation_says_its_scope(tenants: Tenants) -> None:
    document = tenants.api.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if f"{method.upper()} {path}" in PUBLIC:
                assert "security" not in operation
                continue
            operators = f"{method.upper()} {path}" in OPERATORS
            scope = Scope.ADMIN if operators else scope_of(method, path)
            assert scope is not None, path
            assert operation["security"] == [{"HTTPBearer": [scope.value]}]
            assert f"scope `{scope.value}`" in operation["description"]


def test_owner_and_others(tenants: Tenants) -> None:
    assert answered(tenants, "owner") == {name: owner for name, (owner, _) in EXPECTED.items()}
    assert answered(tenants, "other") == {name: other for name, (_, other) in EXPECTED.items()}


@pytest.mark.parametrize("who", ["expired", "revoked", "unknown", "nobody"])
def test_no_valid_key(tenants: Tenants, who: str) -> None:
    assert answered(tenants, who) == dict.fromkeys(EXPECTED, 401)


@pytest.mark.parametrize(("who", "held"), [("reader", {"read"}), ("submitter", {"read", "submit"})])
def test_too_small_a_scope(tenants: Tenants, who: str, held: set[str]) -> None:
    expected = {
        name: owner if scope_of(*name.split()) in held else 403
        for name, (owner, _) in EXPECTED.items()
    }
    assert answered(tenants, who) == expected


def test_lists_have_nothing_of_another_project(tenants: Tenants) -> None:
    database, owner = tenants.database, tenants.owner
    ranking = insert_job(database, owner, JobKind.RANKING, Status.SUCCEEDED)
    insert_job(database, owner, JobKind.FINETUNE, parent=ranking)
    insert_job(database, owner, JobKind.SEARCH)
    insert_job(database, owner, JobKind.PREDICTION)
    insert_job(database, owner, JobKind.EXPORT)
    insert_job(database, owner, JobKind.COMPARISON)
    insert_dataset(database, owner)
    lists = ["jobs", "rankings", "finetunes", "searches", "predictions", "exports", "comparisons"]
    lists.append("datasets")
    lists.append(f"jobs?parent={ranking}")
    for path in lists:
        assert tenants.get("owner", f"/v1/{path}").json()["data"], path
        assert tenants.get("other", f"/v1/{path}").json()["data"] == [], path
    for path in ("keys", "projects"):
        for who, project in (("owner", owner), ("other", tenants.other)):
            rows = tenants.get(who, f"/v1/{path}").json()["data"]
            assert {row.get("project", row["id"]) for row in rows} == {project}
