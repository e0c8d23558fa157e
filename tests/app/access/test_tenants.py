"""What requests name in their bodies belongs to a project, too; and quotas, over HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.db import Database
from app.db.tables import Job, JobKind, Status
from tests.support.models.mirror import TINY
from tests.support.rows.invented import write_tasks
from tests.support.service.problems import ROWS, problem
from tests.support.service.tenants import (
    Tenants,
    insert_checkpoint,
    insert_job,
    tenants_on,
)

GOOD = {"model": TINY, "dataset": "glue/rte"}


@pytest.fixture(scope="module")
def mirrors(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    own = tmp_path_factory.mktemp("data")
    write_tasks(own)
    return os.pathsep.join((str(mirror), str(own)))


@pytest.fixture
def tenants(database: Database, tmp_path: Path, mirrors: str) -> Iterator[Tenants]:
    with tenants_on(database, tmp_path, mirror_dir=mirrors) as opened:
        yield opened


def without_ids(text: str, *ids: str) -> str:
    for each in ids:
        text = text.replace(each, "ID")
    return text


def test_a_reference_to_another_projects_object_is_as_good_as_none(tenants: Tenants) -> None:
    database, owner = tenants.database, tenants.owner
    tuned = insert_job(database, owner, JobKind.FINETUNE)
    selections = {"ranking": {"policy": "top_k", "k": 1}, "search": {"policy": "search"}}
    named = {
        "dataset": upload(tenants, "owner")["id"],
        "continue_from": insert_checkpoint(database, tuned),
        "ranking": insert_job(database, owner, JobKind.RANKING, Status.SUCCEEDED),
        "search": insert_job(database, owner, JobKind.SEARCH, Status.SUCCEEDED),
    }
    for field, identifier in named.items():
        said = []
        for name in (identifier, "xx_never-was".replace("xx", identifier.split("_")[0])):
            named_so = {field: name}
            if field in selections:
                named_so = {"selection": {**selections[field], field: name}}
            answer = tenants.send("other", "POST", "/v1/finetunes", json={**GOOD, **named_so})
            assert answer.status_code == 422, answer.text
            body = answer.json()
            said.append(without_ids(body["detail"] + str(body["errors"]), name))
        assert said[0] == said[1]


def test_a_checkpoint_of_another_project_does_not_predict(tenants: Tenants) -> None:
    tuned = insert_job(tenants.database, tenants.owner, JobKind.FINETUNE)
    said = []
    for name in (insert_checkpoint(tenants.database, tuned), "ck_never0was"):
        body = {"checkpoint": name, "rows": [{"text": "a"}]}
        answer = tenants.send("other", "POST", "/v1/predictions", json=body)
        assert answer.status_code == 422, answer.text
        problem = answer.json()
        said.append(without_ids(problem["detail"] + str(problem["errors"]), name))
    assert said[0] == said[1]


def upload(tenants: Tenants, who: str) -> Any:
    answer = tenants.send(who, "POST", "/v1/datasets", files={"train": ("t.csv", ROWS)})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_equal_content_is_no_bridge_between_projects(tenants: Tenants) -> None:
    first, second = upload(tenants, "owner"), upload(tenants, "other")
    assert first["id"] != second["id"]
    assert tenants.get("other", f"/v1/datasets/{first['id']}").status_code == 404
    job = tenants.send("owner", "POST", "/v1/rankings", json=GOOD).json()
    with tenants.database.write() as session:  # as if a worker had computed it
        row = session.get_one(Job, job["id"])
        row.status, row.result = Status.SUCCEEDED, {}
    assert tenants.send("owner", "POST", "/v1/rankings", json=GOOD).status_code == 200
    assert tenants.send("other", "POST", "/v1/rankings", json=GOOD).status_code == 202


def test_an_idempotency_key_belongs_to_a_project(tenants: Tenants) -> None:
    headers = {"Idempotency-Key": "same"}
    made = [
        tenants.send(who, "POST", "/v1/rankings", json=GOOD, headers=headers)
        for who in ("owner", "other", "submitter")
    ]
    assert [each.status_code for each in made] == [202] * 3
    ids = [each.json()["id"] for each in made]
    assert ids[0] == ids[2] != ids[1]
    changes = tenants.get("owner", "/v1/audit").json()["data"]
    assert [(each["action"], each["target"]) for each in changes] == [("create_ranking", ids[0])]


def test_a_key_is_not_given_out_twice(tenants: Tenants) -> None:
    headers = {"Idempotency-Key": "once"}
    first = tenants.send("owner", "POST", "/v1/keys", json={}, headers=headers)
    again = tenants.send("owner", "POST", "/v1/keys", json={}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 409)
    assert first.json()["key"] not in again.text


def test_a_full_queue_is_429(tenants: Tenants) -> None:
    change = {"limits": {"queued_jobs": 1}}
    tenants.send("operator", "PATCH", f"/v1/projects/{tenants.owner}", json=change)
    assert tenants.send("owner", "POST", "/v1/rankings", json=GOOD).status_code == 202
    other = {**GOOD, "seed": 7}
    refused = tenants.send("owner", "POST", "/v1/rankings", json=other)
    body = problem(refused, 429, "quota_exceeded")
    assert body["errors"][0] | {"detail": ""} == {
        "quota": "queued_jobs", "limit": 1, "used": 1, "detail": "",
    }  # fmt: skip
    assert "as jobs start or are cancelled" in body["detail"]
    assert refused.headers["retry-after"] == "30"
    assert tenants.send("other", "POST", "/v1/rankings", json=other).status_code == 202


def test_an_upload_beyond_the_quota_leaves_nothing(tenants: Tenants, tmp_path: Path) -> None:
    change = {"limits": {"stored_bytes": 100}}
    tenants.send("operator", "PATCH", f"/v1/projects/{tenants.owner}", json=change)
    answer = tenants.send("owner", "POST", "/v1/datasets", files={"train": ("t.csv", ROWS)})
    problem(answer, 429, "quota_exceeded")
    assert tenants.get("owner", "/v1/datasets").json()["data"] == []
    assert list((tmp_path / "data" / "artifacts" / "datasets").iterdir()) == []
