"""API keys, from the first one to the last: made, used, expired and revoked, over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.access.keys import sha256_of
from app.db import Database, db_now
from app.db.tables import ApiKey, JobKind
from app.errors import Refused
from app.main import check_address, create_app
from app.settings import Settings
from tests.support.service.problems import problem, says
from tests.support.service.tenants import Tenants, insert_job, insert_key, tenants_on


@pytest.fixture
def tenants(database: Database, tmp_path: Path) -> Iterator[Tenants]:
    with tenants_on(database, tmp_path) as opened:
        yield opened


@pytest.fixture
def open_api(database: Database, tmp_path: Path) -> Iterator[TestClient]:
    """A service without any key."""
    settings = Settings(data_dir=tmp_path / "data", database_url=database.url)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as api:
        yield api


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def id_of(key: str) -> str:
    return f"key_{key.split('_')[1]}"


def test_the_first_key_closes_the_service_for_ever(
    open_api: TestClient, database: Database, tmp_path: Path
) -> None:
    job = insert_job(database, "pr_default", JobKind.RANKING)
    assert open_api.get(f"/v1/jobs/{job}").status_code == 200
    open_to_all = Settings(data_dir=tmp_path / "data", database_url=database.url)
    with pytest.raises(Refused, match="there is no API key"):
        check_address(open_to_all, "0.0.0.0")
    made = open_api.post("/v1/keys", json={"name": "first", "scopes": ["admin"]})
    assert made.status_code == 201
    assert made.headers["location"] == f"/v1/keys/{made.json()['id']}"
    assert made.headers["cache-control"] == "no-store"
    key = made.json()["key"]
    assert problem(open_api.get("/v1/jobs"), 401, "unauthorized")
    assert open_api.get(f"/v1/jobs/{job}", headers=bearer(key)).status_code == 200
    check_address(open_to_all, "0.0.0.0")
    gone = open_api.delete(f"/v1/keys/{made.json()['id']}", headers=bearer(key))
    assert gone.status_code == 204
    assert open_api.get("/v1/jobs").status_code == 401
    assert open_api.get("/v1/jobs", headers=bearer(key)).status_code == 401
    assert open_api.get("/healthz").status_code == 200
    check_address(open_to_all, "0.0.0.0")


def test_a_key_is_shown_once_and_stored_as_its_hash(
    tenants: Tenants, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    made = tenants.send("owner", "POST", "/v1/keys", json={"name": "ci", "expires_in_days": 90})
    body = made.json()
    key, secret = body["key"], body["key"].split("_", 2)[2]
    assert tenants.api.get("/v1/jobs", headers=bearer(key)).status_code == 200
    assert tenants.api.get("/v1/jobs", headers=bearer(key[:-1] + "-")).status_code == 401
    listed = tenants.get("owner", "/v1/keys").json()["data"]
    (row,) = [each for each in listed if each["id"] == body["id"]]
    assert "key" not in row
    assert (row["scopes"], row["status"], row["name"]) == (["submit"], "active", "ci")
    with tenants.database.read() as session:
        stored = session.get_one(ApiKey, body["id"])
    assert stored.sha256 == sha256_of(key)
    assert stored.expires_at is not None
    assert (stored.expires_at - stored.created_at).days == 90
    with tenants.database.engine.connect() as connection:
        for table in ApiKey.metadata.sorted_tables:
            assert secret not in str(connection.execute(table.select()).all()), table.name
    assert secret not in caplog.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_only_the_holder_learns_why_a_key_has_ended(tenants: Tenants) -> None:
    for who, said in (("expired", "expired at"), ("revoked", "was revoked at")):
        answer = tenants.get(who, "/v1/jobs")
        assert said in problem(answer, 401, "unauthorized")["detail"]
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        forged = tenants.keys[who][:-4] + "AAAA"
        answer = tenants.api.get("/v1/jobs", headers=bearer(forged))
        assert "is not known here" in problem(answer, 401, "unauthorized")["detail"]


def test_a_revoked_key_is_refused_at_once(tenants: Tenants) -> None:
    key = insert_key(tenants.database, tenants.owner, "read")
    assert tenants.api.get("/v1/jobs", headers=bearer(key)).status_code == 200
    path = f"/v1/keys/{id_of(key)}"
    assert tenants.send("other", "DELETE", path).status_code == 404
    assert tenants.api.get("/v1/jobs", headers=bearer(key)).status_code == 200
    assert tenants.send("owner", "DELETE", path).status_code == 204
    assert tenants.api.get("/v1/jobs", headers=bearer(key)).status_code == 401
    first = tenants.get("owner", "/v1/keys").json()["data"][0]
    assert tenants.send("owner", "DELETE", path).status_code == 204
    assert tenants.get("owner", "/v1/keys").json()["data"][0] == first
    assert (first["id"], first["status"]) == (id_of(key), "revoked")


def test_the_last_use_is_written(tenants: Tenants) -> None:
    assert tenants.get("reader", "/v1/jobs").status_code == 200
    tenants.api.app.state.keyring.close()  # type: ignore[attr-defined]
    with tenants.database.read() as session:
        used = session.get_one(ApiKey, id_of(tenants.keys["reader"])).last_used_at
        unused = session.get_one(ApiKey, id_of(tenants.keys["submitter"])).last_used_at
    assert used is not None
    assert unused is None


def test_a_forbidden_request_is_told_the_scope(tenants: Tenants) -> None:
    answer = tenants.send("reader", "POST", "/v1/rankings", json={})
    assert "scope 'submit'" in problem(answer, 403, "forbidden")["detail"]
    assert 'scope="submit"' in answer.headers["www-authenticate"]


def test_the_operator_makes_a_project_and_its_first_key(tenants: Tenants) -> None:
    project = tenants.send("operator", "POST", "/v1/projects", json={"name": "new"}).json()
    wanted = {"scopes": ["admin"], "project": project["id"]}
    made = tenants.send("operator", "POST", "/v1/keys", json=wanted)
    assert made.json()["project"] == project["id"]
    listed = tenants.api.get("/v1/projects", headers=bearer(made.json()["key"])).json()["data"]
    assert listed == [project]
    found = tenants.get("operator", f"/v1/keys?project={project['id']}").json()["data"]
    assert [each["id"] for each in found] == [made.json()["id"]]
    again = tenants.send("operator", "POST", "/v1/projects", json={"name": "new"})
    says(problem(again, 409, "conflict"), "/name", "already")
    foreign = tenants.send("owner", "POST", "/v1/keys", json=wanted)
    says(problem(foreign, 404, "not_found"), "/project", "no project")
    assert tenants.get("owner", f"/v1/keys?project={project['id']}").status_code == 404


def test_only_the_operator_changes_limits(tenants: Tenants) -> None:
    path = f"/v1/projects/{tenants.owner}"
    change = {"limits": {"queued_jobs": 3, "running_jobs": 2}}
    assert tenants.send("owner", "PATCH", path, json=change).status_code == 403
    changed = tenants.send("operator", "PATCH", path, json=change).json()
    assert changed["limits"] == change["limits"]
    changed = tenants.send("operator", "PATCH", path, json={"limits": {"queued_jobs": None}})
    assert changed.json()["limits"] == {"running_jobs": 2}
    assert changed.json()["name"] == "owner"


@pytest.mark.parametrize(
    ("path", "body", "pointer", "words"),
    [
        ("/v1/keys", {"scopes": ["root"]}, "/scopes/0", "admin"),
        ("/v1/keys", {"scopes": []}, "/scopes", "at least 1"),
        ("/v1/keys", {"expires_at": "2020-01-01T00:00:00Z"}, "/", "in the past"),
        ("/v1/keys", {"expire_at": None}, "/expire_at", "did you mean 'expires_at'?"),
        ("/v1/projects", {"name": " "}, "/name", "at least 1"),
        ("/v1/projects", {"name": "x", "limits": {"queued_job": 1}}, "/limits/queued_job", "queued_jobs"),
        ("/v1/projects", {"name": "x", "limits": {"stored_bytes": -1}}, "/limits/stored_bytes", "0"),
    ],
)  # fmt: skip
def test_wrong_requests_are_told_what_is_wrong(
    tenants: Tenants, path: str, body: Any, pointer: str, words: str
) -> None:
    says(problem(tenants.send("operator", "POST", path, json=body), 422, "invalid"), pointer, words)


def test_another_process_learns_of_a_revocation_within_a_second(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is set forward instead of waiting."""
    with tenants_on(database, tmp_path) as tenants:
        assert tenants.get("reader", "/v1/jobs").status_code == 200
        with database.write() as session:
            session.get_one(ApiKey, id_of(tenants.keys["reader"])).revoked_at = db_now()
        monkeypatch.setattr("app.access.keys.CACHE_SECONDS", 0.0)
        assert tenants.get("reader", "/v1/jobs").status_code == 401
