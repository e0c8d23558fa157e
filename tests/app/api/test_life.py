"""Change, pause, cancel, retry and delete jobs over HTTP, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.db import Database
from app.db.tables import Attempt, Checkpoint, Job, JobEvent, JobKind, Metric
from app.jobs import state_machine
from app.jobs.deletion import FOLDERS
from surgery.schemas.resolved import Learned
from tests.support.service.finished_runs import ranking_result
from tests.support.service.queued_comparisons import finish
from tests.support.service.queued_comparisons import submit as submit_comparison
from tests.support.service.queued_jobs import RESOLVED, submit, take
from tests.support.service.stored import Place, place_in

Json = dict[str, Any]
RANKING = ranking_result({"fisher": {"layer.0": 2.0, "layer.1": 1.0}}).model_dump(mode="json")


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A service without workers, in which a fine-tune runs that has one checkpoint."""
    more: Json = {}
    if request.param == "postgres":
        dsn: str = request.getfixturevalue("postgres_url")
        more["database_url"] = dsn.replace("postgresql://", "postgresql+psycopg://")
        database = Database(more["database_url"])
        database.upgrade()
        database.close()
    with place_in(tmp_path, **more) as place:
        yield place


def running(place: Place) -> str:
    """The id of the fine-tune that runs."""
    return place.kept.lease.job_id


def ask(place: Place, job_id: str, action: str) -> httpx2.Response:
    return place.api.post(f"/v1/jobs/{job_id}/{action}")


def patch(place: Place, job_id: str, body: Json, **headers: str) -> httpx2.Response:
    return place.api.patch(f"/v1/jobs/{job_id}", json=body, headers=headers)


