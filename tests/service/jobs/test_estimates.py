"""Estimates over HTTP: against what runs then do, and refused as a submission is."""

from __future__ import annotations

import json
from math import ceil
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from surgeon.cli import app
from tests.support.models.mirror import TINY, TINY_LAYERS
from tests.support.service.problems import ROWS, Json, problem, says, upload
from tests.support.service.services import Running, wait_until

PROBE = "measured by a worker when it started"
ASKED: Json = {"model": TINY, "dataset": "glue/rte"}


def test_every_k_is_answered_with_its_cheapest_and_its_costliest_choice(api: TestClient) -> None:
    answer = api.post("/v1/estimates", json=ASKED).json()
    named = {"model": ASKED["model"], "dataset": ASKED["dataset"]}
    dry = api.post("/v1/rankings?validate_only=true", json=named).json()
    rows_of_rte = dry["resolved"]["dataset"]["rows"]["train"]
    rows = {(row["k"], row["position"]): row for row in answer["rows"]}
    both = [(k, end) for k in range(1, TINY_LAYERS + 1) for end in ("lowest", "highest")]
    assert list(rows) == both
    assert [rows[k, "highest"]["lowest_layer"] for k in (1, 2, 3, 4)] == [3, 2, 1, 0]
    assert {rows[k, "lowest"]["lowest_layer"] for k in (1, 2, 3, 4)} == {0}
    assert rows[1, "lowest"]["activation_bytes"] >= rows[1, "highest"]["activation_bytes"]
    for row in rows.values():
        assert (
            row["optimizer_bytes"] == 2 * row["gradient_bytes"] == 8 * row["trainable_parameters"]
        )
        assert row["steps"] == 3 * ceil(rows_of_rte / 32)
        assert row["seconds"] is None
    assert answer["throughput"]["basis"] == "none"
    assert "no worker has registered" in answer["throughput"]["accuracy"]
    assert answer["lengths"]["source"] == "first_rows"
    assert answer["lengths"]["mean_tokens"] > 2
    assert answer["lengths"]["longest"] == 128  # of the rest nothing is known


def test_an_upload_is_measured_by_its_words(api: TestClient) -> None:
    dataset = upload(api, ROWS).json()["id"]
    body = {"model": TINY, "dataset": dataset, "selection": {"policy": "last_k"}, "k": [1, 4]}
    answer = api.post("/v1/estimates", json=body).json()
    assert answer["lengths"]["source"] == "words"
    assert answer["lengths"]["longest"] == 6  # three words and two more tokens
    first, second = answer["rows"]
    assert (first["k"], first["position"], first["lowest_layer"]) == (1, "exact", 3)
    assert first["prefix_cache_bytes"] > 0
    assert second["prefix_cache_bytes"] == 0


def test_a_finer_choice_an_adapter_and_the_head_alone_are_counted(api: TestClient) -> None:
    def row(**given: object) -> Json:
        answer = api.post("/v1/estimates", json={**ASKED, **given})
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()["rows"]
        return dict(found)

    head = row(selection={"policy": "head_only"})
    assert (head["k"], head["lowest_layer"], head["trainable_parameters"]) == (0, None, 34)
    part = row(
        selection={
            "policy": "layers",
            "granularity": "sublayer",
            "layers": ["encoder.layer.2.attention"],
        }
    )
    assert part["lowest_layer"] == 2
    whole = row(selection={"policy": "layers", "layers": [2]})
    assert 34 < part["trainable_parameters"] < whole["trainable_parameters"]
    embeddings = row(selection={"policy": "last_k", "k": 1, "include": ["embeddings"]})
    assert (embeddings["lowest_layer"], embeddings["prefix_cache_bytes"]) == (0, 0)
    lora = row(adapter={"type": "lora", "rank": 2})
    # Four maps of 16 to 16 and two between 16 and 32, in each of four layers.
    assert lora["trainable_parameters"] == 34 + 4 * 2 * (4 * 32 + 2 * 48)
    assert (lora["k"], lora["policy"]) == (None, "lora")


LISA: Json = {"type": "lisa", "layers": 2, "interval": 5}


def test_a_schedule_is_estimated_by_what_trains_at_once(api: TestClient) -> None:
    def row(**training: Any) -> Json:
        body = {**ASKED, "selection": {"policy": "all"}, "training": training}
        [found] = api.post("/v1/estimates", json=body).json()["rows"]
        return dict(found)

    plain, lisa = row(), row(layer_schedule=LISA)
    assert lisa["trainable_parameters"] == plain["trainable_parameters"]
    assert lisa["checkpoint_bytes"] == plain["checkpoint_bytes"] == plain["gradient_bytes"]
    assert lisa["optimizer_bytes"] == 2 * lisa["gradient_bytes"] < plain["optimizer_bytes"]


