"""A task that an orchestrator repeats finds the job that its first try has started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from surgeon.client import ApiError, Client
from surgeon.client.steps import Blocking
from tests.support.models.mirror import TINY

BODY = {"model": TINY, "dataset": "glue/rte", "selection": {"policy": "last_k", "k": 1}}


@pytest.fixture
def client(either: TestClient) -> Iterator[Client]:
    with Client("http://127.0.0.1") as made:
        made.driver.http.close()
        made.driver = Blocking(either)  # type: ignore[arg-type]  # no socket between the two
        yield made


def ids(client: Client) -> set[str]:
    return {job["id"] for job in client.call("GET", "/v1/jobs")["data"]}


def test_tries_of_a_run_share_a_job_and_other_runs_have_their_own(client: Client) -> None:
    first = client.start_once("finetunes", BODY, "night/1")
    again = client.start_once("finetunes", BODY, "night/1")
    assert again.id == first.id
    others = [
        client.start_once("finetunes", BODY, "night/2"),
        client.start_once("finetunes", {**BODY, "name": "changed"}, "night/1"),
        client.start_once("rankings", {"model": TINY, "dataset": "glue/rte"}, "night/1"),
    ]
    assert len({first.id, *(job.id for job in others)}) == 4


def test_a_job_that_ended_badly_is_tried_again_once_a_call(client: Client) -> None:
    first = client.start_once("finetunes", BODY, "night/1").cancel()
    second = client.start_once("finetunes", BODY, "night/1")
    assert second.document["retry_of"] == first.id
    assert client.start_once("finetunes", BODY, "night/1").id == second.id
    second.cancel()
    third = client.start_once("finetunes", BODY, "night/1")
    assert third.document["retry_of"] == second.id
    assert ids(client) == {first.id, second.id, third.id}


def test_a_job_that_was_deleted_is_submitted_anew(client: Client) -> None:
    first = client.start_once("finetunes", BODY, "night/1").cancel()
    first.delete()
    second = client.start_once("finetunes", BODY, "night/1")
    assert second.document["retry_of"] is None
    assert client.start_once("finetunes", BODY, "night/1").id == second.id
    assert ids(client) == {second.id}


def test_what_is_refused_is_raised_and_can_be_put_right(client: Client) -> None:
    wrong: dict[str, Any] = {**BODY, "selection": {"policy": "last_k", "k": 9}}
    with pytest.raises(ApiError, match="9"):
        client.start_once("finetunes", wrong, "night/1")
    assert ids(client) == set()
    assert client.start_once("finetunes", BODY, "night/1").status == "queued"
