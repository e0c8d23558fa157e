"""Requests for predictions, without a worker: what is refused, locked, shown and stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.db.tables import GivenRows
from tests.support.service.problems import Json, problem, says
from tests.support.service.stored import Place, place_in

PATH = "/v1/predictions"
ROW = {"sentence": "a good film"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """For tests that store nothing."""
    with place_in(tmp_path_factory.mktemp("place")) as place:
        yield place


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as place:
        yield place


def sent(place: Place, rows: Any = (ROW,), query: str = "", **more: Any) -> Any:
    body = {"checkpoint": place.kept.id, "rows": list(rows), **more}
    return place.api.post(f"{PATH}{query}", json=body)


def stored_rows(place: Place, job_id: str) -> Any:
    with place.service.database.read() as session:
        found = session.get(GivenRows, job_id)
    return None if found is None else found.rows


def test_only_what_the_model_reads_is_kept_and_shown_to_nobody(fresh: Place) -> None:
    answer = sent(fresh, [{**ROW, "label": "glad", "id": 7}], name="mine", top=2)
    assert answer.status_code == 202, answer.text
    job: Json = answer.json()
    assert job["kind"] == "prediction"
    assert job["links"]["self"] == f"{PATH}/{job['id']}" == answer.headers["location"]
    assert {name: job["spec"][name] for name in ("checkpoint", "top", "name")} == {
        "checkpoint": fresh.kept.id, "top": 2, "name": "mine",
    }  # fmt: skip
    assert "rows" not in job["spec"]
    assert "good film" not in answer.text
    assert stored_rows(fresh, job["id"]) == [ROW]
    assert job["resolved"]["model"]["id"] == "tiny"
    assert fresh.api.get(f"/v1/rankings/{job['id']}").status_code == 404


def test_a_dry_run_stores_nothing(place: Place) -> None:
    answer = sent(place, query="?validate_only=true")
    assert answer.status_code == 200, answer.text
    assert answer.json()["valid"] is True
    assert answer.json()["spec"] == {
        "name": None, "metadata": {}, "priority": 0, "deadline_seconds": None,
        "checkpoint": place.kept.id, "top": 5,
    }  # fmt: skip
    assert place.api.get(PATH).json()["data"] == []


@pytest.mark.parametrize(
    ("rows", "pointer", "words"),
    [
        ([ROW, {"text": "a"}], "/rows/1/sentence", "row 2, column sentence: is missing"),
        ([{"sentence": 3}], "/rows/0/sentence", "is of type int; a text is a string"),
        ([{"sentence": " \u200b"}], "/rows/0/sentence", "the text is empty"),
        ([], "/rows", "at least 1"),
        ([ROW] * 1001, "/rows", "at most 1000"),
        (["a good film"], "/rows/0", "dictionary"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_named(
    place: Place, rows: Any, pointer: str, words: str
) -> None:
    answer = sent(place, rows)
    assert answer.status_code == 422, answer.text
    says(answer.json(), pointer, words)
    assert place.api.get(PATH).json()["data"] == []


def test_every_wrong_row_is_listed(place: Place) -> None:
    answer = problem(sent(place, [{"sentence": ""}, ROW, {}]), 422, "rows_invalid")
    assert answer["detail"].startswith("2 rows cannot be read; first: row 1, column sentence")
    assert [fault["row"] for fault in answer["errors"]] == [1, 3]
    assert "the model reads the columns sentence" in answer["errors"][1]["detail"]


def test_a_checkpoint_that_is_not_there_is_named(place: Place) -> None:
    for other in ("ck_0000000000000000000000000z", "ft_1", 7):
        answer = problem(sent(place, checkpoint=other), 422, "invalid")
        assert answer["errors"][0]["pointer"] == "/checkpoint"
    says(problem(sent(place, tops=1), 422, "invalid"), "/tops", "top")


def test_a_changed_base_model_is_noticed(fresh: Place, tmp_path: Path) -> None:
    config = tmp_path / "mirror" / "models" / "tiny" / "config.json"
    config.write_text(config.read_text().replace("{", '{"attention_dropout": 0.3,', 1))
    says(problem(sent(fresh), 422, "invalid"), "/checkpoint", "tiny has changed")


def test_a_checkpoint_that_is_asked_is_not_deleted(fresh: Place) -> None:
    fresh.finish()
    job = sent(fresh).json()
    answer = problem(fresh.api.delete(fresh.path), 409, "conflict")
    assert answer["detail"].startswith(f"{job['id']} need checkpoint {fresh.kept.id}")
    fresh.api.post(f"/v1/jobs/{job['id']}/cancel")
    again = fresh.api.post(f"/v1/jobs/{job['id']}/retry")
    assert again.status_code == 202, again.text
    assert again.json()["retry_of"] == job["id"]
    assert stored_rows(fresh, again.json()["id"]) == [ROW]
    fresh.api.post(f"/v1/jobs/{again.json()['id']}/cancel")
    for each in (job["id"], again.json()["id"]):
        assert fresh.api.delete(f"/v1/jobs/{each}").status_code == 204
        assert stored_rows(fresh, each) is None
    assert fresh.api.delete(fresh.path).status_code == 204