WRONG: dict[str, tuple[Json, str, tuple[str, ...]]] = {
    "too many": ({"k": [1, 9]}, "/k/1", ("at most 4",)),
    "its own too large": ({"selection": {"policy": "last_k", "k": 9}}, "/selection/k", ("at most 4",)),
    "none": ({"k": []}, "/k", ("at least 1",)),
    "k of a policy without": ({"selection": {"policy": "all"}, "k": [1]}, "/k", ("all",)),
    "an adapter and layers": ({"adapter": {"type": "bitfit"}, "k": [1]}, "/adapter", ("leave",)),
    "a metric of another task": (
        {"training": {"metric": "pearson"}}, "/training/metric", ("accuracy",),
    ),
    "more layers in turn than are chosen": (
        {"selection": {"policy": "last_k", "k": 1}, "training": {"layer_schedule": LISA}},
        "/training/layer_schedule/layers", ("draws 2 layers, and 1",),
    ),
    "a schedule of an adapter": (
        {"adapter": {"type": "bitfit"}, "training": {"layer_schedule": LISA}},
        "/training/layer_schedule", ("an adapter trains",),
    ),
    "no such part": (
        {"selection": {"policy": "layers", "layers": ["encoder.layer.7"]}},
        "/selection/layers/0", ("encoder.layer",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_a_submission_refuses_is_refused(case: str, api: TestClient) -> None:
    change, pointer, words = WRONG[case]
    answer = api.post("/v1/estimates", json={**ASKED, **change})
    assert answer.status_code == 422
    says(answer.json(), pointer, *words)


def test_an_unknown_model_is_refused(api: TestClient) -> None:
    answer = api.post("/v1/estimates", json={**ASKED, "model": "no/model"})
    assert "/model" in str(problem(answer, 422, "model_not_found")["errors"])


@pytest.mark.parametrize(
    "deployment", ["own_service", pytest.param("production_service", marks=pytest.mark.slow)]
)
def test_seconds_are_known_before_any_run(deployment: str, request: pytest.FixtureRequest) -> None:
    service: Running = request.getfixturevalue(deployment)

    def workers() -> list[Json]:
        return list(service.client.call("GET", "/v1/workers")["data"])

    wait_until(lambda: any(each["probe"] for each in workers()), 60, service.logs)
    [worker] = workers()
    assert [speed["precision"] for speed in worker["probe"]["speeds"]] == ["fp32", "bf16"]
    assert worker["probe"]["failures"] == {}
    answer = service.client.call("POST", "/v1/estimates", json=ASKED)
    basis = answer["throughput"]
    assert (basis["basis"], basis["precision"], basis["jobs"]) == (PROBE, "fp32", 0)
    assert basis["measured_at"] == worker["probed_at"]
    assert (basis["worker"], basis["device"]) == (worker["id"], worker["probe"]["device"])
    assert "a factor of about two" in basis["accuracy"]
    assert all(row["seconds"]["total"] > 0 for row in answer["rows"])
    share = {"policy": "top_share", "share": 0.5}
    ends = service.client.call("POST", "/v1/estimates", json={**ASKED, "selection": share})["rows"]
    assert [(row["k"], row["lowest_layer"]) for row in ends] == [(None, 0), (None, 3)]
    assert ends[0]["seconds"]["total"] > ends[1]["seconds"]["total"] > 0
    half = {**ASKED, "training": {"precision": "fp16"}}
    refused = service.client.call("POST", "/v1/estimates", json=half)["throughput"]
    assert (refused["basis"], refused["accuracy"]) == (
        "none", "no worker has measured precision fp16",
    )  # fmt: skip


@pytest.mark.slow
def test_a_worker_that_starts_again_does_not_measure_again(production_service: Running) -> None:
    def workers() -> list[Json]:
        return list(production_service.client.call("GET", "/v1/workers")["data"])

    wait_until(lambda: any(each["probe"] for each in workers()), 60, production_service.logs)
    production_service.start("worker", "--queues", "finetune")
    wait_until(lambda: len(workers()) == 2, 60, production_service.logs)
    again, first = workers()
    assert again["probe"] == first["probe"]
    assert again["probed_at"] == first["probed_at"] < again["started_at"]


def test_a_run_is_as_large_as_estimated_and_teaches_the_next_estimate(
    own_service: Running,
) -> None:
    call = own_service.client.call
    body: Json = {
        **ASKED, "selection": {"policy": "last_k", "k": 2},
        "training": {"epochs": 2, "max_length": 32},
    }  # fmt: skip
    dry = call("POST", "/v1/finetunes", params={"validate_only": "true"}, json=body)
    (before,) = dry["estimate"]["rows"]
    job = own_service.run("finetunes", body)
    result = job["result"]
    assert before["trainable_parameters"] == result["trainable_parameters"]
    assert dry["estimate"]["total_parameters"] == result["total_parameters"]
    assert before["steps"] == result["epochs"][-1]["step"]
    answer = call("POST", "/v1/estimates", json=body)
    assert answer["throughput"]["basis"] == "measured on this model"
    assert answer["lengths"]["job"] == job["id"]
    assert answer["lengths"]["longest"] == min(32, result["lengths"]["longest"])
    assert answer["lengths"]["mean_tokens"] == pytest.approx(
        result["throughput"]["mean_tokens"], abs=0.01
    )
    assert answer["process_bytes"] > 0
    (row,) = answer["rows"]
    assert 0 < row["seconds"]["later_epoch"] < row["seconds"]["total"]
    other = call("POST", "/v1/estimates", json={**body, "model": "tiny/other"})
    assert other["throughput"]["basis"] == "measured on other models of this device"
    assert other["lengths"]["source"] == "first_rows"  # nobody has counted this model's tokens
    assert other["rows"][0]["seconds"]["total"] > 0


def test_the_command_shows_a_line_for_each_k(own_service: Running) -> None:
    def estimate(*options: str) -> Result:
        command = ["estimate", TINY, "glue/rte", *options, "--url", own_service.client.url]
        return CliRunner().invoke(app, command)

    two = ("--policy", "last_k", "--k", "1", "--k", "3")
    shown = estimate(*two)
    assert shown.exit_code == 0, shown.output
    ks = [line.split()[:2] for line in shown.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert ks == [["1", "3"], ["3", "1"]]
    rows = json.loads(estimate(*two, "--json").stdout)["rows"]
    assert [row["k"] for row in rows] == [1, 3]
    assert estimate("--policy", "all", "--k", "1").exit_code == 2
