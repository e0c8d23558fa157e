"""Requests for exports, without a worker: what is refused, locked and shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.submissions.fleet import WorkerFacts, register
from tests.support.service.problems import Json, problem, says
from tests.support.service.stored import Place, place_in

FOLDER = {"to": "folder", "target": "reader"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """For tests that store nothing."""
    with place_in(tmp_path_factory.mktemp("place")) as place:
        yield place


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as place:
        yield place


def sent(place: Place, query: str = "", **body: Any) -> Any:
    return place.api.post(f"{place.path}/exports{query}", json={**FOLDER, **body})


def test_an_export_is_a_job_of_its_own_kind(fresh: Place) -> None:
    answer = sent(fresh, name="mine", metadata={"team": "search"})
    assert answer.status_code == 202, answer.text
    job: Json = answer.json()
    assert job["kind"] == "export"
    assert job["links"]["self"] == f"/v1/exports/{job['id']}" == answer.headers["location"]
    assert {name: job["spec"][name] for name in ("checkpoint", "to", "target", "form")} == {
        "checkpoint": fresh.kept.id, "to": "folder", "target": "reader", "form": "full",
    }  # fmt: skip
    assert job["resolved"]["checkpoint"]["checkpoint"] == fresh.kept.id
    assert [each["id"] for each in fresh.api.get("/v1/exports").json()["data"]] == [job["id"]]
    assert fresh.api.get(f"/v1/exports/{job['id']}").json()["metadata"] == {"team": "search"}
    assert fresh.api.get(f"/v1/predictions/{job['id']}").status_code == 404


def test_a_dry_run_stores_nothing(place: Place) -> None:
    answer = sent(place, "?validate_only=true")
    assert answer.status_code == 200, answer.text
    assert answer.json()["spec"]["target"] == "reader"
    assert place.api.get("/v1/exports").json()["data"] == []


@pytest.mark.parametrize(
    "name",
    ["../else", "a/b", "/etc", "s3://bucket", "a..b", ".", "..", "", "a b", "a\0b", "x" * 97, "ä"],
)
def test_a_name_that_leads_elsewhere_is_refused(place: Place, name: str) -> None:
    says(problem(sent(place, target=name), 422, "invalid"), "/target")


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        ({"to": "moon"}, "/to", "folder"),
        ({"form": "adapter"}, "/form", "is stored in form delta"),
        ({"targets": "x"}, "/targets", "target"),
        ({"checkpoint": "ck_1"}, "/checkpoint", ""),
    ],
)
def test_what_is_wrong_is_named(place: Place, body: Json, pointer: str, words: str) -> None:
    says(problem(sent(place, **body), 422, "invalid"), pointer, words)


def test_a_checkpoint_that_is_not_there_is_404(place: Place) -> None:
    problem(place.api.post("/v1/checkpoints/ck_0never/exports", json=FOLDER), 404, "not_found")


def test_no_worker_that_could_do_it_is_said_at_once(fresh: Place) -> None:
    def worker(name: str, kinds: list[str], exports: list[str]) -> None:
        devices = [{"name": "cpu", "memory_bytes": 1 << 30}]
        facts = WorkerFacts(name, kinds, devices, ["fp32"], 2, "0.1.0", exports=exports)
        register(fresh.service.database, facts)

    worker("old:1", ["ranking", "export"], [])
    refused = problem(sent(fresh), 422, "not_runnable")
    says(refused, "/to", "no worker exports to folders")
    worker("new:1", ["ranking", "export"], ["folder"])
    assert sent(fresh).json()["warnings"] == []


def test_a_checkpoint_that_is_exported_is_not_deleted(fresh: Place) -> None:
    fresh.finish()
    job = sent(fresh).json()
    answer = problem(fresh.api.delete(fresh.path), 409, "conflict")
    assert answer["detail"].startswith(f"{job['id']} need checkpoint {fresh.kept.id}")
    fresh.api.post(f"/v1/jobs/{job['id']}/cancel")
    again = fresh.api.post(f"/v1/jobs/{job['id']}/retry")
    assert again.status_code == 202, again.text
    assert (again.json()["retry_of"], again.json()["spec"]) == (job["id"], job["spec"])
    fresh.api.post(f"/v1/jobs/{again.json()['id']}/cancel")
    assert fresh.api.delete(fresh.path).status_code == 204
