"""Requests made to cost much or to break something: refused at once, with the field named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from app.db import Database
from app.main import create_app
from app.settings import Settings
from surgery.errors import ModelNotFound, misspelt
from surgery.io.sources import Sources
from surgery.models.source.resolve import resolve_model
from surgery.schemas import validation
from surgery.schemas.jobs import ranking
from tests.support.models.mirror import TINY
from tests.support.service.problems import Json, problem, says

GOOD: Json = {"model": TINY, "dataset": "glue/rte"}


@pytest.fixture(scope="module")
def postgres_api(
    mirrors: str, module_postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """The same API on Postgres."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("api"), mirror_dir=mirrors, offline=True,
        database_url=module_postgres,
    )  # fmt: skip
    database = Database(settings.resolved_database_url)
    database.upgrade()
    database.close()
    with TestClient(
        create_app(settings), raise_server_exceptions=False, base_url="http://127.0.0.1"
    ) as client:
        yield client


@pytest.fixture(params=["api", "postgres_api"])
def each_api(request: pytest.FixtureRequest) -> TestClient:
    """The API on either database."""
    client: TestClient = request.getfixturevalue(request.param)
    return client


def test_only_faults_that_are_shown_get_a_suggestion(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comparing 40,000 unknown keys with every known name took 20 s of CPU."""
    asked: list[int] = []

    def counted(word: str, known: list[str]) -> str | None:
        asked.append(len(known))
        return misspelt(word, known)

    monkeypatch.setattr(validation, "misspelt", counted)
    body = {**GOOD, **{f"samples{n}": 1 for n in range(40_000)}}
    answer = problem(api.post("/v1/rankings", json=body), 422, "invalid")
    assert len(answer["errors"]) == 100
    assert len(asked) <= 200, "beside the field and, if none is near, elsewhere"
    assert len(ranking.RankingSpec.model_fields) in asked
    says(answer, "/samples0", "did you mean 'samples'")


def test_a_suggestion_comes_from_the_object_that_was_misspelt(api: TestClient) -> None:
    body = problem(
        api.post("/v1/rankings", json={**GOOD, "head": {"learning_rat": 1}}), 422, "invalid"
    )
    (fault,) = (f for f in body["errors"] if f["pointer"] == "/head/learning_rat")
    assert fault["detail"] == "unknown field; leave it out"  # learning_rate is the training's
    body = problem(
        api.post("/v1/finetunes", json={**GOOD, "training": {"learning_rat": 1}}), 422, "invalid"
    )
    says(body, "/training/learning_rat", "did you mean 'training.learning_rate'")


def test_many_unknown_layers_are_named_up_to_a_hundred(api: TestClient) -> None:
    layers = [f"encoder.layer.{n}x" for n in range(20_000)]
    body = {**GOOD, "selection": {"policy": "layers", "layers": layers}}
    answer = api.post("/v1/finetunes", json=body)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) <= 100


@pytest.mark.parametrize("length", [96, 97, 128, 255, 256, 300, 301])
def test_a_model_id_of_any_length_is_just_not_there(api: TestClient, length: int) -> None:
    for name in ("m" * length, "o/" + "m" * (length - 2)):
        assert api.get(f"/v1/models/{name}").status_code in {404, 422}
        answer = api.post("/v1/rankings", json={**GOOD, "model": name})
        assert answer.status_code == 422, answer.text
        assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/model"]


@pytest.mark.parametrize("name", ["a--b", "a-", "a-/b", "o/a.git", "a" * 97, f"o/{'a' * 97}"])
def test_an_id_that_the_hub_itself_refuses_never_gets_there(name: str) -> None:
    with pytest.raises(HFValidationError):
        validate_repo_id(name)
    with pytest.raises(ModelNotFound, match="is not a model id"):
        resolve_model(name, Sources((), Path("unused")))


@pytest.mark.parametrize("length", [97, 200, 256, 400])
def test_so_is_a_dataset_of_any_length(api: TestClient, length: int) -> None:
    columns = {"text": "a", "label": "b"}
    for dataset in ("d" * length, {"hub": "o/" + "d" * (length - 2), "columns": columns}):
        answer = api.post("/v1/rankings", json={**GOOD, "dataset": dataset})
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["pointer"].startswith("/dataset")


NUL_BODIES: dict[str, tuple[Json, str]] = {
    "model": ({"model": "a\0b"}, "/model"),
    "dataset": ({"dataset": "a\0"}, "/dataset"),
    "name": ({"name": "\0"}, "/name"),
    "label": ({"metadata": {"team": "a\0"}}, "/metadata/team"),
    "label's name": ({"metadata": {"te\0am": "a"}}, "/metadata/te\\x00am"),
    "within a list": ({"selection": {"layers": ["a", "b\0"]}}, "/selection/layers/1"),
    "unknown field": ({"no\0": 1}, "/no\\x00"),
}


@pytest.mark.parametrize("case", NUL_BODIES)
@pytest.mark.parametrize(
    "collection", ["rankings", "finetunes", "searches", "comparisons", "estimates"]
)
def test_a_nul_in_a_body_is_refused_where_it_is(
    each_api: TestClient, collection: str, case: str
) -> None:
    change, pointer = NUL_BODIES[case]
    body = problem(each_api.post(f"/v1/{collection}", json={**GOOD, **change}), 422, "invalid")
    says(body, pointer, "NUL")
    assert not body["retriable"]


def test_an_escaped_backslash_is_no_nul(each_api: TestClient) -> None:
    answer = each_api.post("/v1/rankings", json={**GOOD, "name": "a\\u0000b"})
    assert answer.status_code == 202, answer.text
    each_api.post(f"/v1/jobs/{answer.json()['id']}/cancel")


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/v1/jobs?model=a%00b", "/model"),
        ("/v1/jobs?parent=%00", "/parent"),
        ("/v1/jobs?cursor=%00", "/cursor"),
        ("/v1/jobs?metadata[team]=%00", "/metadata[team]"),
        ("/v1/jobs?metadata[%00]=x", "/metadata[\\x00]"),
        ("/v1/jobs/a/metrics?name=%00", "/name"),
    ],
)
def test_a_nul_in_a_query_is_refused(each_api: TestClient, path: str, pointer: str) -> None:
    says(problem(each_api.get(path), 422, "invalid"), pointer, "NUL")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs/{}", "/v1/jobs/{}/events", "/v1/jobs/{}/checkpoints", "/v1/rankings/{}",
        "/v1/rankings/{}/selection", "/v1/datasets/{}", "/v1/models/{}", "/v1/models/o/{}",
        "/v1/tasks/{}", "/v1/checkpoints/{}", "/v1/checkpoints/{}/files/a",
        "/v1/checkpoints/{}/archive",
    ],
)  # fmt: skip
def test_an_id_that_cannot_exist_is_not_found(each_api: TestClient, path: str) -> None:
    for odd in (
        "%00",
        "a%00b",
        "x" * 65,
        "x" * 256,
        "x" * 5000,
        "%ff",
        "%F0%9F%92%A5",
        "..%2f",
        "'",
    ):
        told = problem(each_api.get(path.format(odd)), 404, "not_found")
        assert len(told["detail"]) < 400


@pytest.mark.parametrize("name", ['a"b', "a.b", "$", "'", "\\", "]", "é"])
def test_labels_of_any_name_can_be_asked_for(each_api: TestClient, name: str) -> None:
    metadata = {name: "yes"}
    job = each_api.post("/v1/rankings", json={**GOOD, "metadata": metadata}).json()
    listed = each_api.get("/v1/jobs", params={f"metadata[{name}]": "yes"})
    assert [each["id"] for each in listed.json()["data"]] == [job["id"]]
    assert each_api.get("/v1/jobs", params={f"metadata[{name}]": "no"}).json()["data"] == []


def test_more_labels_than_a_job_can_have_are_refused(each_api: TestClient) -> None:
    query = "&".join(f"metadata[{n}]=a" for n in range(500))
    body = problem(each_api.get(f"/v1/jobs?{query}"), 422, "invalid")
    says(body, "/metadata", "at most 16")


OPERATIONS = [
    ("GET", "/v1/jobs?state=queued", "state", "status"),
    ("GET", "/v1/rankings?limt=1", "limt", "limit"),
    ("GET", "/v1/finetunes?models=x", "models", "model"),
    ("GET", "/v1/comparisons?kind=x", "kind", "metadata[key]"),
    ("GET", "/v1/jobs/x/events?curser=1", "curser", "cursor"),
    ("GET", "/v1/tasks?x=1", "x", "none"),
    ("GET", "/healthz?x=1", "x", "none"),
    ("POST", "/v1/rankings?validate=true", "validate", "validate_only"),
    ("DELETE", "/v1/datasets/x?force=1", "force", "none"),
]


@pytest.mark.parametrize(("method", "path", "name", "word"), OPERATIONS)
def test_unknown_query_parameters_are_refused(
    api: TestClient, method: str, path: str, name: str, word: str
) -> None:
    body = problem(
        api.request(method, path, json=GOOD if method == "POST" else None), 422, "invalid"
    )
    says(body, f"/{name}", word)


def test_every_operation_refuses_them(api: TestClient) -> None:
    for path, methods in api.get("/openapi.json").json()["paths"].items():
        for method in methods:
            headers = {"content-type": "application/json"} if method == "post" else {}
            answer = api.request(method, f"{path}?surely_unknown=1", headers=headers)
            assert answer.status_code == 422, (method, path, answer.text)
            assert "/surely_unknown" in [f["pointer"] for f in answer.json()["errors"]]