def job_of(place: Place, job_id: str) -> Json:
    answer = place.api.get(f"/v1/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def dataset_of(place: Place) -> str:
    rows = "text,label\n" + "".join(f"word {i},{'yes' if i % 2 else 'no'}\n" for i in range(20))
    answer = place.api.post("/v1/datasets", files={"train": ("t.csv", rows.encode())})
    return str(answer.json()["id"])


def submitted(place: Place, collection: str = "rankings", **more: Any) -> Json:
    body = {"model": "tiny", "dataset": dataset_of(place), **more}
    answer = place.api.post(f"/v1/{collection}", json=body)
    assert answer.status_code == 202, answer.text
    job: Json = answer.json()
    return job


def refused(answer: httpx2.Response, *parts: str) -> Json:
    """The problem of a conflict, whose detail has all these parts."""
    assert answer.status_code == 409, answer.text
    problem: Json = answer.json()
    for part in parts:
        assert part in problem["detail"]
    return problem


# Changes.


def test_a_patch_merges(place: Place) -> None:
    job = submitted(place, name="first", metadata={"a": "1", "b": "2"})
    answer = patch(place, job["id"], {"metadata": {"b": None, "c": "3"}, "priority": 7})
    assert answer.status_code == 200, answer.text
    changed = job_of(place, job["id"])
    assert answer.json() == changed
    assert (changed["name"], changed["priority"]) == ("first", 7)
    assert changed["metadata"] == {"a": "1", "c": "3"}
    patch(place, job["id"], {"name": None, "metadata": None})
    changed = job_of(place, job["id"])
    assert (changed["name"], changed["metadata"], changed["priority"]) == (None, {}, 7)
    as_patch = place.api.patch(
        f"/v1/jobs/{job['id']}", content=b'{"name": "typed"}',
        headers={"Content-Type": "application/merge-patch+json"},
    )  # fmt: skip
    assert as_patch.json()["name"] == "typed"
    events = place.api.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    assert [event["data"] for event in events if event["type"] == "changed"] == [
        {"metadata": {"a": "1", "c": "3"}, "priority": 7}, {"name": None, "metadata": {}},
        {"name": "typed"},
    ]  # fmt: skip
    before = job_of(place, job["id"])
    assert patch(place, job["id"], {"name": "typed"}).json() == before  # nothing to change
    assert patch(place, job["id"], {}).json() == before


def test_a_patch_of_something_else_is_refused(place: Place) -> None:
    job = submitted(place)
    many = {str(i): "x" for i in range(17)}
    for body, pointer, said in (
        ({"nmae": "x"}, "/nmae", "name"),
        ({"status": "paused"}, "/status", "unknown"),
        ({"priority": 101}, "/priority", "100"),
        ({"priority": None}, "/priority", "integer"),
        ({"metadata": {"a": 1}}, "/metadata/a", "string"),
        ({"metadata": many}, "/metadata", "more than 16"),
        ({"name": "x" * 201}, "/name", "200"),
        ({"name": "a\0b"}, "/name", "NUL"),
    ):
        answer = patch(place, job["id"], body)
        assert answer.status_code == 422, body
        [fault] = answer.json()["errors"]
        assert (fault["pointer"], said in fault["detail"]) == (pointer, True), fault
    untyped = place.api.patch(f"/v1/jobs/{job['id']}", content=b"{}")
    assert untyped.status_code == 415
    assert patch(place, "rk_none", {}).status_code == 404
    assert job_of(place, job["id"]) == job_of(place, job["id"])


def test_a_priority_is_too_late_for_a_job_that_is_over(place: Place) -> None:
    job = submitted(place)
    ask(place, job["id"], "cancel")
    problem = refused(patch(place, job["id"], {"priority": 1, "name": "x"}), "name, metadata")
    assert problem["errors"][0]["pointer"] == "/priority"
    assert job_of(place, job["id"])["name"] is None
    assert patch(place, job["id"], {"name": "x"}).json()["name"] == "x"


def test_the_priority_of_a_comparison_is_its_childrens(place: Place) -> None:
    parent, children = submit_comparison(place.service.database, seeds=2)
    assert patch(place, parent, {"priority": 9}).status_code == 200
    assert {job_of(place, child)["priority"] for child in children} == {9}
    assert take(place.service.database).job_id == children[0]


# Pause, resume, cancel.


def test_links_name_what_is_possible(place: Place) -> None:
    job = submitted(place)
    actions = {"cancel", "pause", "resume", "retry"}

    def possible() -> set[str]:
        return actions & set(job_of(place, job["id"])["links"])

    assert possible() == {"cancel", "pause"}
    assert ask(place, job["id"], "pause").json()["status"] == "paused"
    assert possible() == {"cancel", "resume"}
    paused = job_of(place, job["id"])
    assert (paused["queue"], paused["terminal"]) == (None, False)
    assert [j["id"] for j in place.api.get("/v1/jobs?status=paused").json()["data"]] == [job["id"]]
    assert ask(place, job["id"], "resume").json()["status"] == "queued"
    link = job_of(place, job["id"])["links"]["cancel"]
    assert place.api.post(link).json()["status"] == "cancelled"
    assert possible() == {"retry"}
    refused(ask(place, job["id"], "pause"), "was cancelled", "possible now: retry, delete")
    refused(ask(place, job["id"], "resume"), "possible now: retry, delete")
    assert ask(place, job["id"], "cancel").json()["status"] == "cancelled"


def test_a_running_job_shows_that_it_shall_pause(place: Place) -> None:
    job = ask(place, running(place), "pause").json()
    assert (job["status"], job["pause_requested"]) == ("running", True)
    assert "resume" in job["links"]
    state_machine.release(place.service.database, place.kept.lease)
    job = job_of(place, running(place))
    assert (job["status"], job["pause_requested"], job["attempt"]) == ("paused", False, 1)
    refused(place.api.delete(f"/v1/jobs/{job['id']}"), "is paused", "resume, cancel")


def test_the_error_of_a_cancelled_job_is_a_whole_problem(place: Place) -> None:
    answer = place.api.post(
        "/v1/rankings", json={"model": "tiny", "dataset": dataset_of(place)},
        headers={"X-Request-ID": "traced-1"},
    )  # fmt: skip
    job = ask(place, answer.json()["id"], "cancel").json()
    assert job["error"] == {
        "type": "about:blank", "title": "Cancelled", "status": 409, "code": "cancelled",
        "detail": "cancelled on request", "instance": f"/v1/jobs/{job['id']}", "errors": [],
        "retriable": False, "request_id": "traced-1", "log": None,
    }  # fmt: skip
    parent, children = submit_comparison(place.service.database)
    ask(place, parent, "cancel")
    assert job_of(place, children[0])["error"]["detail"] == f"comparison {parent} was cancelled"
    assert job_of(place, parent)["error"]["code"] == "cancelled"


# Retry.


def test_a_retry_is_a_new_submission_of_the_same_request(place: Place) -> None:
    old = submitted(place, name="a", metadata={"x": "y"}, samples=8, deadline_seconds=99)
    refused(ask(place, old["id"], "retry"), "is queued", "pause, cancel")
    ask(place, old["id"], "cancel")
    patch(place, old["id"], {"name": "b"})
    answer = ask(place, old["id"], "retry")
    assert answer.status_code == 202, answer.text
    new = answer.json()
    assert answer.headers["location"] == new["links"]["self"]
    assert (new["retry_of"], new["status"], new["name"]) == (old["id"], "queued", "b")
    assert (new["metadata"], new["deadline_seconds"]) == ({"x": "y"}, 99)
    assert new["spec"] == {**old["spec"], "name": "b"}
    assert new["resolved"] == old["resolved"]
    assert job_of(place, old["id"])["retry_of"] is None


def test_a_retry_fails_where_a_submission_would(place: Place) -> None:
    old = submitted(place, "finetunes", selection={"policy": "last_k", "k": 1})
    ask(place, old["id"], "cancel")
    assert place.api.delete(f"/v1/datasets/{old['spec']['dataset']}").status_code == 204
    answer = ask(place, old["id"], "retry")
    assert (answer.status_code, answer.json()["code"]) == (422, "dataset_not_found")


def test_a_retry_of_a_ranking_that_is_stored_by_now_is_answered_with_it(place: Place) -> None:
    database = place.service.database
    old = submitted(place)
    ask(place, old["id"], "cancel")
    stored = submitted(place)
    state_machine.finish(database, take(database), RANKING, Learned())
    answer = ask(place, old["id"], "retry")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["result_of"], answer.json()["cached"]) == (stored["id"], True)
    assert answer.json()["retry_of"] == old["id"]


