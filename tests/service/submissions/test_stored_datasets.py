"""Datasets by reference and by name: stored once, renamed, listed and used by their id."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db import Database
from app.main import create_app
from app.settings import Settings
from surgery.io.sources import Sources
from tests.support.models.mirror import TINY
from tests.support.outside.hub import SHA, FakeHub, served
from tests.support.service.problems import ROWS, Json, problem, says

TRAIN = b"".join(b'{"text": "sentence %d", "label": %d}\n' % (n, n % 2) for n in range(20))
CHECK = b"".join(b'{"text": "another %d", "label": %d}\n' % (n, n % 2) for n in range(4))


def send(api: TestClient, text: str = ROWS, **fields: str) -> Any:
    return api.post("/v1/datasets", files={"train": ("t.csv", text)}, data=fields)


@pytest.fixture
def mirrored(settings: Settings) -> Json:
    """A reference to a dataset that the mirror has."""
    folder = settings.data_dir.parent / "mirror" / "datasets" / "me" / "own"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(TRAIN)
    (folder / "validation.jsonl").write_bytes(CHECK)
    return {"hub": "me/own", "name": "mine"}


@pytest.fixture
def settings(database: Database, few_mirrors: str, tmp_path: Any) -> Settings:
    mirrors = f"{few_mirrors}:{tmp_path / 'mirror'}"
    return Settings(
        data_dir=tmp_path / "data", database_url=database.url, mirror_dir=mirrors, offline=True
    )


def test_a_reference_is_checked_and_stored_as_a_dataset(either: TestClient, mirrored: Json) -> None:
    answer = either.post("/v1/datasets", json=mirrored)
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    assert answer.headers["location"] == f"/v1/datasets/{dataset['id']}"
    assert (dataset["name"], dataset["rows"]) == ("mine", {"train": 20, "validation": 4})
    assert dataset["reference"]["hub"] == "me/own"
    assert dataset["bytes"] > 0
    assert either.get(f"/v1/datasets/{dataset['id']}").json() == dataset
    job = either.post("/v1/rankings", json={"model": TINY, "dataset": dataset["id"]})
    assert job.json()["resolved"]["dataset"]["rows"] == {"train": 20, "validation": 4}
    again = either.post("/v1/datasets", json=mirrored)
    assert (again.status_code, again.json()["id"]) == (200, dataset["id"])


def test_a_reference_to_the_hub_is_pinned_to_its_commit(
    database: Database, few_mirrors: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served() as hub:
        hub.files = {"train.jsonl": TRAIN, "validation.jsonl": CHECK}
        sources = Sources((), tmp_path / "cache", endpoint=hub.address)
        monkeypatch.setattr(Settings, "sources", sources)
        given = Settings(data_dir=tmp_path / "data", database_url=database.url)
        with TestClient(create_app(given), base_url="http://127.0.0.1") as api:
            answer = api.post("/v1/datasets", json={"hub": "me/own"})
            assert answer.status_code == 201, answer.text
            assert answer.json()["reference"]["revision"] == SHA
            _is_refused_whole(api, hub)


def _is_refused_whole(api: TestClient, hub: FakeHub) -> None:
    hub.files["train.jsonl"] = TRAIN + b'{"text": "", "label": 1}\n'
    before = len(api.get("/v1/datasets").json()["data"])
    refused = problem(api.post("/v1/datasets", json={"hub": "me/own"}), 422, "dataset_invalid")
    assert refused["errors"][0]["row"] == 21
    assert len(api.get("/v1/datasets").json()["data"]) == before


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        ({"hub": "me/own", "nme": "x"}, "/nme", "did you mean 'name'?"),
        ({"hub": "../own"}, "/hub", "must be owner/name"),
        ({"name": "x"}, "/hub", "required"),
        ({"hub": "me/own", "columns": {"text": "txt", "label": "label"}}, "/columns/text", "txt"),
        ({"hub": "me/own", "name": ""}, "/name", "at least 1 character"),
    ],
)
def test_a_wrong_reference_is_refused_where_it_is_wrong(
    either: TestClient, mirrored: Json, body: Json, pointer: str, words: str
) -> None:
    answer = either.post("/v1/datasets", json=body)
    assert answer.status_code == 422, answer.text
    says(answer.json(), pointer, words)
    assert either.get("/v1/datasets").json()["data"] == []


def test_other_bodies_are_refused(either: TestClient) -> None:
    text = either.post("/v1/datasets", content="a", headers={"Content-Type": "text/csv"})
    problem(text, 415, "unsupported_media_type")
    says(problem(either.post("/v1/datasets", files={"spec": "{}"}), 422, "invalid"), "/spec", "")
    form = either.post("/v1/datasets", files={"validation": ("v.csv", ROWS)})
    says(problem(form, 422, "invalid"), "/train", "has no part train")
    empty = either.post("/v1/datasets", headers={"Content-Type": "application/json"})
    problem(empty, 400, "not_json")
    near = send(either, nam="x")
    says(problem(near, 422, "invalid"), "/nam", "did you mean 'name'?")


def test_equal_rows_keep_the_name_that_they_have(either: TestClient) -> None:
    unnamed = send(either).json()
    assert unnamed["name"] == unnamed["source"] == "t.csv"
    named = send(either, name="first")
    assert (named.status_code, named.json()["id"]) == (200, unnamed["id"])
    assert (named.json()["name"], named.json()["note"]) == ("first", None)
    other = send(either, name="second").json()
    assert other["name"] == "first"
    assert "stored before, as 'first'" in other["note"]
    assert f"PATCH /v1/datasets/{unnamed['id']}" in other["note"]
    assert len(either.get("/v1/datasets").json()["data"]) == 1


def test_lists_are_filtered_by_name(either: TestClient) -> None:
    ids = {
        name: send(either, ROWS + f"{name},1\n", name=name).json()["id"] for name in ("a", "b", "c")
    }
    for query, names in (("name=a", ["a"]), ("name=c&name=a", ["c", "a"]), ("name=x", [])):
        rows = either.get(f"/v1/datasets?{query}").json()["data"]
        assert [row["id"] for row in rows] == [ids[name] for name in names]


def change(api: TestClient, dataset: Json, body: Any, **headers: str) -> Any:
    return api.patch(f"/v1/datasets/{dataset['id']}", json=body, headers=headers)


def test_a_dataset_is_renamed(either: TestClient, database: Database) -> None:
    dataset = send(either, name="old").json()
    renamed = change(either, dataset, {"name": "new"})
    assert renamed.json() == {**dataset, "name": "new"}
    assert change(either, dataset, {}).json()["name"] == "new"
    assert change(either, dataset, {"name": None}).json()["name"] is None
    says(problem(change(either, dataset, {"nme": "x"}), 422, "invalid"), "/nme", "name")
    problem(change(either, {"id": "ds_none"}, {"name": "x"}), 404, "not_found")
    merge = {"Content-Type": "application/merge-patch+json"}
    path = f"/v1/datasets/{dataset['id']}"
    assert either.patch(path, content='{"name": "m"}', headers=merge).json()["name"] == "m"
    text = either.patch(path, content='{"name": "m"}', headers={"Content-Type": "text/plain"})
    problem(text, 415, "unsupported_media_type")
    assert either.get(path).json()["name"] == "m"


def test_a_change_of_what_has_changed_meanwhile_is_refused(either: TestClient) -> None:
    dataset = send(either, name="old").json()
    path = f"/v1/datasets/{dataset['id']}"
    tag = either.get(path).headers["etag"]
    unchanged = either.get(path, headers={"If-None-Match": tag})
    assert unchanged.status_code == 304
    renamed = change(either, dataset, {"name": "one"}, **{"If-Match": tag})
    assert renamed.status_code == 200, renamed.text
    assert renamed.headers["etag"] == either.get(path).headers["etag"] != tag
    problem(change(either, dataset, {"name": "two"}, **{"If-Match": tag}), 412, "changed")
    assert either.get(path).json()["name"] == "one"


def test_the_document_shows_both_bodies(either: TestClient) -> None:
    document = either.get("/openapi.json").json()
    content = document["paths"]["/v1/datasets"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert {"hub", "columns", "name"} <= set(document["components"]["schemas"][name]["properties"])
    assert json.dumps(document).count("#/$defs/") == 0
