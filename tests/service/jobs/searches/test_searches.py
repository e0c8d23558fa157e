"""Searches on running services, from the request to the checkpoint of what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from surgeon.cli import app
from tests.support.models.mirror import REAL_MODEL, TINY
from tests.support.service.services import Running

Json = dict[str, Any]
TRAINING: Json = {"epochs": 1, "batch_size": 16, "max_length": 16}
OPTIONS: Json = {
    "families": ["single", "all"], "learning_rates": [1e-3, 1e-2], "budget_seconds": 4,
}  # fmt: skip
BODY: Json = {"model": TINY, "dataset": "glue/rte", "training": TRAINING, **OPTIONS}
TUNE: Json = {"model": TINY, "dataset": "glue/rte", "training": TRAINING}


PRODUCTION = pytest.param("production_service", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["embedded_service", PRODUCTION])
def service(request: pytest.FixtureRequest) -> Running:
    running: Running = request.getfixturevalue(request.param)
    return running


@pytest.fixture(scope="module")
def sentences(service: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a dataset of 80 short rows."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    rows = [
        f"a {'good' if i % 2 else 'bad'} film {i},{'pos' if i % 2 else 'neg'}" for i in range(80)
    ]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return service.client.upload(path).id


@pytest.fixture(scope="module")
def search(service: Running) -> Json:
    """A finished search, and every state in which it was seen."""
    seen: list[Json] = []
    submitted = service.client.submit("searches", {**BODY, "name": "mine"})
    job = service.client.wait(submitted, seen.append)
    assert job["status"] == "succeeded", (job["error"], service.logs()[-3000:])
    percents = [each["progress"]["percent"] for each in seen if each["progress"]]
    assert percents == sorted(percents)
    assert percents[-1] == 100.0
    return job


def test_a_whole_search(service: Running, search: Json) -> None:
    result = search["result"]
    assert search["id"].startswith("se_")
    assert set(result["layers"]) <= {layer["name"] for layer in result["model_layers"]}
    best = result["arms"][0]
    assert (best["rank"], best["layers"]) == (1, result["layers"])
    assert best["learning_rate"] == result["learning_rate"]
    assert result["learning_rate"] in OPTIONS["learning_rates"]
    assert {arm["family"] for arm in result["arms"]} <= {"single", "all"}
    tried = [arm for arm in result["arms"] if arm["status"] != "not_tried"]
    assert all(arm["trials"] for arm in tried)
    assert sum(arm["p_best"] for arm in result["arms"]) == pytest.approx(1, abs=0.01)
    assert result["train_rows"] + result["held_out_rows"] == search["resolved"]["rows"]["train"]
    cost = result["cost"]
    assert cost["seconds"] > 0
    assert cost["budget_seconds"] == OPTIONS["budget_seconds"]
    assert search["resolved"]["versions"]["surgery"]
    assert sum(search["usage"]["worker_seconds"].values()) > 0
    events = service.client.call("GET", f"/v1/jobs/{search['id']}/events")["data"]
    assert [e["data"]["status"] for e in events if e["type"] == "status"] == [
        "queued", "running", "succeeded",
    ]  # fmt: skip
    log = service.client.call("GET", f"/v1/jobs/{search['id']}/logs")["data"]
    assert any(line["source"] == "job" for line in log)
    listed = service.client.call("GET", "/v1/searches", params={"status": "succeeded"})["data"]
    assert search["id"] in [job["id"] for job in listed]


def test_what_it_found_is_trained_at_its_rate(service: Running, search: Json) -> None:
    selection = {"policy": "search", "search": search["id"]}
    job = service.run("finetunes", {**TUNE, "selection": selection})
    result, found = job["result"], search["result"]
    assert (result["search"], result["trained_layers"]) == (search["id"], found["layers"])
    assert result["learning_rate"] == found["learning_rate"]
    assert job["resolved"]["trainable_parameters"] == result["trainable_parameters"]
    view = service.client.call("GET", f"/v1/searches/{search['id']}/selection?format=json")
    assert [layer["name"] for layer in view["selection"]["layers"]] == found["layers"]
    assert view["trainable_parameters"] == job["resolved"]["selected_parameters"]
    rates = service.client.call("GET", f"/v1/jobs/{job['id']}/metrics", params={"limit": 200})
    measured = [m["value"] for m in rates["data"] if m["name"] == "learning_rate"]
    assert all(value <= found["learning_rate"] for value in measured)


def test_a_fine_tune_searches_first(service: Running) -> None:
    selection = {"policy": "search", "search": {**OPTIONS, "budget_seconds": 2}}
    job = service.run("finetunes", {**TUNE, "selection": selection})
    search = service.client.job(job["result"]["search"])
    assert (search["kind"], search["status"], search["parent"]) == (
        "search", "succeeded", job["id"],
    )  # fmt: skip
    assert job["result"]["trained_layers"] == search["result"]["layers"]
    assert job["result"]["learning_rate"] == search["result"]["learning_rate"]
    assert job["resolved"]["learning_rate"] == search["result"]["learning_rate"]
    assert search["spec"]["budget_seconds"] == 2
    assert search["spec"]["training"] == job["spec"]["training"]
    names = {
        metric["name"]
        for metric in service.client.call(
            "GET", f"/v1/jobs/{job['id']}/metrics", params={"limit": 200}
        )["data"]
    }
    of_the_run = {"validation_accuracy", "train_loss", "learning_rate"}
    assert names <= of_the_run | {"baseline_accuracy", "baseline_loss"}


def test_the_runs_of_an_arm_share_a_search(service: Running) -> None:
    selection = {"policy": "search", "search": {**OPTIONS, "budget_seconds": 2}}
    arms = [
        {"name": "found", "selection": selection},
        {"name": "last", "selection": {"policy": "last_k", "k": 1}},
    ]
    job = service.run("comparisons", {**TUNE, "arms": arms, "seeds": [0, 1]})
    children = service.client.call("GET", job["links"]["children"])["data"]
    (search,) = [child for child in children if child["kind"] == "search"]
    runs = [child for child in children if child["resolved"].get("arm") == "found"]
    assert len(runs) == 2
    for run in runs:
        assert run["result"]["search"] == search["id"]
        assert run["result"]["trained_layers"] == search["result"]["layers"]
        assert run["result"]["learning_rate"] == search["result"]["learning_rate"]
    (arm,) = [arm for arm in job["result"]["arms"] if arm["name"] == "found"]
    assert arm["trained_layers"] == search["result"]["layers"]


@pytest.mark.slow
def test_the_real_encoder(service: Running, sentences: str) -> None:
    body = {
        "model": REAL_MODEL, "dataset": sentences, "training": TRAINING,
        "families": ["single", "pairs", "all"], "budget_seconds": 6,
    }  # fmt: skip
    job = service.run("searches", body)
    result = job["result"]
    assert len(result["model_layers"]) == 6
    assert result["scores"]["fisher"].keys() == {layer["name"] for layer in result["model_layers"]}
    arms = [arm for arm in result["arms"] if arm["status"] != "not_tried"]
    assert {arm["family"] for arm in arms} >= {"all"}


def test_the_commands(embedded_service: Running, tmp_path: Path) -> None:
    def surgeon(*words: object) -> Any:
        url = ["--url", embedded_service.client.url]
        return CliRunner().invoke(app, [*map(str, words), *url])

    training = ["--epochs", 1, "--batch-size", 16, "--max-length", 16]
    done = surgeon(
        "search", TINY, "glue/rte", *training, "--families", "single,all",
        "--learning-rates", "0.001,0.01", "--budget-seconds", 2, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    job = json.loads(done.stdout)
    assert job["spec"]["learning_rates"] == [1e-3, 1e-2]
    shown = surgeon("watch", job["id"])
    text = " ".join(shown.output.split())
    assert f"train {', '.join(job['result']['layers'])} at" in text
    tuned = surgeon(
        "tune", TINY, "glue/rte", *training, "--search", "--search-id", job["id"], "--json"
    )
    assert tuned.exit_code == 0, tuned.output
    assert json.loads(tuned.stdout)["result"]["search"] == job["id"]
    refused = surgeon("search", TINY, "glue/rte", "--learning-rates", "fast")
    assert refused.exit_code == 2
    assert "is no number" in refused.output
    refused = surgeon("tune", TINY, "glue/rte", "--search", "--learning-rate", 0.1)
    assert refused.exit_code == 1
    assert "--learning-rate means nothing to policy search" in refused.output