def test_a_child_of_a_comparison_is_neither_retried_nor_deleted_alone(place: Place) -> None:
    parent, children = submit_comparison(place.service.database)
    ask(place, parent, "cancel")
    refused(ask(place, children[0], "retry"), f"POST /v1/jobs/{parent}/retry")
    refused(place.api.delete(f"/v1/jobs/{children[0]}"), f"DELETE /v1/jobs/{parent}")
    assert not {"retry"} & set(job_of(place, children[0])["links"])


# Delete.


def rows_of(place: Place, *job_ids: str) -> int:
    """How many rows of any table belong to these jobs."""
    with place.service.database.read() as session:
        found = session.query(Job).filter(Job.id.in_(job_ids)).count()
        for table in (JobEvent, Metric, Checkpoint, Attempt):
            found += session.query(table).filter(table.job_id.in_(job_ids)).count()
    return int(found)


def test_deleting_a_job_leaves_nothing_of_it(place: Place) -> None:
    job_id = running(place)
    other = submitted(place)
    kept = rows_of(place, other["id"])
    refused(place.api.delete(f"/v1/jobs/{job_id}"), "is running", "pause, cancel")
    place.finish()
    for folder in FOLDERS:
        (place.artifacts / folder / job_id / "1" / "more").mkdir(parents=True, exist_ok=True)
    answer = place.api.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert rows_of(place, job_id) == 0
    assert not [*place.artifacts.rglob(job_id)]
    for path in (f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/events", place.path):
        assert place.api.get(path).status_code == 404
    assert place.api.delete(f"/v1/jobs/{job_id}").status_code == 404
    assert rows_of(place, other["id"]) == kept


def test_what_is_needed_is_not_deleted(place: Place) -> None:
    place.finish()
    path = f"/v1/jobs/{running(place)}"
    place.api.post(f"{place.path}/pin")
    problem = refused(place.api.delete(path), "is pinned", f"{place.path}/pin")
    assert len(problem["errors"]) == 1
    place.api.delete(f"{place.path}/pin")
    user = submitted(
        place, "finetunes", continue_from=place.kept.id,
        selection={"policy": "layers", "layers": [0]},
    )  # fmt: skip
    refused(place.api.delete(path), f"{user['id']} needs checkpoint {place.kept.id}")
    ask(place, user["id"], "pause")
    refused(place.api.delete(path), user["id"])
    ask(place, user["id"], "cancel")
    assert place.api.delete(path).status_code == 204


def test_a_ranking_stays_while_a_job_that_waits_chooses_its_layers_by_it(place: Place) -> None:
    database = place.service.database
    place.finish()
    ranking = submitted(place)
    state_machine.finish(database, take(database), RANKING, Learned())
    user = submit(database, JobKind.FINETUNE, resolved={**RESOLVED, "ranking": ranking["id"]})
    path = f"/v1/jobs/{ranking['id']}"
    refused(place.api.delete(path), f"{user} chooses its layers by a ranking")
    ask(place, user, "cancel")
    body = {"model": "tiny", "dataset": ranking["spec"]["dataset"]}
    shared = place.api.post("/v1/rankings", json=body).json()
    assert shared["result_of"] == ranking["id"]
    assert place.api.delete(path).status_code == 204
    assert place.api.delete(f"/v1/jobs/{shared['id']}").status_code == 204
    assert place.api.post("/v1/rankings", json=body).status_code == 202


@pytest.mark.parametrize("used", [False, True])
def test_a_fine_tunes_own_ranking_goes_with_it_unless_others_used_it(
    place: Place, used: bool
) -> None:
    from app.jobs.outputs import records

    database = place.service.database
    own = records.store_ranking(database, place.kept.lease, "sha256:r", {}, RANKING)
    place.finish()
    user = submit(database, JobKind.FINETUNE, resolved={**RESOLVED, "ranking": own})
    state_machine.cancel(database, user)
    if not used:
        assert place.api.delete(f"/v1/jobs/{user}").status_code == 204
    assert place.api.delete(f"/v1/jobs/{running(place)}").status_code == 204
    answer = place.api.get(f"/v1/jobs/{own}")
    assert answer.status_code == (200 if used else 404)
    assert not used or answer.json()["parent"] is None


def test_a_comparison_is_deleted_with_its_children(place: Place) -> None:
    database = place.service.database
    place.finish()
    parent, children = submit_comparison(database, seeds=2)
    for _ in children:
        finish(database, take(database))
    assert job_of(place, parent)["status"] == "succeeded"
    assert place.api.delete(f"/v1/jobs/{parent}").status_code == 204
    assert rows_of(place, parent, *children) == 0


# If-Match.


def test_a_change_of_what_has_changed_is_refused(place: Place) -> None:
    job = submitted(place)
    path = f"/v1/jobs/{job['id']}"
    tag = place.api.get(path).headers["etag"]
    assert patch(place, job["id"], {"name": "x"}, **{"If-Match": tag}).status_code == 200
    for send in (
        lambda: patch(place, job["id"], {"name": "y"}, **{"If-Match": tag}),
        lambda: place.api.delete(path, headers={"If-Match": tag}),
    ):
        answer = send()
        assert (answer.status_code, answer.json()["code"]) == (412, "changed")
    assert job_of(place, job["id"])["name"] == "x"
    now = place.api.get(path).headers["etag"]
    submitted(place, priority=50, seed=1)  # it comes first now, which is no change of the other
    either = f'"other", {now}'
    assert patch(place, job["id"], {"name": "y"}, **{"If-Match": either}).status_code == 200
    assert patch(place, job["id"], {"name": "z"}, **{"If-Match": "*"}).status_code == 200
